"""The shape of the learning rate over a run: warm-up, then a schedule."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._errors import EquimuError, nearest
from equimu._types import Scalar
from equimu._values import Count, Index, NotNegative, check_function, checked, is_traced

Schedule: TypeAlias = Callable[[Any], Any]
"""A function from the number of updates done to the factor on the next one."""
_NAME = re.compile(r"[A-Za-z_]\w*")
_STABLE = 0.8  # share of the steps after the warm-up


class Progress(NamedTuple):
    """How far a run is, past its warm-up; scalars that are traced.

    - `share`: of the steps after the warm-up, 0 at the first and 1 at the end.
    - `step`: updates done, those of the warm-up included.
    - `warmup`, `total`: steps of the warm-up, and of the run.
    """

    share: Any
    step: Any
    warmup: Any
    total: Any


Shape: TypeAlias = Callable[[Progress], Any]


_REGISTERED: dict[str, Shape] = {
    "linear": lambda at: 1 - at.share,
    "cosine": lambda at: (1 + jnp.cos(jnp.pi * at.share)) / 2,
    "constant": lambda at: jnp.ones_like(at.share),
    # warm-up, stable, decay
    "wsd": lambda at: jnp.minimum(1.0, (1 - at.share) / (1 - _STABLE)),
    "inverse_sqrt": lambda at: jnp.sqrt(jnp.maximum(at.warmup, 1) / jnp.maximum(at.step, jnp.maximum(at.warmup, 1))),
}
_OWN = frozenset(_REGISTERED)


def register_schedule(name: str, shape: Shape) -> None:
    """Gives a schedule a name, by which configs and the command line call it: `--optimizer.schedule mine`.

    Registering a name again replaces its function.

    Args:
        name: letters, digits and underscores, not one of this library's.
        shape: from a `Progress` to the factor, 1 at the end of the warm-up; 0 becomes the run's `floor`.

    Raises:
        EquimuError: the name is taken or cannot be one, or the shape is not a function.

    Example:
        >>> register_schedule("quadratic", lambda at: (1 - at.share) ** 2)
    """
    if checked("the name of a schedule", name, str) in _OWN:
        raise EquimuError(f"{name!r} is a schedule of equimu's own; choose another name")
    if not _NAME.fullmatch(name):
        raise EquimuError(f"the name of a schedule is letters, digits and underscores, got {name!r}")
    check_function("shape", shape, "from a Progress to a factor")
    _REGISTERED[name] = shape


def check_schedule(what: str, name: str) -> None:
    """Raises an `EquimuError`, with the nearest valid name, unless a schedule has this name."""
    if name not in _REGISTERED:
        raise EquimuError(f"{what} {name!r} is unknown: {nearest(name, _REGISTERED)}")


def warmup_schedule(
    *,
    total: int | Int[Array, ""],
    warmup: int | Int[Array, ""],
    decay: str = "linear",
    floor: Scalar = 1e-4,
) -> Schedule:
    """A factor on every update: `floor` → 1 over the warm-up, then as a schedule says, down to `floor` at the end.

    Lingle's shape (arXiv 2404.05728). Lengths and floor may be traced: one compilation serves every length.

    Args:
        total: steps of the run.
        warmup: steps of the warm-up; 0 for none.
        decay: from 1 at the end of the warm-up: `"linear"` or `"cosine"` to `floor` at step `total`; `"constant"`; `"wsd"`,
            constant for four fifths of the others and then linear; `"inverse_sqrt"`, √(warmup / step); or a registered one.
        floor: the factor at the very first and the very last update.

    Returns:
        A function from the number of updates done (0 at the first) to the factor.

    Raises:
        EquimuError: unknown decay.
    """
    check_schedule("decay", decay)
    for name, value, hint in (("total", total, Count), ("warmup", warmup, Index), ("floor", floor, NotNegative)):
        if not is_traced(value):
            checked(name, value, hint)
    shape = _REGISTERED[decay]

    def factor(step: Int[Array, ""] | int) -> Float[Array, ""]:
        n = jnp.asarray(step, jnp.float32)
        rising = floor + (1 - floor) * n / jnp.maximum(warmup, 1)
        share = jnp.clip((n - warmup) / jnp.maximum(total - warmup, 1), 0, 1)
        return jnp.where(n < warmup, rising, floor + (1 - floor) * shape(Progress(share, n, warmup, total)))

    return factor
