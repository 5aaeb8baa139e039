"""The step on every mesh of up to eight devices against one program without a mesh, and what the compiled program sends."""

import functools
import re
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from equimu import EquimuError, LanguageModel, adamw, lion, mup, nn, parameterize, sp
from equimu.data import Batch
from equimu.parameterization import numbers_of, rules_of, scaled, with_numbers
from equimu.parameterization._tree import multiplied
from equimu.runs import RunConfig
from equimu.sharding import make_mesh, partition_specs, shard_batch, state_specs, with_specs
from equimu.tasks import ModelConfig, TextConfig
from equimu.training import (
    TrainState,
    build_tree,
    evaluation,
    hyperparameters_of,
    loss_and_gradient,
    program_for,
    update,
)
from equimu.training._step import Outcome

VOCAB, ROWS, SEQ, STEPS = 24, 32, 8, 5
# Eight heads for tensor=8; two key/value heads, fewer than that.
LLAMA = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "n_layer": 2,
    "head_dim": 4,
    "n_kv_head": 2,
    "activation": "swiglu",
    "d_ff_multiple": 2.0,
    "norm_gain": "vector",
    "attention_backend": "reference",  # it compiles faster
}
MESHES = [
    (data, fsdp, n // data // fsdp)
    for n in (1, 2, 4, 8)
    for data in (1, 2, 4, 8)
    for fsdp in (1, 2, 4, 8)
    if n % (data * fsdp) == 0
]
OPTIMIZERS = {
    # with this epsilon an entry whose gradient is nothing but rounding is not moved by a whole learning rate
    "adamw": functools.partial(adamw, learning_rate=2**-7, weight_decay=2**-7, eps=1e-5),
    "lion": functools.partial(lion, learning_rate=2**-9, weight_decay=2**-7),
}
TABLES = {"mup": mup, "sp": sp}


def mesh_of(shape):
    return make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])


def shapes_of(**options):
    return eqx.filter_eval_shape(functools.partial(nn.Transformer, **(LLAMA | options)), key=jax.random.key(0))


def randomised(shapes, seed=0):
    """Every array drawn anew, so that no constant start hides a mistake."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3 + (x.ndim == 1), x.dtype), shapes)


def batches(n=STEPS, vocab=VOCAB):
    rng = np.random.default_rng(1)
    made = (rng.integers(0, vocab, (2, ROWS, SEQ)).astype(np.int32) for _ in range(n))
    return [Batch(i, t, (rng.random((ROWS, SEQ)) < 0.7).astype(np.float32)) for i, t in made]


@functools.cache
def tree_of(table, optimizer):
    make = functools.partial(nn.Transformer, **{k: v for k, v in LLAMA.items() if k != "d_model"})
    family = {"adamw": "adam", "lion": "sign"}[optimizer]
    return parameterize(make, TABLES[table](optimizer=family), base={"d_model": 16}, target={"d_model": 32})


def outcome_of(apply, mesh, *, accumulate=1, **task):
    """The step's gradient of a language model without keys, buffers and state, as a function of parameters and batch."""
    gradient = loss_and_gradient(LanguageModel(**task), lambda params, _: apply(params), mesh, accumulate=accumulate)
    return lambda params, data: gradient(params, data, None, None, None)


def plain_loss(model, data, z_loss=0.0):
    """Mean cross-entropy of the counted targets, beside what is differentiated: written without the step's functions."""
    logits = jax.vmap(model)(data.inputs)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, data.targets)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    mean = jnp.sum(data.mask * each) / data.mask.sum()
    return mean + z_loss * jnp.sum(data.mask * log_z**2) / data.mask.sum(), mean


def train(params, init, gradient, step):
    """Losses, the gradient of the first step, and the parameters after the last one."""
    state, losses, first = TrainState(params, init(params), jnp.int32(0)), [], None
    for data in batches():
        outcome = gradient(state.params, data)
        first = outcome.grads if first is None else first
        losses.append(float(outcome.loss))
        state, _ = step(state, outcome)
    return np.asarray(losses), *(jax.tree.map(np.asarray, x) for x in (first, state.params))


@functools.cache
def start(wide):
    with jax.enable_x64(wide):
        return eqx.partition(randomised(shapes_of()), eqx.is_inexact_array)


@functools.cache
def one_device(table, name, wide):
    tree, (params, static) = tree_of(table, name), start(wide)
    with jax.enable_x64(wide):
        optimizer = OPTIMIZERS[name](tree)

        @jax.jit
        def gradient(params, data):
            grads, mean = jax.grad(
                lambda params: plain_loss(scaled(tree, eqx.combine(params, static)), data), has_aux=True
            )(params)
            return Outcome(mean, grads, {}, None)

        step = jax.jit(functools.partial(update, optimizer=optimizer))
        return train(params, optimizer.init, gradient, step)


def rules(name, numbers):
    """The tree with its numbers as inputs of a program: one program for all tables."""
    tree = tree_of("mup", name)
    return with_numbers(tree, jax.tree.unflatten(jax.tree.structure(numbers_of(tree)), numbers))


@functools.cache
def gradient_program(shape, accumulate, wide):
    (_, static), mesh = start(wide), mesh_of(shape)

    @jax.jit
    def gradient(numbers, params, data):
        apply = lambda params: multiplied(rules("adamw", numbers), eqx.combine(params, static))  # noqa: E731
        return outcome_of(apply, mesh, accumulate=accumulate)(params, data)

    return gradient


@functools.cache
def optimizer_programs(shape, name, wide):
    del shape, wide  # other programs

    @jax.jit
    def init(numbers, params):
        return OPTIMIZERS[name](rules(name, numbers)).init(params)

    @jax.jit
    def step(numbers, *args):
        return update(*args, optimizer=OPTIMIZERS[name](rules(name, numbers)))

    return init, step


def on_mesh(shape, accumulate, table, name, wide):
    tree, (params, _), mesh = tree_of(table, name), start(wide), mesh_of(shape)
    before = str(rules_of(tree))
    with jax.enable_x64(wide):
        gradient = gradient_program(shape, accumulate, wide)
        init, step = optimizer_programs(shape, name, wide)
        numbers = [jnp.asarray(x, jnp.float64 if wide else jnp.float32) for x in jax.tree.leaves(numbers_of(tree))]
        specs = partition_specs(params, mesh)
        params = jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), params, specs)
        found = train(
            params,
            functools.partial(init, numbers),
            lambda params, data: gradient(numbers, params, shard_batch(data, mesh)),
            functools.partial(step, numbers),
        )
    assert str(rules_of(tree)) == before
    return found


def assert_equal(found, expected, tolerance):
    """Losses, and every array, to within this share of its largest entry."""
    leaves, others = (jax.tree_util.tree_leaves_with_path(x) for x in (found, expected))
    for (path, a), (_, b) in zip(leaves, others, strict=True):
        assert a.dtype == b.dtype
        error = np.max(np.abs(a - b)) / np.max(np.abs(b))
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error}"


@pytest.mark.parametrize(
    ("shape", "accumulate", "table", "name"),
    [((2, 2, 2), 4, "mup", "adamw"), ((1, 8, 1), 1, "sp", "lion"), ((1, 2, 4), 1, "mup", "lion")],
    ids=str,
)
def test_mesh_trains_as_one_device_does(shape, accumulate, table, name):
    """In float64, where a difference is a mistake and no rounding."""
    found = on_mesh(shape, accumulate, table, name, wide=True)
    assert_equal(found, one_device(table, name, wide=True), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_every_mesh_trains_as_one_device_does(shape):
    for name in OPTIMIZERS:
        for accumulate in (1, 4):
            for table in TABLES:
                found = on_mesh(shape, accumulate, table, name, wide=False)
                assert_equal(found, one_device(table, name, wide=False), 1e-5)


OPTIONS = {
    # 25 tokens divide over no two devices: each makes the logits of its own positions
    "all": ((2, 1, 4), {"vocab_size": 25, "use_bias": True, "qk_norm": True, "embedding_norm": True}, {}),
    "tied, in chunks": ((1, 2, 2), {"tie_embeddings": True, "activation": "gelu"}, {"loss_chunk": 100, "z_loss": 0.1}),
    "tied, indivisible": ((1, 1, 2), {"tie_embeddings": True, "vocab_size": 25}, {"loss_chunk": 100, "z_loss": 0.1}),
    "projections kept": ((1, 4, 2), {"remat": "projections", "n_kv_head": 8}, {"accumulate": 2}),
    "recomputed": ((1, 4, 2), {"remat": True, "n_kv_head": 1}, {"loss_denominator": "positions"}),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_on_a_mesh_have_the_gradient_of_one_device(option):
    shape, options, of_step = OPTIONS[option]
    of_task = {name: value for name, value in of_step.items() if name != "accumulate"}
    mesh = mesh_of(shape)
    with jax.enable_x64(True):
        params, static = eqx.partition(randomised(shapes_of(**options)), eqx.is_inexact_array)
        (data,) = batches(1, options.get("vocab_size", VOCAB))
        combine = lambda params: eqx.combine(params, static)  # noqa: E731
        loss, grads, *_ = jax.jit(outcome_of(combine, mesh, **of_step))(params, shard_batch(data, mesh))
        plain = jax.jit(jax.grad(lambda p: plain_loss(combine(p), data, of_step.get("z_loss", 0.0)), has_aux=True))
        expected, mean = plain(params)
        factor = data.mask.mean() if of_step.get("loss_denominator") == "positions" else 1
        assert float(loss) == pytest.approx(float(mean), rel=1e-12)
        grads, expected = (
            {jax.tree_util.keystr(k): np.asarray(x) for k, x in jax.tree_util.tree_leaves_with_path(g)}
            for g in (grads, jax.tree.map(lambda x: x * factor, expected))
        )
        for slot in [path for path in expected if "readout_multiplier" in path]:
            assert grads.pop(slot) == expected.pop(slot) == 0
        assert_equal(grads, expected, 1e-12)
        evaluate = jax.jit(evaluation(LanguageModel(**of_task), lambda params, _: combine(params), mesh))
        placed = shard_batch((data, np.ones(ROWS, np.float32)), mesh)
        total, counted = evaluate(params, *placed, None, None, None)["loss"]
        assert float(total / counted) == pytest.approx(float(mean), rel=1e-12) and counted == data.mask.sum()


class Foreign(eqx.Module):
    """Somebody's model: Equinox's layers, and a transformer inside."""

    embedding: eqx.nn.Embedding
    trunk: nn.Transformer
    head: eqx.nn.MLP
    table: jax.Array

    def __call__(self, tokens):
        x = jnp.tanh(self.trunk(tokens)) + jax.vmap(self.embedding)(tokens)
        return jax.vmap(self.head)(x) + self.table[tokens]


def foreign(key):
    a, b, c = jax.random.split(key, 3)
    return Foreign(
        eqx.nn.Embedding(VOCAB, VOCAB, key=a),
        nn.Transformer(**LLAMA, key=b),
        eqx.nn.MLP(VOCAB, VOCAB, 32, 1, key=c),
        jnp.zeros((VOCAB, VOCAB)),
    )


def test_any_equinox_model_is_sharded_over_fsdp_and_computes_the_same():
    mesh = mesh_of((2, 2, 2))
    with jax.enable_x64(True):
        shapes = eqx.filter_eval_shape(foreign, jax.random.key(0))
        shapes, static = eqx.partition(shapes, lambda x: isinstance(x, jax.ShapeDtypeStruct))
        params = randomised(shapes)
        specs = partition_specs(shapes, mesh)
        assert specs.embedding.weight == PartitionSpec("fsdp", None)
        assert specs.head.layers[0].weight == PartitionSpec("fsdp", None)  # (32, 24)
        assert specs.head.layers[1].weight == PartitionSpec(None, "fsdp")  # (24, 32)
        assert specs.head.layers[0].bias == PartitionSpec(None)  # a vector
        assert specs.table == PartitionSpec(None, None)  # not declared
        assert specs.trunk.blocks.mlp.down.weight == PartitionSpec(None, "fsdp", None)
        (data,) = batches(1)
        combine = lambda params: eqx.combine(params, static)  # noqa: E731
        loss, grads, *_ = jax.jit(outcome_of(combine, mesh, accumulate=2))(params, shard_batch(data, mesh))
        expected, mean = jax.jit(jax.grad(lambda p: plain_loss(combine(p), data), has_aux=True))(params)
        assert_equal(jax.tree.map(np.asarray, (loss, grads)), jax.tree.map(np.asarray, (mean, expected)), 1e-12)


# --- where arrays lie


def test_specs_take_the_declared_axes():
    specs = partition_specs(shapes_of(use_bias=True), mesh_of((2, 2, 2)))
    attention, mlp = specs.blocks.attention, specs.blocks.mlp
    assert attention.query.weight == mlp.up.weight == mlp.gate.weight == PartitionSpec(None, "fsdp", "tensor")
    assert attention.output.weight == mlp.down.weight == PartitionSpec(None, "tensor", "fsdp")
    assert attention.query.bias == mlp.up.bias == PartitionSpec(None, "tensor")
    assert attention.output.bias == specs.blocks.mlp_norm.gain == PartitionSpec(None, None)
    assert specs.embedding.weight == PartitionSpec("tensor", "fsdp")
    assert specs.unembedding.weight == PartitionSpec("fsdp", "tensor")
    # two key/value heads: shared by two devices, whole on each of four
    assert attention.key.weight == PartitionSpec(None, "fsdp", "tensor")
    specs = partition_specs(shapes_of(), mesh_of((1, 2, 4)))
    assert specs.blocks.attention.key.weight == PartitionSpec(None, "fsdp", None)


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor"])
def test_optimizer_state_lies_as_its_parameters(name):
    mesh, params = mesh_of((2, 2, 2)), shapes_of()
    tree = tree_of("mup", name if name in OPTIMIZERS else "adamw")
    optimizer = OPTIMIZERS[name](tree) if name in OPTIMIZERS else optax.adafactor(0.1, min_dim_size_to_factor=1000)
    specs = partition_specs(params, mesh)
    state = jax.eval_shape(optimizer.init, params)
    placed = state_specs(optimizer, params, specs, mesh)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(specs), strict=True)
    # Arrays of one shape may lie in several ways (query and output): each way as often as among the parameters.
    expected = sorted(f"{x.shape} {spec}" for x, spec in pairs if x.ndim > 1)
    found = sorted(
        f"{x.shape} {spec}"
        for x, spec in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True)
        if x.ndim > 1
    )
    assert found == sorted(expected * (2 if name == "adamw" else 1))


def test_memory_of_the_state_falls_with_the_devices():
    config = RunConfig(
        task=LanguageModel(
            model=ModelConfig(head_dim=8, attention_backend="reference"), text=TextConfig(rows=8, seq=8)
        ),
        size={"width": 64, "depth": 1},
        base={"width": 32},
    )
    tree = build_tree(config, 8)

    def bytes_of(shape):
        mesh = mesh_of(shape)
        state = program_for(config, tree, mesh)[0].state_like
        held = sum(np.prod(x.sharding.shard_shape(x.shape), dtype=int) * x.dtype.itemsize for x in state)
        counted = jax.jit(lambda state: state).lower(state).compile().memory_analysis()
        return held, counted.argument_size_in_bytes

    whole, argument = bytes_of((1, 1, 1))
    assert argument == pytest.approx(whole, rel=0.01)
    for shape in ((1, 2, 1), (1, 4, 1), (1, 8, 1), (1, 4, 2), (1, 1, 8), (2, 4, 1)):
        held, argument = bytes_of(shape)
        assert held == pytest.approx(whole / (shape[1] * shape[2]), rel=0.001), shape
        assert argument == pytest.approx(held, rel=0.02), shape


@pytest.mark.slow
def test_run_on_a_mesh_starts_from_the_same_weights_and_loses_the_same():
    model = ModelConfig(head_dim=4, n_kv_head=2, activation="swiglu", d_ff_multiple=2.0, vocab_size=VOCAB)
    config = RunConfig(
        task=LanguageModel(model=model, text=TextConfig(rows=ROWS, seq=SEQ), z_loss=1e-3, loss_chunk=24),
        size={"width": 32, "depth": 2},
        base={"width": 32},
        accumulate=2,
    )
    tree, hyper = build_tree(config, ROWS), hyperparameters_of(config)
    found = {}
    for shape in ((1, 1, 1), (2, 2, 2)):
        mesh = mesh_of(shape)
        program, numbers = program_for(config, tree, mesh)
        compiled = program.compiled(shard_batch(batches(1)[0], mesh), numbers, hyper)
        state = compiled.init(numbers, hyper, jax.random.key(0))
        assert [x.sharding for x in state] == [x.sharding for x in program.state_like]
        start, losses = [np.asarray(x) for x in state], []
        for data in batches(3):
            state, metrics = compiled.step(state, shard_batch(data, mesh), numbers, hyper, np.bool_(True))
            losses += [float(x) for x in (metrics.loss, metrics.grad_norm, metrics.update_rms)]
        assert [x.sharding for x in state] == [x.sharding for x in program.state_like]
        placed = shard_batch((batches(1)[0], np.ones(ROWS, np.float32)), mesh)
        total, counted = compiled.evaluate(state, *placed, numbers)["loss"]
        found[shape] = start, [*losses, float(total / counted)]
    (start, losses), (other_start, other_losses) = found.values()
    for a, b in zip(start, other_start, strict=True):
        np.testing.assert_array_equal(a, b)
    assert other_losses == pytest.approx(losses, rel=1e-5)


# --- what the compiled program sends


def groups_of(sizes, axes):
    """The groups of devices along these axes of a mesh of these sizes, as positions in it."""
    places = np.arange(np.prod(list(sizes.values()))).reshape(list(sizes.values()))
    rest = [i for i, name in enumerate(sizes) if name not in axes]
    moved = np.moveaxis(places, rest, range(len(rest)))
    return frozenset(map(frozenset, moved.reshape(-1, int(np.prod([sizes[a] for a in axes]))).tolist()))


def replica_groups(line):
    """Of a collective: XLA lists them, `{{0,1},{2,3}}`, or names axes, `mesh['data'=2,'fsdp'=2] {'fsdp'}`."""
    listed = re.search(r"replica_groups=\{(\{.*?\})\}", line)
    if listed:
        return frozenset(frozenset(map(int, g.split(","))) for g in re.findall(r"\{([\d,]+)\}", listed[1]))
    sizes, axes = re.search(r"replica_groups=mesh\[(.*?)\](?: \{(.*?)\})?", line).groups()
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes)}
    return groups_of(sizes, re.findall(r"'(\w+)'", axes) if axes else list(sizes))


def collectives(text, mesh):
    """(in a loop?, operation, mesh axes, shapes of what comes out) of every collective of an optimized program."""
    names = {
        groups_of(mesh.shape, axes): axes
        for axes in [("data",), ("fsdp",), ("tensor",), ("data", "fsdp"), (*mesh.axis_names,)]
    }
    found, computation = [], ""
    for line in text.splitlines():
        if line[:1] in ("%", "E"):
            computation = line.split()[0]
        made = re.search(
            r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(", line
        )
        if made:
            shapes = [tuple(map(int, s.split(","))) if s else () for s in re.findall(r"\w\d+\[([\d,]*)\]", made[1])]
            found.append((computation, made[2], names[replica_groups(line)], shapes))
    return found


@functools.cache
def program_text(shape, accumulate, **options):
    """The optimized program of a gradient, and the unoptimized one."""
    mesh = mesh_of(shape)
    params, static = eqx.partition(shapes_of(**options), lambda x: isinstance(x, jax.ShapeDtypeStruct))
    combine = lambda params: eqx.combine(params, static)  # noqa: E731
    gradient = outcome_of(combine, mesh, accumulate=accumulate, loss_chunk=16)
    params = with_specs(params, partition_specs(params, mesh), mesh)
    lowered = jax.jit(gradient).lower(params, shard_batch(batches(1)[0], mesh))
    return lowered.compile().as_text(), lowered.as_text()


def test_program_sends_what_it_should_and_nothing_else():
    mesh, layers, vocab, d = mesh_of((2, 2, 2)), 3, 4096, 32
    text, _ = program_text((2, 2, 2), 2, remat=True, n_layer=layers, vocab_size=vocab)
    sent = collectives(text, mesh)
    matrices = 7  # query, key, value, output, gate, up, down
    # What each loop body has of weights (two axes) and of activations (rows, positions, width).
    bodies = {}
    for where, operation, axes, shapes in sent:
        if len(shapes) == 1 and axes in (("fsdp",), ("tensor",)):
            bodies.setdefault(where, []).append((operation, *axes))
    count = lambda where: {kind: bodies[where].count(kind) for kind in sorted(set(bodies[where]))}  # noqa: E731
    forward = {("all-gather", "fsdp"): matrices, ("all-gather", "tensor"): 2, ("reduce-scatter", "tensor"): 2}
    # Recomputed: both gathers of positions, and the scatter between the two halves of the block; then their transposes.
    backward = {
        ("all-gather", "fsdp"): matrices,
        ("reduce-scatter", "fsdp"): matrices,
        ("all-gather", "tensor"): 2 + 2,
        ("reduce-scatter", "tensor"): 1 + 2,
    }
    found = [count(where) for where in bodies]
    assert found.count(forward) == 1 and found.count(backward) == 1, found
    # Beside the layers: embedding and unembedding are gathered and scattered once, and the embedding's pair is the third.
    others = [kind for where in bodies if count(where) not in (forward, backward) for kind in bodies[where]]
    assert others.count(("all-gather", "fsdp")) == others.count(("reduce-scatter", "fsdp")) == 2
    # Over `data` gradients are summed once an update: outside of all loops, together.
    along_data = [(where, operation, shapes) for where, operation, axes, shapes in sent if "data" in axes]
    assert {(where, operation) for where, operation, _ in along_data} == {("ENTRY", "all-reduce")}
    stacked = [shapes for *_, shapes in along_data if any(len(shape) == 3 for shape in shapes)]
    assert len(stacked) == 1 and len(stacked[0]) >= matrices
    # No gather of all layers, nor of more than the largest array, which is the device's share of the embedding.
    gathered = [shape for _, operation, _, shapes in sent if operation == "all-gather" for shape in shapes]
    assert max(np.prod(shape) for shape in gathered) == vocab // 2 * d
    assert all(shape[0] != layers for shape in gathered if len(shape) == 3)
    assert {operation for _, operation, *_ in sent} == {"all-gather", "all-reduce", "reduce-scatter"}


def test_full_logits_are_never_in_memory():
    """Of 32 rows of 8 positions, each of 8 devices has 64 at a time, and 16 in a chunk."""
    text, _ = program_text((2, 2, 2), 2, remat=True, n_layer=3, vocab_size=4096)
    sizes = {int(np.prod([int(n) for n in s.split(",")])) for s in re.findall(r"f32\[([\d,]+)\]", text)}
    share = 4096 // 2
    assert 16 * share in sizes
    assert max(sizes) == max(share * 32, 16 * share)


def test_weights_travel_in_the_compute_dtype():
    _, text = program_text((1, 8, 1), 1, dtype=jnp.bfloat16, n_kv_head=8, n_layer=3)
    kinds = re.findall(r"stablehlo.(all_gather|reduce_scatter).*?\n?.*?-> tensor<[\dx]*(\w+)>", text)
    assert kinds.count(("all_gather", "bf16")) >= 8
    # The embedding alone: many tokens add to one row of its gradient.
    assert kinds.count(("all_gather", "f32")) == 1


def test_gathered_weights_are_not_kept_for_the_backward_pass():
    """Without remat everything else is: of three layers together there are activations, but no whole matrices."""
    text, _ = program_text((1, 8, 1), 1, dtype=jnp.bfloat16, n_kv_head=8, n_layer=3)
    stacked = set(re.findall(r"\[3,[\d,]+\]", text))
    assert "[3,4,8,64]" in stacked or "[3,4,8,32]" in stacked
    assert "[3,32,8]" in stacked or "[3,4,64]" in stacked  # the device's part of a matrix
    assert not stacked & {"[3,32,32]", "[3,32,64]", "[3,64,32]"}


@pytest.mark.slow
def test_time_to_compile_does_not_grow_with_depth():
    mesh = mesh_of((2, 2, 2))

    def seconds(layers):
        params, static = eqx.partition(shapes_of(n_layer=layers), lambda x: isinstance(x, jax.ShapeDtypeStruct))
        params = with_specs(params, partition_specs(params, mesh), mesh)
        gradient = outcome_of(lambda params: eqx.combine(params, static), mesh)
        begin = time.process_time()
        jax.jit(gradient).lower(params, shard_batch(batches(1)[0], mesh)).compile()
        return time.process_time() - begin

    seconds(2)  # what is done once in a process
    shallow, deep = (min(seconds(layers) for _ in range(2)) for layers in (12, 96))
    assert deep < 1.3 * shallow, (shallow, deep)


# --- what cannot be


@pytest.mark.parametrize(
    ("options", "shape", "words"),
    [
        ({"d_model": 12, "n_kv_head": 3}, (1, 1, 2), "3 query heads do not divide over 2 devices along `tensor`"),
        ({"d_model": 24, "n_kv_head": 3}, (1, 1, 2), "3 key/value heads and 2 devices"),
        ({"d_ff_multiple": 0.5, "d_model": 36, "head_dim": 6}, (1, 1, 4), "6 query heads do not divide over 4"),
        ({"d_ff_multiple": 0.6, "n_kv_head": 8}, (1, 1, 2), "19 hidden units of the MLP do not divide over 2"),
    ],
    ids=str,
)
def test_sizes_that_do_not_divide_over_the_mesh_say_so(options, shape, words):
    params, static = eqx.partition(shapes_of(**options), lambda x: isinstance(x, jax.ShapeDtypeStruct))
    gradient = outcome_of(lambda params: eqx.combine(params, static), mesh_of(shape))
    with pytest.raises(EquimuError, match=re.escape(words)) as caught:
        jax.eval_shape(gradient, params, batches(1)[0])
    assert "\n" not in str(caught.value)


def test_positions_and_rows_that_do_not_divide_say_so():
    params, static = eqx.partition(shapes_of(), lambda x: isinstance(x, jax.ShapeDtypeStruct))
    gradient = outcome_of(lambda params: eqx.combine(params, static), mesh_of((1, 1, 2)))
    short = Batch(*(x[:, :7] for x in batches(1)[0]))
    with pytest.raises(EquimuError, match="sequences of 7 positions do not divide over 2 devices along `tensor`"):
        jax.eval_shape(gradient, params, short)
    with pytest.raises(EquimuError, match=re.escape("6 rows do not divide over 4 devices (data 2 × fsdp 2)")):
        shard_batch(Batch(*(x[:6] for x in batches(1)[0])), mesh_of((2, 2, 2)))
