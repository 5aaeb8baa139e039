"""A mapped axis merged into an axis of an array, and taken out of it again: what `jax.vmap` does for a larger batch."""

import jax.numpy as jnp
from jaxtyping import Array


class NotLarger(Exception):
    """An array is not simply larger along one axis where the batch is."""


def grown_axis(shape: tuple[int, ...], larger: tuple[int, ...], n: int) -> int | None:
    """The axis along which an array is `n` times as large, or None where it is the same array.

    Raises:
        NotLarger: it is neither.
    """
    if len(shape) != len(larger):
        raise NotLarger
    grown = [axis for axis, (a, b) in enumerate(zip(shape, larger, strict=True)) if a != b]
    if len(grown) > 1 or any(larger[axis] != n * shape[axis] for axis in grown):
        raise NotLarger
    return grown[0] if grown else None


def merged(x: Array, mapped: int | None, larger: tuple[int, ...], n: int) -> Array:
    """The array with its mapped axis (None: it is the same for all) merged into the axis that grows.

    Raises:
        NotLarger: no axis of it grows, although it is mapped over more than one.
    """
    shape = x.shape if mapped is None else (*x.shape[:mapped], *x.shape[mapped + 1 :])
    axis = grown_axis(shape, larger, n)
    if axis is None:
        if mapped is None:
            return x
        if n > 1:
            raise NotLarger
        axis = 0
    x = jnp.broadcast_to(x, (n, *shape)) if mapped is None else jnp.moveaxis(x, mapped, 0)
    return jnp.moveaxis(x, 0, axis).reshape(larger)


def taken_out(x: Array, shape: tuple[int, ...], n: int) -> tuple[Array, int | None]:
    """The array with the mapped axis on its own again, and where that is; None: it is the same for all.

    Raises:
        NotLarger: it is neither larger along one axis nor the same.
    """
    axis = grown_axis(shape, x.shape, n)
    if axis is None:
        return x, None
    return x.reshape(*shape[:axis], n, *shape[axis:]), axis
