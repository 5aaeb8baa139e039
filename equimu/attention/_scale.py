"""The factor on the scores, for kernels that have none, or only a constant one."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from equimu._types import Scalar


def scaled(q: Float[Array, "*shape"], scale: Scalar) -> Float[Array, "*shape"]:
    """`scale · q`, computed in float32 or better and rounded once; a power of two is exact."""
    return (scale * q.astype(jnp.promote_types(q.dtype, jnp.float32))).astype(q.dtype)
