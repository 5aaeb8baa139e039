"""Rotary position embedding (arXiv 2104.09864), half-split."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._values import Real


def rotary(
    x: Float[Array, "seq heads head_dim"], positions: Int[Array, " seq"], *, base: Real
) -> Float[Array, "seq heads head_dim"]:
    """Rotates the pair (x[j], x[j + head_dim/2]) by the angle position · base^(-j / (head_dim/2)).

    Angles and rotation are in float32 or better; the result has its input's dtype.

    Args:
        x: queries or keys.
        positions: the position of each row.
        base: wavelength base, commonly 10 000.
    """
    half = x.shape[-1] // 2
    wide = jnp.promote_types(x.dtype, jnp.float32)
    frequencies = base ** (-jnp.arange(half, dtype=wide) / half)
    angles = positions.astype(wide)[:, None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half].astype(wide), x[..., half:].astype(wide)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1).astype(x.dtype)


def positions_in_segments(segment_ids: Int[Array, " seq"]) -> Int[Array, " seq"]:
    """How many positions of its segment stand before each: 0, 1, 2, ... from the beginning of each segment.

    Args:
        segment_ids: equal along a segment, and different from one to the next.
    """
    places = jnp.arange(segment_ids.shape[0], dtype=segment_ids.dtype)
    begins = segment_ids != jnp.roll(segment_ids, 1)
    return places - jax.lax.cummax(jnp.where(begins, places, 0))
