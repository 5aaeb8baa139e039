"""A quick guess of what a step takes, without compiling it: to decide which of many meshes are worth compiling for."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from equimu._types import PyTree
from equimu._values import Real
from equimu.parameterization import Tree, is_rule
from equimu.plans._mesh import MeshShape, decoder_of
from equimu.plans.machines import Machine
from equimu.runs import RunConfig
from equimu.sharding import AXES, partition_specs
from equimu.training import attention_flops, build_optimizer, hyperparameters_of, matrix_entries


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes of one device, and seconds of a step; None where the machine's figures are unknown."""

    state: int
    memory: int
    seconds: Real | None


def shapes_of(tree: PyTree) -> PyTree:
    """The shapes of the arrays that a tree of rules is for."""
    rules = eqx.filter(tree, is_rule)
    return jax.tree.map(lambda rule: jax.ShapeDtypeStruct(rule.shape, rule.dtype), rules)


def weight_bytes(tree: Tree[Any], mesh: MeshShape) -> int:
    """Bytes a device of the weights of a tree of rules, spread over a mesh."""
    sizes = dataclasses.astuple(mesh)
    specs = partition_specs(tree, AbstractMesh(sizes, AXES))
    along: dict[str, int] = dict(zip(AXES, sizes, strict=True))

    def own(x: jax.ShapeDtypeStruct, spec: Iterable[str | None]) -> int:
        parts = math.prod(along[axis] for axis in spec if axis is not None)
        return x.size // parts * x.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(own, shapes_of(tree), specs)))


def optimizer_bytes(config: RunConfig, tree: Tree[Any], weights: int) -> int:
    """Bytes a device of the optimizer's state, which is spread as the weights are: as many a byte of weights as of all."""
    shapes = shapes_of(tree)
    optimizer = build_optimizer(config.optimizer, tree, hyperparameters_of(config))
    state = jax.eval_shape(optimizer.init, shapes)
    return round(weights * _bytes(state) / _bytes(shapes))


def _bytes(shapes: PyTree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def estimate(
    config: RunConfig, tree: Tree[Any], mesh: MeshShape, machine: Machine, *, per_host: int | None = None
) -> Estimate:
    """The guess for a run on a mesh, with so many devices in each host.

    Memory: weights, optimizer and gradients; the gathered weights of two blocks; what a block hands on, kept for each
    (or, without recomputation, all that it makes); and the widest intermediates of one block. Time: the operations at the
    peak, or what goes over the links if that takes longer, and the sums over `data`, which nothing runs beside.
    """
    task, n = decoder_of(config), mesh.data * mesh.fsdp * mesh.tensor
    model, width, depth = task.model, config.size["width"], config.size["depth"]
    itemsize = jnp.dtype(model.dtype).itemsize
    weights = weight_bytes(tree, mesh)
    state = weights + optimizer_bytes(config, tree, weights)
    d_ff = int(model.d_ff_multiple * width) * (2 if model.activation == "swiglu" else 1)
    block = matrix_entries(tree.blocks) // depth
    gathered = 2 * itemsize * block // mesh.tensor if mesh.fsdp > 1 else 0
    tokens = task.text.rows * task.text.seq // (mesh.data * mesh.fsdp)
    part = tokens // config.accumulate
    handed_on = part * width * itemsize // mesh.tensor
    inside = part * (6 * width + 3 * d_ff) * itemsize // mesh.tensor
    kept = depth * (handed_on if model.remat is True else inside)
    memory = state + weights + gathered + kept + 2 * inside + 2 * part * width * itemsize
    if machine.flops is None or machine.interconnect is None:
        return Estimate(state=state, memory=memory, seconds=None)
    matrices = matrix_entries(tree)
    again = 8 if model.remat is True else 6
    flops = again * matrices * tokens * (mesh.data * mesh.fsdp) + again / 2 * attention_flops(config)
    along_fsdp = 3 * config.accumulate * itemsize * matrices / mesh.tensor * (1 - 1 / mesh.fsdp)
    passes = 3 if model.remat is True else 2
    along_tensor = 4 * passes * depth * tokens * width * itemsize * (1 - 1 / mesh.tensor)
    along_data = 2 * weights * (1 - 1 / mesh.data)

    def links(inner: int, size: int) -> Real:
        return _bandwidth(machine, inner, size, per_host or n)

    fsdp, tensor = links(mesh.tensor, mesh.fsdp), links(1, mesh.tensor)
    data = links(mesh.tensor * mesh.fsdp, mesh.data)
    seconds = max(flops / n / machine.flops, along_fsdp / fsdp) + along_tensor / tensor + along_data / data
    return Estimate(state=state, memory=memory, seconds=seconds)


def _bandwidth(machine: Machine, inner: int, size: int, per_host: int) -> Real:
    """Bytes a second that a device sends around a ring of an axis of the mesh, whose devices stand `inner` apart."""
    assert machine.interconnect is not None
    if machine.network is None or inner * size <= per_host:
        return machine.interconnect
    return min(machine.interconnect, max(1, per_host // inner) * machine.network)
