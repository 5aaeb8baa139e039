"""A quick guess of what a step takes, without compiling it: to decide which of many meshes are worth compiling for."""

import dataclasses
import math
from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from equimu._types import PyTree
from equimu.parameterization import is_rule
from equimu.plan._chips import Chip
from equimu.plan._mesh import MeshShape
from equimu.plan._needed import attention_flops, matrix_entries
from equimu.train import RunConfig
from equimu.train._mesh import AXES
from equimu.train._specs import partition_specs

_MOMENTS = {"adamw": 2, "lion": 1, "sgd": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes of one device, and seconds of a step; None where the chip is unknown."""

    state: int
    memory: int
    seconds: float | None


def shapes_of(tree: PyTree) -> PyTree:
    """The shapes of the arrays that a tree of rules is for."""
    rules = eqx.filter(tree, is_rule)
    return jax.tree.map(lambda rule: jax.ShapeDtypeStruct(rule.shape, rule.dtype), rules)


def weight_bytes(shapes: PyTree, mesh: MeshShape) -> int:
    """Bytes a device of weights of these shapes, spread over a mesh."""
    sizes = dataclasses.astuple(mesh)
    specs = partition_specs(shapes, AbstractMesh(sizes, AXES))
    along: dict[str, int] = dict(zip(AXES, sizes, strict=True))

    def own(x: jax.ShapeDtypeStruct, spec: Iterable[str | None]) -> int:
        parts = math.prod(along[axis] for axis in spec if axis is not None)
        return x.size // parts * x.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(own, shapes, specs)))


def optimizer_bytes(config: RunConfig, weights: int) -> int:
    """Bytes a device of the optimizer's state, of which each moment is spread as the weights are."""
    optimizer = config.optimizer
    moments = _MOMENTS[optimizer.name] - (optimizer.name == "sgd" and optimizer.momentum == 0)
    half = weights // 2 if optimizer.first_moment_dtype == "bfloat16" and moments else 0
    return moments * weights - half


def estimate(config: RunConfig, shapes: PyTree, mesh: MeshShape, chip: Chip | None) -> Estimate:
    """The guess for a run on a mesh.

    Memory: weights, optimizer and gradients; the gathered weights of two blocks; what a block hands on, kept for each
    (or, without recomputation, all that it makes); and the widest intermediates of one block. Time: the operations at the
    peak, or what goes over the links if that takes longer, and the sums over `data`, which nothing runs beside.
    """
    model, n = config.model, mesh.data * mesh.fsdp * mesh.tensor
    itemsize = jnp.dtype(model.dtype).itemsize
    weights = weight_bytes(shapes, mesh)
    state = weights + optimizer_bytes(config, weights)
    d_ff = int(model.d_ff_multiple * model.width) * (2 if model.activation == "swiglu" else 1)
    block = matrix_entries(shapes.blocks) // model.n_layer
    gathered = 2 * itemsize * block // mesh.tensor if mesh.fsdp > 1 else 0
    tokens = config.data.rows * config.data.seq // (mesh.data * mesh.fsdp)
    part = tokens // config.accumulate
    handed_on = part * model.width * itemsize // mesh.tensor
    inside = part * (6 * model.width + 3 * d_ff) * itemsize // mesh.tensor
    kept = model.n_layer * (handed_on if model.remat is True else inside)
    memory = state + weights + gathered + kept + 2 * inside + 2 * part * model.width * itemsize
    if chip is None:
        return Estimate(state=state, memory=memory, seconds=None)
    matrices = matrix_entries(shapes)
    again = 8 if model.remat is True else 6
    flops = again * matrices * tokens * (mesh.data * mesh.fsdp) + again / 2 * attention_flops(config)
    along_fsdp = 3 * config.accumulate * itemsize * matrices / mesh.tensor * (1 - 1 / mesh.fsdp)
    passes = 3 if model.remat is True else 2
    along_tensor = 4 * passes * model.n_layer * tokens * model.width * itemsize * (1 - 1 / mesh.tensor)
    along_data = 2 * weights * (1 - 1 / mesh.data)
    links = chip.interconnect
    seconds = max(flops / n / chip.flops, along_fsdp / links) + (along_tensor + along_data) / links
    return Estimate(state=state, memory=memory, seconds=seconds)
