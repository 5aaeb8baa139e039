"""How layers work on a part: weights that are gathered where they are used, positions, heads and vocabulary that are shared.

Inside a checked `jax.shard_map` the type of a value says over which mesh axes it varies, and that is all these functions look
at. Where nothing varies over `tensor`, and in programs without a mesh, each of them is the identity.

Along `tensor` devices share the work on one sequence. Between the layers each holds its own positions; a pair of layers (query
and output, up and down) works on all positions with its own part of the heads or hidden units, so what comes in is gathered,
and what goes out, a sum over devices, is scattered. (Korthikanti et al., arXiv 2205.05198.)
"""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Shaped

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu.attention._varying import varying_axes

FSDP, TENSOR = "fsdp", "tensor"


class Shard(eqx.Module):
    """A device's part of an array of which the devices along `fsdp` hold equal parts.

    It stands in a model where the array would. The axis is counted from the end (-1 is the last), so that a scan over
    stacked layers, which takes one in front away, changes nothing.
    """

    array: Array
    axis: int = eqx.field(static=True)


def whole(tree: PyTree, dtype: Any = None) -> PyTree:
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
    """Whether an operation gathers shards: what a backward pass should do again, and not keep."""
    return primitive.name == "all_gather" and FSDP in params["axis_name"]


def sharers(x: Array) -> int:
    """How many devices share the work along `tensor` that `x` is part of."""
    return jax.lax.axis_size(TENSOR) if TENSOR in varying_axes(x) else 1


def gather_positions(x: Float[Array, "own d_model"]) -> Float[Array, "seq d_model"]:
    """All positions, from each device's own."""
    return x if sharers(x) == 1 else jax.lax.all_gather(x, TENSOR, axis=0, tiled=True)


def scatter_positions(partial: Float[Array, "seq d_model"]) -> Float[Array, "own d_model"]:
    """The sum of all devices' parts, of each device's own positions.

    Raises:
        EquimuError: the positions do not divide.
    """
    if sharers(partial) == 1:
        return partial
    _positions_of_each(partial.shape[0], sharers(partial))
    return jax.lax.psum_scatter(partial, TENSOR, scatter_dimension=0, tiled=True)


def own_positions(x: Shaped[Array, " seq"], n: int) -> Shaped[Array, " own"]:
    """The device's own positions of what all of the n devices have.

    Raises:
        EquimuError: the positions do not divide.
    """
    if n == 1:
        return x
    size = _positions_of_each(x.shape[0], n)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(TENSOR) * size, size)


def check_share(of_what: str, total: int, own: int, n: int) -> None:
    """Raises an `EquimuError` unless the device's own part of something is one of n equal ones."""
    if own * n != total:
        raise EquimuError(
            f"{total} {of_what} do not divide over {n} devices along `tensor`; take a divisor of {total} for it"
        )


def _positions_of_each(positions: int, n: int) -> int:
    if positions % n != 0:
        raise EquimuError(f"sequences of {positions} positions do not divide over {n} devices along `tensor`")
    return positions // n
