"""Weights of which the devices along `fsdp` hold equal parts, and that are gathered where they are used."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from equimu._types import PyTree
from equimu.sharding._mesh import FSDP


class Shard(eqx.Module):
    """A device's part of an array of which the devices along `fsdp` hold equal parts.

    It stands in a model where the array would. The axis is counted from the end (-1 is the last), so that a scan over
    stacked layers, which takes one in front away, changes nothing.
    """

    array: Array
    axis: int = eqx.field(static=True)


def gather_shards(tree: PyTree, dtype: Any = None) -> PyTree:
    """The tree with every `Shard` gathered, in this dtype if one is given: that halves what is sent for bfloat16.

    What is mesh-aware gathers its own shards, and is left as it is. The gradient of a gathered array is summed over the
    devices, each getting its part.
    """

    def gather(x: Any) -> Any:
        if not isinstance(x, Shard):
            return x
        array = x.array if dtype is None else x.array.astype(dtype)
        return jax.lax.all_gather(array, FSDP, axis=array.ndim + x.axis, tiled=True)

    return jax.tree.map(gather, tree, is_leaf=lambda x: isinstance(x, Shard) or is_mesh_aware(x))


def is_mesh_aware(model: Any) -> bool:
    """Whether a module gathers its shards itself, where it uses them, and shares its work along `tensor`.

    A class says so by `mesh_aware: ClassVar[bool] = True`. Any other model is given its weights whole.
    """
    return getattr(model, "mesh_aware", False)


def is_gather_of_shards(primitive: Any, *_: Any, **params: Any) -> bool:
    """Whether an operation gathers shards: what a backward pass should do again, and not keep.

    Args:
        primitive: of the operation, as policies of `jax.checkpoint` are given it.
        params: its parameters.
    """
    return primitive.name == "all_gather" and FSDP in params["axis_name"]
