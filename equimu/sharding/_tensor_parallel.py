"""Work that the devices along `tensor` share: positions, heads and vocabulary.

Inside a checked `jax.shard_map` the type of a value says over which mesh axes it varies, and that is all these functions look
at. Where nothing varies over `tensor`, and in programs without a mesh, each of them is the identity.

Along `tensor` devices share the work on one sequence. Between the layers each holds its own positions; a pair of layers (query
and output, up and down) works on all positions with its own part of the heads or hidden units, so what comes in is gathered,
and what goes out, a sum over devices, is scattered. (Korthikanti et al., arXiv 2205.05198.)
"""

import jax
from jaxtyping import Array, Float, Shaped

from equimu._errors import EquimuError
from equimu._varying import varying_axes
from equimu.sharding._mesh import TENSOR


def tensor_parallel_size(x: Array) -> int:
    """How many devices share the work along `tensor` that `x`, of any shape, is part of."""
    return jax.lax.axis_size(TENSOR) if TENSOR in varying_axes(x) else 1


def gather_positions(x: Float[Array, "own d_model"]) -> Float[Array, "seq d_model"]:
    """All positions, from each device's own.

    Args:
        x: the device's own positions.
    """
    return x if tensor_parallel_size(x) == 1 else jax.lax.all_gather(x, TENSOR, axis=0, tiled=True)


def scatter_positions(partial: Float[Array, "seq d_model"]) -> Float[Array, "own d_model"]:
    """The sum of all devices' parts, of each device's own positions.

    Args:
        partial: the device's part of the sum, at all positions.

    Raises:
        EquimuError: the positions do not divide.
    """
    if tensor_parallel_size(partial) == 1:
        return partial
    _positions_of_each(partial.shape[0], tensor_parallel_size(partial))
    return jax.lax.psum_scatter(partial, TENSOR, scatter_dimension=0, tiled=True)


def own_positions(x: Shaped[Array, " seq"], n: int) -> Shaped[Array, " own"]:
    """The device's own positions of what all of the n devices have.

    Args:
        x: of all positions.
        n: devices along `tensor`.

    Raises:
        EquimuError: the positions do not divide.
    """
    if n == 1:
        return x
    size = _positions_of_each(x.shape[0], n)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(TENSOR) * size, size)


def check_share(of_what: str, total: int, own: int, n: int) -> None:
    """Raises an `EquimuError` unless the device's own part of something is one of n equal ones.

    Args:
        of_what: what an error calls it.
        total: entries of the whole.
        own: entries of the device's part.
        n: parts.
    """
    if own * n != total:
        raise EquimuError(
            f"{total} {of_what} do not divide over {n} devices along `tensor`; take a divisor of {total} for it"
        )


def _positions_of_each(positions: int, n: int) -> int:
    if positions % n != 0:
        raise EquimuError(f"sequences of {positions} positions do not divide over {n} devices along `tensor`")
    return positions // n
