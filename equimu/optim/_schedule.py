"""The shape of the learning rate over a run: warm-up, then decay."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._errors import EquimuError, nearest
from equimu._types import Scalar
from equimu._values import Count, Index, NotNegative, checked, is_traced

Decay: TypeAlias = Literal["linear", "cosine", "constant"]
Schedule: TypeAlias = Callable[[Any], Any]


def warmup_schedule(
    *,
    total: int | Int[Array, ""],
    warmup: int | Int[Array, ""],
    decay: Decay = "linear",
    floor: Scalar = 1e-4,
) -> Schedule:
    """A factor on every update: `floor` → 1 over the warm-up, then down to `floor` at the end.

    Lingle's shape (arXiv 2404.05728). Lengths and floor may be traced: one compilation serves every length.

    Args:
        total: steps of the run.
        warmup: steps of the warm-up; 0 for none.
        decay: from 1 at the end of the warm-up: `"linear"` or `"cosine"` to `floor` at step `total`, or `"constant"`.
        floor: the factor at the very first and the very last update.

    Returns:
        A function from the number of updates done (0 at the first) to the factor.

    Raises:
        EquimuError: unknown decay.
    """
    if decay not in get_args(Decay):
        raise EquimuError(f"decay {decay!r} is unknown: {nearest(decay, get_args(Decay))}")
    for name, value, hint in (("total", total, Count), ("warmup", warmup, Index), ("floor", floor, NotNegative)):
        if not is_traced(value):
            checked(name, value, hint)

    def factor(step: Int[Array, ""] | int) -> Float[Array, ""]:
        n = jnp.asarray(step, jnp.float32)
        rising = floor + (1 - floor) * n / jnp.maximum(warmup, 1)
        progress = jnp.clip((n - warmup) / jnp.maximum(total - warmup, 1), 0, 1)
        shape = {
            "linear": 1 - progress,
            "cosine": (1 + jnp.cos(jnp.pi * progress)) / 2,
            "constant": jnp.ones_like(progress),
        }[decay]
        return jnp.where(n < warmup, rising, floor + (1 - floor) * shape)

    return factor
