"""Exact attention in linear memory: blocks of queries against blocks of keys, with an online softmax.

For one key/value head, let `s = scale · q kᵀ` with the hidden scores at minus infinity, `lse = log Σ exp s`
for each row, `p = exp(s - lse)` and `o = p v`. The forward pass visits, for each block of queries, the keys
that it may see, and carries each row's maximum, its sum of exponentials and its weighted sum of values; where
further keys raise the maximum, what was summed so far is scaled down (Milakov and Gimelshein 2018). Only `o`
and `lse` are saved. The backward pass visits, for each block of keys, the queries that may see it, and makes
`p` again from `lse` (Dao et al. 2022): with `δ = Σ do ∘ o` of each row,

    dv = pᵀ do        ds = p ∘ (do vᵀ - δ)        dq = scale · ds k        dk = scale · dsᵀ q

The query heads that share a key/value head are rows of one matrix, position by position: grouped heads are
never repeated, and a tile of scores is one matrix product.

Tiles that no query sees are never visited: the inner loop runs over what the outer block sees, so memory is
linear, time is that of the seen part, and the program has the same size for every length.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from equimu._types import Scalar
from equimu.attention._tiling import SCORES, Tiling
from equimu.attention._varying import vary, varying_axes
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
    tiling = Tiling.of(q.shape[-3], k.shape[-3], q.shape[-2], visibility)
    # Typed like q, since the backward pass gives its gradient that type.
    scale = _like(q, jnp.asarray(scale, jnp.promote_types(q.dtype, jnp.float32)))
    return _attend(tiling, q, k, v, scale, jnp.asarray(q_offset, jnp.int32), q_segments, k_segments)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(tiling: Tiling, *arguments: Any) -> Array:
    return _forward(tiling, *arguments)[0]


def _forward(tiling: Tiling, *arguments: Any) -> tuple[Array, Any]:
    """The output, and what the backward pass needs: the arguments, the output and `lse`."""
    q, k, v, scale, q_offset, q_segments, k_segments = arguments
    forward = functools.partial(_forward_sequences, tiling, scale, q_offset)
    out, lse = _over_batch(tiling, forward, q, k, v, q_segments, k_segments)
    return out, (arguments, out, lse)


def _backward(tiling: Tiling, saved: Any, d_out: Array) -> tuple[Any, ...]:
    """The gradients of q, k, v and scale."""
    (q, k, v, scale, q_offset, q_segments, k_segments), out, lse = saved
    backward = functools.partial(_backward_sequences, tiling, scale, q_offset)
    dq, dk, dv = _over_batch(tiling, backward, q, k, v, q_segments, k_segments, out, lse, d_out)
    d_scale = jnp.sum(q.astype(scale.dtype) * dq)
    return (scale * dq).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), d_scale, None, None, None


_attend.defvjp(_forward, _backward)


def _forward_sequences(
    tiling: Tiling, scale: Any, q_offset: Any, q: Any, k: Any, v: Any, q_segments: Any, k_segments: Any
) -> tuple[Array, Array]:
    """The output and `lse` of some sequences: `(batch, seq_q, heads, ...)`."""
    kv_heads, dtype = k.shape[2], scale.dtype
    group = q.shape[2] // kv_heads
    queries = _pad((q, _per_head(q_segments, q)), tiling.block_q)
    keys = _pad((k, v, _per_head(k_segments, k)), tiling.block_k)

    def block_of_queries(i: Any) -> Any:
        q_i, q_id = _cut(queries, i, tiling.block_q, kv_heads)
        q_at = _positions(q_offset, i, tiling.block_q, group)

        def meet_keys(j: Any, carry: Any) -> Any:
            top, total, out = carry
            k_j, v_j, k_id = _cut(keys, j, tiling.block_k, kv_heads)
            k_at = _positions(0, j, tiling.block_k)
            s = scale * _dot(q_i, k_j, transpose=True)
            s = _hide(tiling, s, _column((q_at, q_id)), _row((k_at, k_id)))
            new_top = jnp.maximum(top, jnp.max(s, axis=2))
            p = jnp.exp(s - _column(new_top))
            shrink = jnp.exp(top - new_top)
            total = shrink * total + jnp.sum(p, axis=2)
            out = _column(shrink) * out + _dot(p.astype(v.dtype), v_j)
            return new_top, total, out

        # The maximum starts lowest but finite: where nothing is seen, exp(-inf - top) is 0, not NaN.
        top = jnp.full(q_i.shape[:2], jnp.finfo(dtype).min, dtype)
        carry = _like(q, (top, jnp.zeros_like(top), jnp.zeros(q_i.shape, dtype)))
        top, total, out = lax.fori_loop(*tiling.keys(i, q_offset), meet_keys, carry)
        out = (out / _column(jnp.where(total > 0, total, 1))).astype(q.dtype)
        lse = jnp.where(total > 0, top + jnp.log(total), jnp.inf)
        return _uncut((out, lse), q)

    return _join(lax.map(block_of_queries, jnp.arange(tiling.blocks_q, dtype=jnp.int32)), tiling.seq_q)


def _backward_sequences(
    tiling: Tiling,
    scale: Any,
    q_offset: Any,
    q: Any,
    k: Any,
    v: Any,
    q_segments: Any,
    k_segments: Any,
    out: Any,
    lse: Any,
    d_out: Any,
) -> tuple[Array, Array, Array]:
    """The gradients of q (still to be scaled), k and v, of some sequences."""
    (batch, _, heads, head_dim), kv_heads, dtype = q.shape, k.shape[2], scale.dtype
    group = heads // kv_heads
    rows = tiling.block_q * group
    delta = jnp.sum(d_out.astype(dtype) * out.astype(dtype), axis=3)
    queries = _pad((q, d_out, lse, delta, _per_head(q_segments, q)), tiling.block_q)
    keys = _pad((k, v, _per_head(k_segments, k)), tiling.block_k)

    # The tiles are transposed here, keys by queries, and so is the gradient of q: each product then takes its
    # operands as they lie. (A transposed left operand costs XLA on the CPU half of its speed, hence the
    # barrier: without it the transpose of the keys would be moved back into the product.)
    def block_of_keys(dq: Any, j: Any) -> Any:
        k_j, v_j, k_id = _cut(keys, j, tiling.block_k, kv_heads)
        k_at = _positions(0, j, tiling.block_k)
        transposed_k_j = lax.optimization_barrier(jnp.matrix_transpose(k_j))

        def meet_queries(i: Any, carry: Any) -> Any:
            dq, dk, dv = carry
            q_i, d_out_i, lse_i, delta_i, q_id = _cut(queries, i, tiling.block_q, kv_heads)
            q_at = _positions(q_offset, i, tiling.block_q, group)
            s = scale * _dot(k_j, q_i, transpose=True)
            s = _hide(tiling, s, _row((q_at, q_id)), _column((k_at, k_id)))
            p = jnp.exp(s - _row(lse_i))
            ds = (p * (_dot(v_j, d_out_i, transpose=True) - _row(delta_i))).astype(q.dtype)
            dv += _dot(p.astype(v.dtype), d_out_i)
            dk += _dot(ds, q_i)
            dq_i = lax.dynamic_slice_in_dim(dq, i * rows, rows, axis=2) + _dot(transposed_k_j, ds)
            return lax.dynamic_update_slice_in_dim(dq, dq_i, i * rows, axis=2), dk, dv

        zeros = _like(q, jnp.zeros(k_j.shape, dtype))
        dq, dk, dv = lax.fori_loop(*tiling.queries(j, q_offset), meet_queries, (dq, zeros, zeros))
        return dq, _uncut((scale * dk, dv), k)

    dq = _like(q, jnp.zeros((batch * kv_heads, head_dim, tiling.blocks_q * rows), dtype))
    dq, blocks = lax.scan(block_of_keys, dq, jnp.arange(tiling.blocks_k, dtype=jnp.int32))
    dk, dv = _join(blocks, tiling.seq_k)
    return _uncut(jnp.matrix_transpose(dq), q)[:, : tiling.seq_q], dk, dv


def _hide(tiling: Tiling, s: Array, q_at: Any, k_at: Any) -> Array:
    """Minus infinity for the scores of a tile that are not seen, given (positions, segments) that broadcast."""
    (q_position, q_segment), (k_position, k_segment) = q_at, k_at

    def seen(q: Array, k: Array) -> Array:
        inside = k < tiling.seq_k if tiling.blocks_k * tiling.block_k > tiling.seq_k else True
        return tiling.visibility.mask(q, k) & inside

    def hide(s: Array) -> Array:
        mask = seen(q_position, k_position)
        return jnp.where(mask if q_segment is None else mask & (q_segment == k_segment), s, -jnp.inf)

    if q_segment is not None:
        return hide(s)
    # What is seen is a band along the diagonal: if it holds both far corners of the tile, it holds the tile.
    q, k = q_position.ravel(), k_position.ravel()
    return lax.cond(seen(q[0], k[-1]) & seen(q[-1], k[0]), lambda s: s, hide, s)


def _positions(offset: Any, block: Any, length: int, group: int = 1) -> Array:
    """The positions of a block's `length * group` rows: a constant and one addition."""
    return offset + block * length + np.repeat(np.arange(length, dtype=np.int32), group)


def _per_head(segments: Any, x: Any) -> Array | None:
    """The segments of `(batch, seq)`, repeated for each head of `x`."""
    return None if segments is None else jnp.broadcast_to(segments[..., None], x.shape[:-1])


def _over_batch(tiling: Tiling, compute: Callable[..., Tree], q: Any, *arrays: Any) -> Tree:
    """Maps over the batch, as many sequences at a time as their tiles are small."""
    shape = q.shape[:-3]
    count, scores = math.prod(shape), q.shape[-2] * tiling.block_q * tiling.block_k
    chunk = max(n for n in range(1, count + 1) if count % n == 0 and (n == 1 or n * scores <= SCORES))
    split = jax.tree.map(lambda x: x.reshape(count // chunk, chunk, *x.shape[len(shape) :]), (q, *arrays))
    if chunk == count:
        outs = compute(*jax.tree.map(lambda x: x[0], split))
    else:
        outs = lax.map(lambda arrays: compute(*arrays), split)
        outs = jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), outs)
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), outs)


def _cut(tree: Tree, block: Any, length: int, kv_heads: int) -> Tree:
    """A block of `(batch, seq, kv_heads * group, ...)`: `(batch * kv_heads, length * group, ...)`.

    The barrier has them copied once. Fused into what reads them, strided reads would be repeated for each score.
    """

    def cut(x: Any) -> Array:
        x = lax.dynamic_slice_in_dim(x, block * length, length, axis=1)
        x = x.reshape(x.shape[0], length, kv_heads, -1, *x.shape[3:])
        return jnp.moveaxis(x, 2, 1).reshape(x.shape[0] * kv_heads, -1, *x.shape[4:])

    return lax.optimization_barrier(jax.tree.map(cut, tree))


def _uncut(tree: Tree, like: Any) -> Tree:
    """What `_cut` made of arrays with the batch and heads of `like`, back in their order of axes."""
    batch, _, heads = like.shape[:3]

    def uncut(x: Array) -> Array:
        kv_heads = x.shape[0] // batch
        x = x.reshape(batch, kv_heads, -1, heads // kv_heads, *x.shape[2:])
        return jnp.moveaxis(x, 1, 2).reshape(batch, -1, heads, *x.shape[4:])

    return jax.tree.map(uncut, tree)


def _join(blocks: Tree, seq: int) -> Tree:
    """`(blocks, batch, positions, ...)` as `(batch, seq, ...)`, without the padding."""

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :seq]

    return jax.tree.map(join, blocks)


def _pad(tree: Tree, block: int) -> Tree:
    """`(batch, seq, ...)` with zeros at the end of each sequence, up to a multiple of the block."""

    def pad(x: Any) -> Array:
        return jnp.pad(x, [(0, 0), (0, -x.shape[1] % block), *[(0, 0)] * (x.ndim - 2)])

    return jax.tree.map(pad, tree)


def _row(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x[..., None, :], tree)


def _column(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x[..., :, None], tree)


def _like(x: Any, tree: Tree) -> Tree:
    """Constants, typed to vary over the same mesh axes as `x`: a loop's carry must keep its type."""
    return vary(tree, varying_axes(x))


def _dot(a: Array, b: Array, *, transpose: bool = False) -> Array:
    """`a b` or `a bᵀ` for each head, summed in float32 or better."""
    axes = (((2,), (2 if transpose else 1,)), ((0,), (0,)))
    return lax.dot_general(a, b, axes, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))
