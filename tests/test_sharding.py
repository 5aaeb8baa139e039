"""The step on every mesh of up to eight devices against one program without a mesh, and what the compiled program sends."""

import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from meshes import LLAMA, ROWS, SEQ, VOCAB, batches, mesh_of, outcome_of, randomised, shapes_of
from tiers import long_but

from equimu import EquimuError, LanguageModel, adamw, lion, mup, nn, parameterize, sp
from equimu.data import Batch
from equimu.parameterization import numbers_of, rules_of, scaled, with_numbers
from equimu.parameterization._tree import multiplied
from equimu.runs import RunConfig
from equimu.sharding import partition_specs, shard_batch, state_specs
from equimu.tasks import ModelConfig, TextConfig
from equimu.training import (
    TrainState,
    build_tree,
    evaluation,
    hyperparameters_of,
    program_for,
    update,
)
from equimu.training._step import Outcome

pytestmark = pytest.mark.usefixtures("light_compilation")

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


@functools.cache
def tree_of(table, optimizer):
    make = functools.partial(nn.Transformer, **{k: v for k, v in LLAMA.items() if k != "d_model"})
    family = {"adamw": "adam", "lion": "sign"}[optimizer]
    return parameterize(make, TABLES[table](optimizer=family), base={"d_model": 16}, target={"d_model": 32})


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


@pytest.mark.long
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


@pytest.mark.parametrize("option", long_but(("tied, in chunks",), list(OPTIONS)))
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


@pytest.mark.long
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
