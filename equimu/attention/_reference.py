"""Attention as the formula says it: all scores at once, in float32 or better. The oracle of the tests."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._types import Scalar
from equimu.attention._visible import Visibility, reached_only


def reference(
    q: Float[Array, "*batch seq_q heads head_dim"],
    k: Float[Array, "*batch seq_k kv_heads head_dim"],
    v: Float[Array, "*batch seq_k kv_heads head_dim"],
    *,
    scale: Scalar,
    q_offset: int | Int[Array, ""],
    q_segments: Int[Array, "*batch seq_q"] | None,
    k_segments: Int[Array, "*batch seq_k"] | None,
    visibility: Visibility,
) -> Float[Array, "*batch seq_q heads head_dim"]:
    """`softmax(scale · q kᵀ) v` with the hidden scores at minus infinity; differentiable by JAX itself.

    Computes in float32, in float64 if the inputs are float64, and returns the dtype of `q`.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    k, v = reached_only((k, v), visibility=visibility, q_offset=q_offset, seq_q=q.shape[-3])
    *batch, seq_q, heads, head_dim = q.shape
    seq_k, kv_heads = k.shape[-3:-1]
    grouped = q.reshape(*batch, seq_q, kv_heads, heads // kv_heads, head_dim).astype(dtype)

    highest = jax.lax.Precision.HIGHEST
    scores = jnp.einsum("...qhgd,...khd->...hgqk", grouped, k.astype(dtype), precision=highest)
    scores *= jnp.asarray(scale, dtype)

    seen = visibility.mask(q_offset + jnp.arange(seq_q)[:, None], jnp.arange(seq_k))
    if q_segments is not None and k_segments is not None:
        same = q_segments[..., :, None] == k_segments[..., None, :]
        seen = (seen & same)[..., None, None, :, :]
    scores = jnp.where(seen, scores, -jnp.inf)

    # A query that sees nothing has scores of minus infinity only: a finite maximum makes its weights 0.
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf))
    weights = jnp.exp(scores - jnp.where(jnp.isfinite(top), top, 0))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights /= jnp.where(total == 0, 1, total)

    out = jnp.einsum("...hgqk,...khd->...qhgd", weights, v.astype(dtype), precision=highest)
    return out.reshape(q.shape).astype(q.dtype)
