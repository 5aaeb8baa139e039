"""The backward kernel on the TPU: the gradients of the queries, the keys and the values in one pass over the tiles."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from equimu.attention._pallas_tpu_kernels import BACKWARD
from equimu.attention._pallas_tpu_tiles import Tiles


def backward(
    tiles: Tiles,
    memory: int,
    interpret: Any,
    factors: Float[Array, "2"],
    q: Float[Array, "kv_heads group seq_q head_dim"],
    k: Float[Array, "kv_heads seq_k head_dim"],
    v: Float[Array, "kv_heads seq_k head_dim"],
    q_ids: Int[Array, "batch 1 seq_q"] | None,
    k_ids: Int[Array, "batch seq_k 1"] | None,
    d_out: Float[Array, "kv_heads group seq_q head_dim"],
    lse: Float[Array, "kv_heads group 1 seq_q"],
    delta: Float[Array, "kv_heads group 1 seq_q"],
) -> tuple[Array, Array, Array, Array]:
    """The gradients of q, k, v and of the scale.

    Args:
        tiles: what is visited; the sequences are padded as it says.
        memory: bytes of fast memory that the kernel may use.
        interpret: as of `pl.pallas_call`.
        factors: the scale with `log₂ e`, and without.
        q: queries; those of all sequences' key/value heads along the first axis.
        k: keys.
        v: values.
        q_ids: segments of the queries, as a row.
        k_ids: segments of the keys, as a column.
        d_out: gradient of the output.
        lse: from the forward pass.
        delta: `Σ d_out ∘ out` of each query.
    """
    (heads, group, padded_q, head_dim), sizes = q.shape, tiles.blocks

    def row(c: Any, i: Any) -> Any:
        first, last = tiles.queries_seeing(c)
        return lax.min(lax.max(i, first), last)  # what does not see the chunk is not fetched either

    queries = pl.BlockSpec((None, None, sizes.block_q, head_dim), lambda n, c, g, i: (n, g, row(c, i), 0))
    numbers = pl.BlockSpec((None, None, 1, sizes.block_q), lambda n, c, g, i: (n, g, 0, row(c, i)))
    keys = pl.BlockSpec((None, sizes.chunk, head_dim), lambda n, c, g, i: (n, c, 0))
    keys_t = pl.BlockSpec((None, head_dim, sizes.chunk), lambda n, c, g, i: (n, 0, c))
    in_specs = [pl.BlockSpec(memory_space=pltpu.SMEM), queries, queries, numbers, numbers, keys, keys, keys_t]
    arguments = [factors, q, d_out, lse, delta, k, v, jnp.swapaxes(k, 1, 2)]
    if q_ids is not None and k_ids is not None:
        each = heads // q_ids.shape[0]
        in_specs += [
            pl.BlockSpec((None, 1, sizes.block_q), lambda n, c, g, i: (n // each, 0, row(c, i))),
            pl.BlockSpec((None, sizes.chunk, 1), lambda n, c, g, i: (n // each, c, 0)),
        ]
        arguments += [q_ids, k_ids]

    # Each chunk of keys gives a part of the gradient of the queries.
    whole = functools.partial(jax.ShapeDtypeStruct, manual_axis_type=jax.typeof(q).manual_axis_type)
    part = q.dtype if tiles.chunks == 1 else jnp.float32
    dq, d_scale, dk, dv = pl.pallas_call(
        functools.partial(_kernel, tiles),
        grid=(heads, tiles.chunks, group, tiles.blocks_q),
        in_specs=in_specs,
        out_specs=[
            pl.BlockSpec((None, None, None, sizes.block_q, head_dim), lambda n, c, g, i: (c, n, g, i, 0)),
            pl.BlockSpec((None, None, None, 1, sizes.block_q), lambda n, c, g, i: (c, n, g, 0, i)),
            keys,
            keys,
        ],
        out_shape=[
            whole((tiles.chunks, *q.shape), part),
            whole((tiles.chunks, heads, group, 1, padded_q), jnp.float32),
            whole(k.shape, k.dtype),
            whole(v.shape, v.dtype),
        ],
        scratch_shapes=[
            pltpu.VMEM((head_dim, sizes.block_q), q.dtype),
            pltpu.VMEM((head_dim, sizes.block_q), q.dtype),
            pltpu.VMEM((head_dim, sizes.block_q), jnp.float32),
            pltpu.VMEM((head_dim, sizes.chunk), jnp.float32),
            pltpu.VMEM((head_dim, sizes.chunk), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=memory
        ),
        interpret=interpret,
        name=BACKWARD.name,
    )(*arguments)
    dq = dq[0] if tiles.chunks == 1 else jnp.sum(dq, axis=0).astype(q.dtype)
    return dq, dk, dv, jnp.sum(d_scale)


def _kernel(tiles: Tiles, *refs: Any) -> None:
    c, g, i = pl.program_id(1), pl.program_id(2), pl.program_id(3)
    block = _Block(tiles, refs, i, c)

    @pl.when((g == 0) & (i == 0))
    def _() -> None:
        block.start_keys()

    block.start_queries()
    if tiles.diagonal:
        pl.when(i * tiles.blocks.block_q // tiles.blocks.chunk == c)(block.square)
    for begin, end, masked in tiles.spans(i, c):
        lax.fori_loop(begin, end, functools.partial(block.visit, masked=masked), None)
    block.finish_queries()

    @pl.when((g == pl.num_programs(2) - 1) & (i == pl.num_programs(3) - 1))
    def _() -> None:
        block.finish_keys()


class _Block:
    """A block of queries against a chunk of keys.

    Scores have the keys down the rows, as in the forward pass. The gradients are transposed: `doutᵀ pᵀ`, `qᵀ dsᵀ` and
    `kᵀ ds` have p or ds as their right operand, which a matrix unit takes either way round, and a left one that is the
    head axis high, so that no axis leaves a part of a unit wider than the head idle.
    """

    def __init__(self, tiles: Tiles, refs: Any, i: Any, c: Any) -> None:
        self.tiles, self.i, self.c = tiles, i, c
        ids, results = refs[8:-9], refs[-9:]
        self.factor, self.scale = refs[0][0], refs[0][1]
        self.q, self.d_out, self.lse, self.delta, self.k, self.v, self.k_t = refs[1:8]
        if tiles.segments:
            self.q_ids, self.k_ids = ids
        self.dq, self.d_scale, self.dk, self.dv, self.q_t, self.d_out_t, self.dq_t, self.dk_t, self.dv_t = results

    def start_keys(self) -> None:
        """No query has been met yet."""
        self.dk_t[...] = jnp.zeros_like(self.dk_t)
        self.dv_t[...] = jnp.zeros_like(self.dv_t)

    def start_queries(self) -> None:
        """No key has been met yet."""
        self.dq_t[...] = jnp.zeros_like(self.dq_t)
        self.q_t[...] = self.q[...].T
        self.d_out_t[...] = self.d_out[...].T

    def square(self) -> None:
        """The keys of the block's own positions, for strips of keys: of each only the queries that may see it."""
        sizes = self.tiles.blocks
        base = pl.multiple_of(self.i * sizes.block_q - self.c * sizes.chunk, sizes.block_q)
        for begin in range(0, sizes.block_q, sizes.strip):
            keys = pl.ds(base + begin, sizes.strip)
            queries = pl.ds(begin, sizes.block_q - begin)
            shape = (sizes.strip, sizes.block_q - begin)
            seen = lax.broadcasted_iota(jnp.int32, shape, 0) <= lax.broadcasted_iota(jnp.int32, shape, 1)
            self._meet(keys, queries, self._products(keys, queries), seen)

    def visit(self, j: Any, _: None, *, masked: bool) -> None:
        """One tile, in strips of keys; the scores of all of them first."""
        sizes = self.tiles.blocks
        everyone = slice(None)
        starts = [pl.multiple_of(j * sizes.block_k + n, sizes.strip) for n in range(0, sizes.block_k, sizes.strip)]
        strips = [pl.ds(start, sizes.strip) for start in starts]
        products = [self._products(keys, everyone) for keys in strips]
        for start, keys, both in zip(starts, strips, products, strict=True):
            seen = None
            if masked:
                q_at = self.tiles.positions(self.i)[0] + lax.broadcasted_iota(jnp.int32, (1, sizes.block_q), 1)
                k_at = self.c * sizes.chunk + start + lax.broadcasted_iota(jnp.int32, (sizes.strip, 1), 0)
                ids = (self.q_ids[...], self.k_ids[keys, :]) if self.tiles.segments else (None, None)
                seen = self.tiles.mask(q_at, k_at, *ids)
            self._meet(keys, everyone, both, seen)

    def finish_queries(self) -> None:
        """Writes what the keys of this chunk give to the gradient of the queries and of the scale."""
        self.dq[...] = (self.scale * self.dq_t[...]).T.astype(self.dq.dtype)
        self.d_scale[...] = jnp.sum(self.q_t[...].astype(jnp.float32) * self.dq_t[...], axis=0, keepdims=True)

    def finish_keys(self) -> None:
        """Writes the gradients of the keys and of the values, when all queries have been met."""
        self.dk[...] = (self.scale * self.dk_t[...]).T.astype(self.dk.dtype)
        self.dv[...] = self.dv_t[...].T.astype(self.dv.dtype)

    def _products(self, keys: Any, queries: Any) -> tuple[Array, Array]:
        """The scores of some keys and queries, and the gradient of their weights."""
        s = self.factor * _dot(self.k[keys, :], self.q[queries, :], transpose=True)
        return s, _dot(self.v[keys, :], self.d_out[queries, :], transpose=True)

    def _meet(self, keys: Any, queries: Any, products: tuple[Array, Array], seen: Array | None) -> None:
        """Adds to the three gradients what some keys and queries give each other."""
        s, dp = products
        s = s if seen is None else jnp.where(seen, s, -jnp.inf)
        p = jnp.exp2(s - self.lse[:, queries])
        ds = (p * (dp - self.delta[:, queries])).astype(self.q.dtype)
        p = p.astype(self.q.dtype)
        self.dv_t[:, keys] += _dot(self.d_out_t[:, queries], p, transpose=True)
        self.dk_t[:, keys] += _dot(self.q_t[:, queries], ds, transpose=True)
        self.dq_t[:, queries] += _dot(self.k_t[:, keys], ds)


def _dot(a: Array, b: Array, *, transpose: bool = False) -> Array:
    """`a b` or `a bᵀ`, summed in float32."""
    return lax.dot_general(a, b, (((1,), (1 if transpose else 0,)), ((), ())), preferred_element_type=jnp.float32)
