"""Attention of long sequences: blocks of queries online_softmax_update blocks of keys, one tile after the other.

The loops run over what the outer block sees, so tiles that no query sees are never visited, and the program has the
same size for every length. The buffers are few and small, which is worth more than fewer kernels would be: they stay
in the cache, and in memory that the process already holds. For that reason a block is copied out of its sequence where
it is used: to lay out whole sequences before the loops would take the forward pass up to a quarter longer.
"""

from typing import Any, TypeVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from equimu._varying import vary, varying_axes
from equimu.attention._layout import block, from_heads, per_head, put_block, whole_blocks
from equimu.attention._tile import Sums, column, dot, online_softmax_update, row, score_gradients, transposed, weights
from equimu.attention._tiling import Tiling

Tree = TypeVar("Tree")


def forward(
    tiling: Tiling, scale: Any, q_offset: Any, q: Any, k: Any, v: Any, q_segments: Any, k_segments: Any
) -> tuple[Array, Array]:
    """The output and `lse`, both `(batch, seq_q, heads, ...)`."""
    (_, seq_q, heads, _), kv_heads = q.shape, k.shape[2]
    group = heads // kv_heads
    queries = whole_blocks((q, per_head(q_segments, q)), tiling.block_q)
    keys = whole_blocks((k, v, per_head(k_segments, k)), tiling.block_k)

    def block_of_queries(i: Array, results: Any) -> Any:
        q_i, q_ids = block(queries, i, tiling.block_q, kv_heads)

        def masked(j: Array, sums: Sums) -> Sums:
            k_j, v_j, k_ids = block(keys, j, tiling.block_k, kv_heads)
            v_j = tiling.reached_only(v_j, j, q_offset)
            return online_softmax_update(
                sums, scale, q_i, k_j, v_j, _seen(tiling, q_offset, group, i, j, q_ids, k_ids)
            )[0]

        def clear(j: Array, sums: Sums) -> Sums:
            k_j, v_j, _ = block(keys, j, tiling.block_k, kv_heads)
            return online_softmax_update(sums, scale, q_i, k_j, v_j, None)[0]

        sums = _like(q, Sums.init(q_i.shape, scale.dtype))
        begin, end = tiling.keys(i, q_offset)
        if q_ids is None:  # then only tiles at the edges of what is seen hide anything
            clear_begin, clear_end = tiling.clear_keys(i, q_offset)
            if tiling.visibility.window is not None:
                sums = lax.fori_loop(begin, clear_begin, masked, sums)
            sums = lax.fori_loop(clear_begin, clear_end, clear, sums)
            begin = clear_end
        sums = lax.fori_loop(begin, end, masked, sums)
        out = sums.out / column(sums.divisor())
        lse = jnp.where(sums.total > 0, scale * sums.top + jnp.log(sums.total), jnp.inf)
        return put_block(results, i, (out.astype(q.dtype), lse))

    out = queries[0]
    results = _like(q, (jnp.zeros(out.shape, out.dtype), jnp.zeros(out.shape[:3], scale.dtype)))
    out, lse = lax.fori_loop(0, tiling.blocks_q, block_of_queries, results)
    return out[:, :seq_q], lse[:, :seq_q]


def backward(
    tiling: Tiling,
    scale: Any,
    q_offset: Any,
    q: Any,
    k: Any,
    v: Any,
    q_segments: Any,
    k_segments: Any,
    d_out: Any,
    delta: Any,
    lse: Any,
) -> tuple[Array, Array, Array]:
    """The gradients of q and k, still to be scaled, and of v."""
    (batch, seq_q, heads, head_dim), (_, seq_k, kv_heads, _) = q.shape, k.shape
    group = heads // kv_heads
    rows = tiling.block_q * group
    queries = whole_blocks((q, d_out, lse, delta, per_head(q_segments, q)), tiling.block_q)
    keys = whole_blocks((k, v, per_head(k_segments, k)), tiling.block_k)

    def block_of_keys(j: Array, results: Any) -> Any:
        dq, d_keys = results
        k_j, v_j, k_ids = block(keys, j, tiling.block_k, kv_heads)
        k_j, v_j = tiling.reached_only((k_j, v_j), j, q_offset)
        transposed_k_j = transposed(k_j)

        def visit(i: Array, carry: Any) -> Any:
            dq, dk, dv = carry
            q_i, d_out_i, lse_i, delta_i, q_ids = block(queries, i, tiling.block_q, kv_heads)
            # Here the tile is keys by queries, and so is the gradient of q: two of three sums stay in the loop.
            seen = jnp.matrix_transpose(_seen(tiling, q_offset, group, i, j, q_ids, k_ids))
            p = weights(scale, k_j, q_i, row(lse_i), seen)
            ds = score_gradients(p, v_j, d_out_i, row(delta_i))
            dq_i = lax.dynamic_slice_in_dim(dq, i * rows, rows, axis=2) + dot(transposed_k_j, ds)
            dq = lax.dynamic_update_slice_in_dim(dq, dq_i, i * rows, axis=2)
            return dq, dk + dot(ds, q_i), dv + dot(p.astype(v.dtype), d_out_i)

        zeros = _like(q, jnp.zeros(k_j.shape, scale.dtype))
        dq, dk, dv = lax.fori_loop(*tiling.queries(j, q_offset), visit, (dq, zeros, zeros))
        return dq, put_block(d_keys, j, (dk, dv))

    dq = jnp.zeros((batch * kv_heads, head_dim, tiling.blocks_q * rows), scale.dtype)
    d_keys = tuple(jnp.zeros(x.shape, scale.dtype) for x in keys[:2])
    dq, (dk, dv) = lax.fori_loop(0, tiling.blocks_k, block_of_keys, _like(q, (dq, d_keys)))
    dq = from_heads(jnp.matrix_transpose(dq), batch, heads)
    return dq[:, :seq_q], dk[:, :seq_k], dv[:, :seq_k]


def _seen(tiling: Tiling, q_offset: Any, group: int, i: Any, j: Any, q_ids: Any, k_ids: Any) -> Array:
    """Which keys of block `j` the queries of block `i` see, `(#heads, queries, keys)`."""
    seen = tiling.mask(i, j, q_offset, group)[None]
    return seen if q_ids is None else seen & (column(q_ids) == row(k_ids))


def _like(x: Any, tree: Tree) -> Tree:
    """Constants, typed to vary over the same mesh axes as `x`: a loop's carry must keep its type."""
    return vary(tree, varying_axes(x))
