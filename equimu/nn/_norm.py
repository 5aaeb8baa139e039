"""Root-mean-square normalisation."""

from typing import Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from equimu._errors import EquimuError, nearest
from equimu._values import NotNegative, Real, Size, check
from equimu.declarations import register_axes

Gain: TypeAlias = Literal["none", "vector", "scalar"]
"""Trainable gains of a norm: none, one for each feature, or one for all."""


def rms_norm(x: Float[Array, "*seq d_model"], *, eps: Real = 1e-5) -> Float[Array, "*seq d_model"]:
    """`x / sqrt(mean(x²) + eps)` over the last axis, in float32 or better; the result has its input's dtype."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + eps)).astype(x.dtype)


class RMSNorm(eqx.Module):
    """`rms_norm`, times a trainable gain: none, one per feature, or a single one. Gains start at 1."""

    gain: Float[Array, "..."] | None
    eps: Real = eqx.field(static=True)
    kind: Gain = eqx.field(static=True)

    def __init__(self, d_model: int, *, gain: Gain = "none", eps: Real = 1e-5):
        """
        Args:
            d_model: size of the normalised axis.
            gain: `"none"`, `"vector"` (one per feature) or `"scalar"`.
            eps: added to the mean square, inside the root.

        Raises:
            EquimuError: unknown kind of gain.
        """
        check(Size, d_model=d_model)
        check(NotNegative, eps=eps)
        if gain not in get_args(Gain):
            raise EquimuError(f"gain {gain!r} is unknown: {nearest(gain, get_args(Gain))}")
        self.gain = {"none": None, "vector": jnp.ones(d_model), "scalar": jnp.ones(())}[gain]
        self.eps = eps
        self.kind = gain

    def __call__(self, x: Float[Array, "*seq d_model"]) -> Float[Array, "*seq d_model"]:
        y = rms_norm(x, eps=self.eps)
        return y if self.gain is None else y * self.gain.astype(x.dtype)


register_axes(RMSNorm, gain=lambda norm: ("out",) if norm.kind == "vector" else ())
