"""Attention of short sequences: a strip of queries meets all its keys at once, and its weights are kept.

With so few positions the fixed cost of each kernel decides. So there are few of them, without a loop, and the backward
pass reads the weights instead of making them again: not more than `SHORT` numbers for each query and head, and `KEPT` in
all, beyond which they cost more than they save. It takes each strip in halves, which saves it more of the hidden keys
than the further kernels cost; in the forward pass they cost more.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from equimu.attention._layout import from_heads, per_head, to_heads
from equimu.attention._tile import Sums, column, dot, online_softmax_update, score_gradients, transposed
from equimu.attention._tiling import Strips


def forward(
    strips: Strips, scale: Any, q_offset: Any, q: Any, k: Any, v: Any, q_segments: Any, k_segments: Any
) -> tuple[Array, Any]:
    """The output, and for each strip its weights before the division by their sum, and that sum."""
    (batch, _, heads, _), kv_heads = q.shape, k.shape[2]
    q_ids, k_ids = to_heads((per_head(q_segments, q), per_head(k_segments, k)), kv_heads)
    q, k, v = lax.optimization_barrier(to_heads((q, k, v), kv_heads))
    outs, saved = [], []
    for queries, keys in strips:
        rows = _rows(queries, heads // kv_heads)
        q_at = jnp.asarray(strips.q_offset + np.repeat(np.arange(queries.start, queries.stop), heads // kv_heads))
        seen = strips.visibility.mask(q_at[:, None], jnp.arange(keys.start, keys.stop))[None]
        if q_ids is not None and k_ids is not None:
            seen &= q_ids[:, rows, None] == k_ids[:, None, keys]
        q_strip = q[:, rows]
        sums, p = online_softmax_update(
            Sums.init(q_strip.shape, scale.dtype), scale, q_strip, k[:, keys], v[:, keys], seen
        )
        outs.append((sums.out / column(sums.divisor())).astype(q.dtype))
        saved.append((p, sums.divisor()))
    out = from_heads(jnp.concatenate(outs, axis=1), batch, heads)
    return out, [tuple(x.reshape(batch, kv_heads, *x.shape[1:]) for x in strip) for strip in saved]


def backward(
    strips: Strips,
    scale: Any,
    q_offset: Any,
    q: Any,
    k: Any,
    v: Any,
    q_segments: Any,
    k_segments: Any,
    d_out: Any,
    delta: Any,
    saved: Any,
) -> tuple[Array, Array, Array]:
    """The gradients of q and k, still to be scaled, and of v."""
    (batch, _, heads, head_dim), (_, seq_k, kv_heads, _) = q.shape, k.shape
    group = heads // kv_heads
    delta = to_heads(delta, kv_heads)
    dq = []
    dk = dv = jnp.zeros((batch * kv_heads, head_dim, seq_k), delta.dtype)
    for strip, weights in zip(strips, saved, strict=True):
        p_strip, divisor = (x.reshape(batch * kv_heads, *x.shape[2:]) for x in weights)
        for half in strips.halves(strip):
            rows, keys = _rows(half.queries, group), half.keys
            inside = _rows(_from(strip.queries, half.queries), group)
            q_half, d_out_half = to_heads((q[:, half.queries], d_out[:, half.queries]), kv_heads)
            k_half, v_half = to_heads((k[:, keys], v[:, keys]), kv_heads)
            p = p_strip[:, inside, _from(strip.keys, keys)] / column(divisor[:, inside])
            ds = score_gradients(p, d_out_half, v_half, column(delta[:, rows]))
            dq.append(dot(ds, k_half))
            dk = dk.at[:, :, keys].add(dot(transposed(q_half), ds))
            dv = dv.at[:, :, keys].add(dot(transposed(d_out_half), p.astype(v.dtype)))
    dk, dv = (from_heads(jnp.matrix_transpose(x), batch, kv_heads) for x in (dk, dv))
    return from_heads(jnp.concatenate(dq, axis=1), batch, heads), dk, dv


def _rows(queries: slice, group: int) -> slice:
    """The rows of the queries of a group of heads."""
    return slice(queries.start * group, queries.stop * group)


def _from(whole: slice, part: slice) -> slice:
    """Where a part is, counted from the start of the whole."""
    return slice(part.start - whole.start, part.stop - whole.start)
