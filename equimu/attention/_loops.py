"""Attention of long sequences: blocks of queries meet blocks of keys, one tile after the other.

The loops run over what the outer block sees, so tiles that no query sees are never visited, and the program has the
same size for every length. The buffers are few and small, which is worth more than fewer kernels would be: they stay
in the cache, and in memory that the process already holds.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from equimu.attention._layout import from_blocks, per_head, to_blocks
from equimu.attention._tile import Sums, column, dot, meet, row, score_gradients, transposed, weights
from equimu.attention._tiling import Tiling
from equimu.attention._varying import vary, varying_axes

Tree = TypeVar("Tree")


def forward(
    tiling: Tiling, scale: Any, q_offset: Any, q: Any, k: Any, v: Any, q_segments: Any, k_segments: Any
) -> tuple[Array, Array]:
    """The output and `lse`, both `(batch, seq_q, heads, ...)`."""
    (batch, seq_q, heads, _), kv_heads = q.shape, k.shape[2]
    group = heads // kv_heads
    queries = to_blocks((q, per_head(q_segments, q)), kv_heads, tiling.block_q)
    keys = to_blocks((k, v, per_head(k_segments, k)), kv_heads, tiling.block_k)

    def block_of_queries(block: Any) -> Any:
        i, (q_i, q_ids) = block

        def masked(j: Array, sums: Sums) -> Sums:
            k_j, v_j, k_ids = _at(keys, j)
            return meet(sums, scale, q_i, k_j, v_j, _seen(tiling, q_offset, group, i, j, q_ids, k_ids))[0]

        def clear(j: Array, sums: Sums) -> Sums:
            k_j, v_j, _ = _at(keys, j)
            return meet(sums, scale, q_i, k_j, v_j, None)[0]

        sums = _like(q, Sums.nothing(q_i.shape, scale.dtype))
        begin, end = tiling.keys(i, q_offset)
        if q_ids is None:  # then only tiles at the edges of what is seen hide anything
            clear_begin, clear_end = tiling.clear_keys(i, q_offset)
            if tiling.visibility.window is not None:
                sums = lax.fori_loop(begin, clear_begin, masked, sums)
            sums = lax.fori_loop(clear_begin, clear_end, clear, sums)
            begin = clear_end
        sums = lax.fori_loop(begin, end, masked, sums)
        lse = jnp.where(sums.total > 0, scale * sums.top + jnp.log(sums.total), jnp.inf)
        return (sums.out / column(sums.divisor())).astype(q.dtype), lse

    out, lse = lax.map(block_of_queries, (_indices(tiling.blocks_q), queries))
    return from_blocks(out, batch, seq_q, tiling.block_q), from_blocks(lse, batch, seq_q, tiling.block_q)


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
    (batch, seq_q, heads, _), (_, seq_k, kv_heads, _) = q.shape, k.shape
    group = heads // kv_heads
    queries = to_blocks((q, d_out, lse, delta, per_head(q_segments, q)), kv_heads, tiling.block_q)
    keys = to_blocks((k, v, per_head(k_segments, k)), kv_heads, tiling.block_k)

    def block_of_keys(dq: Array, block: Any) -> Any:
        j, (k_j, v_j, k_ids) = block
        transposed_k_j = transposed(k_j)

        def visit(i: Array, carry: Any) -> Any:
            dq, dk, dv = carry
            q_i, d_out_i, lse_i, delta_i, q_ids = _at(queries, i)
            # Here the tile is keys by queries, and so is the gradient of q: two of three sums stay in the loop.
            seen = jnp.matrix_transpose(_seen(tiling, q_offset, group, i, j, q_ids, k_ids))
            p = weights(scale, k_j, q_i, row(lse_i), seen)
            ds = score_gradients(p, v_j, d_out_i, row(delta_i))
            dq_i = _at(dq, i) + dot(transposed_k_j, ds)
            dq = lax.dynamic_update_index_in_dim(dq, dq_i, i, 0)
            return dq, dk + dot(ds, q_i), dv + dot(p.astype(v.dtype), d_out_i)

        zeros = _like(q, jnp.zeros(k_j.shape, scale.dtype))
        dq, dk, dv = lax.fori_loop(*tiling.queries(j, q_offset), visit, (dq, zeros, zeros))
        return dq, (dk, dv)

    dq = _like(q, jnp.zeros(jnp.matrix_transpose(queries[0]).shape, scale.dtype))
    dq, (dk, dv) = lax.scan(block_of_keys, dq, (_indices(tiling.blocks_k), keys))
    dq = from_blocks(jnp.matrix_transpose(dq), batch, seq_q, tiling.block_q)
    return dq, from_blocks(dk, batch, seq_k, tiling.block_k), from_blocks(dv, batch, seq_k, tiling.block_k)


def _seen(tiling: Tiling, q_offset: Any, group: int, i: Any, j: Any, q_ids: Any, k_ids: Any) -> Array:
    """Which keys of block `j` the queries of block `i` see, `(#heads, queries, keys)`."""
    seen = tiling.mask(i, j, q_offset, group)[None]
    return seen if q_ids is None else seen & (column(q_ids) == row(k_ids))


def _indices(count: int) -> Array:
    return jnp.arange(count, dtype=jnp.int32)


def _at(tree: Tree, i: Any) -> Tree:
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), tree)


def _like(x: Any, tree: Tree) -> Tree:
    """Constants, typed to vary over the same mesh axes as `x`: a loop's carry must keep its type."""
    return vary(tree, varying_axes(x))
