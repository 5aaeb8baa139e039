"""Exact attention without the matrix of scores: tile by tile, with an online softmax.

For one key/value head, let `s = scale · q kᵀ` with the hidden scores at minus infinity, `lse = log Σ exp s`
for each row, `p = exp(s - lse)` and `o = p v`. The forward pass visits, for each block of queries, the keys
that it may see, and carries each row's maximum, its sum of exponentials and its weighted sum of values; where
further keys raise the maximum, what was summed so far is scaled down (Milakov and Gimelshein 2018). Only `o`
and `lse` are saved. The backward pass visits, for each block of keys, the queries that may see it, and makes
`p` again from `lse` (Dao et al. 2022): with `δ = Σ do ∘ o` of each row,

    dv = pᵀ do        ds = p ∘ (do vᵀ - δ)        dq = scale · ds k        dk = scale · dsᵀ q

`_tile` has these formulas for one tile. `_loops` visits tile after tile; `_strips` takes all keys of some queries as
one tile, and serves sequences so short that the tiles may be kept.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from equimu._kept import kept
from equimu._types import Scalar
from equimu._varying import vary, varying_axes
from equimu.attention import _loops, _strips, _tiling
from equimu.attention._tiling import SCORES, Strips, Tiling
from equimu.attention._visible import Visibility

Tree = TypeVar("Tree")


def blockwise(
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
    """Attention without the matrix of scores. Has first derivatives with respect to q, k, v and scale."""
    # Typed like q, since the backward pass gives its gradient that type.
    scale = vary(jnp.asarray(scale, jnp.promote_types(q.dtype, jnp.float32)), varying_axes(q))
    seq_q, seq_k = q.shape[-3], k.shape[-3]
    short = max(seq_q, seq_k) <= _tiling.SHORT and math.prod(q.shape[:-1]) * seq_k <= _tiling.KEPT
    if isinstance(q_offset, int) and short:
        plan = Strips.of(seq_q=seq_q, seq_k=seq_k, q_offset=q_offset, visibility=visibility)
    else:
        traced = not isinstance(q_offset, int)
        plan = Tiling.of(seq_q=seq_q, seq_k=seq_k, heads=q.shape[-2], visibility=visibility, offset_traced=traced)
    return _attend(plan, q, k, v, scale, jnp.asarray(q_offset, jnp.int32), q_segments, k_segments)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: Strips | Tiling, *arguments: Any) -> Array:
    return _forward(plan, *arguments)[0]


def _forward(plan: Strips | Tiling, *arguments: Any) -> tuple[Array, Any]:
    """The output, and what the backward pass needs: the arguments, the output and what the plan saves."""
    q, k, v, scale, q_offset, q_segments, k_segments = arguments
    # Scores are scaled where they enter the exponential, which takes the largest one: so the scale is to be positive.
    forward = functools.partial(_passes(plan).forward, plan, jnp.abs(scale), q_offset)
    out, saved = _over_batch(plan, forward, jnp.sign(scale).astype(q.dtype) * q, k, v, q_segments, k_segments)
    out, saved = kept((out, saved))
    return out, (arguments, out, saved)


def _backward(plan: Strips | Tiling, residuals: Any, d_out: Array) -> tuple[Any, ...]:
    """The gradients of q, k, v and scale."""
    (q, k, v, scale, q_offset, q_segments, k_segments), out, saved = residuals
    delta = jnp.sum(d_out.astype(scale.dtype) * out.astype(scale.dtype), axis=-1)
    backward = functools.partial(_passes(plan).backward, plan, scale, q_offset)
    dq, dk, dv = _over_batch(plan, backward, q, k, v, q_segments, k_segments, d_out, delta, saved)
    d_scale = jnp.sum(q.astype(scale.dtype) * dq)
    return (scale * dq).astype(q.dtype), (scale * dk).astype(k.dtype), dv.astype(v.dtype), d_scale, None, None, None


_attend.defvjp(_forward, _backward)


def _passes(plan: Strips | Tiling) -> Any:
    """The module that computes as the plan says."""
    return _strips if isinstance(plan, Strips) else _loops


def _over_batch(plan: Strips | Tiling, compute: Callable[..., Tree], q: Any, *arrays: Any) -> Tree:
    """Maps over the batch, as many sequences at a time as their tiles are small."""
    shape = q.shape[:-3]
    count, scores = math.prod(shape), q.shape[-2] * plan.tile
    chunk = max(n for n in range(1, count + 1) if count % n == 0 and (n == 1 or n * scores <= SCORES))
    split = jax.tree.map(lambda x: x.reshape(count // chunk, chunk, *x.shape[len(shape) :]), (q, *arrays))
    if chunk == count:
        outs = compute(*jax.tree.map(lambda x: x[0], split))
    else:
        outs = lax.map(lambda arrays: compute(*arrays), split)
        outs = jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), outs)
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), outs)
