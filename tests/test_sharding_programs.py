"""What the compiled programs of steps on a mesh send and keep."""

import functools
import re
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import batches, mesh_of, outcome_of, shapes_of

from equimu.sharding import partition_specs, shard_batch, with_specs


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


@pytest.mark.long
def test_weights_travel_in_the_compute_dtype():
    _, text = program_text((1, 8, 1), 1, dtype=jnp.bfloat16, n_kv_head=8, n_layer=3)
    kinds = re.findall(r"stablehlo.(all_gather|reduce_scatter).*?\n?.*?-> tensor<[\dx]*(\w+)>", text)
    assert kinds.count(("all_gather", "bf16")) >= 8
    # The embedding alone: many tokens add to one row of its gradient.
    assert kinds.count(("all_gather", "f32")) == 1


@pytest.mark.long
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
