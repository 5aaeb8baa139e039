"""The forward kernel on the TPU: the output and the logarithm of the sum of exponentials."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from equimu.attention._pallas_tpu_kernels import FORWARD
from equimu.attention._pallas_tpu_tiles import Tiles

LOWEST = -1e30  # where a maximum starts: finite, so that the exponential of a hidden score is 0, not NaN


def forward(
    tiles: Tiles,
    memory: int,
    interpret: Any,
    factor: Float[Array, ""],
    q: Float[Array, "kv_heads group seq_q head_dim"],
    k: Float[Array, "kv_heads seq_k head_dim"],
    v_t: Float[Array, "kv_heads head_dim seq_k"],
    q_ids: Int[Array, "batch 1 seq_q"] | None,
    k_ids: Int[Array, "batch seq_k 1"] | None,
) -> tuple[Float[Array, "kv_heads group seq_q head_dim"], Float[Array, "kv_heads group 1 seq_q"]]:
    """The output, and `log₂ Σ 2^(factor · q kᵀ)` of each query (infinity where it sees nothing).

    Args:
        tiles: what is visited; the sequences are padded as it says.
        memory: bytes of fast memory that the kernel may use.
        interpret: as of `pl.pallas_call`.
        factor: of the scores, `log₂ e` included.
        q: queries; those of all sequences' key/value heads along the first axis.
        k: keys.
        v_t: values, transposed.
        q_ids: segments of the queries, as a row.
        k_ids: segments of the keys, as a column.
    """
    (heads, group, padded_q, head_dim), sizes = q.shape, tiles.blocks

    def queries(n: Any, g: Any, i: Any, step: Any) -> tuple[Any, ...]:
        return n, g, i, 0

    def chunk(i: Any, step: Any) -> Any:
        first, last = tiles.chunks_seen(i)
        return lax.max(last - step, first)  # what is not seen is not fetched either

    in_specs = [
        pl.BlockSpec(memory_space=pltpu.SMEM),
        pl.BlockSpec((None, None, sizes.block_q, head_dim), queries),
        pl.BlockSpec((None, sizes.chunk, head_dim), lambda n, g, i, step: (n, chunk(i, step), 0)),
        pl.BlockSpec((None, head_dim, sizes.chunk), lambda n, g, i, step: (n, 0, chunk(i, step))),
    ]
    arguments = [factor[None], q, k, v_t]
    if q_ids is not None and k_ids is not None:
        each = heads // q_ids.shape[0]
        in_specs += [
            pl.BlockSpec((None, 1, sizes.block_q), lambda n, g, i, step: (n // each, 0, i)),
            pl.BlockSpec((None, sizes.chunk, 1), lambda n, g, i, step: (n // each, chunk(i, step), 0)),
        ]
        arguments += [q_ids, k_ids]
    kind = jax.typeof(q).manual_axis_type
    return pl.pallas_call(
        functools.partial(_kernel, tiles),
        grid=(heads, group, tiles.blocks_q, tiles.chunks),
        in_specs=in_specs,
        out_specs=[
            pl.BlockSpec((None, None, sizes.block_q, head_dim), queries),
            pl.BlockSpec((None, None, 1, sizes.block_q), lambda n, g, i, step: (n, g, 0, i)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, q.dtype, manual_axis_type=kind),
            jax.ShapeDtypeStruct((heads, group, 1, padded_q), jnp.float32, manual_axis_type=kind),
        ],
        scratch_shapes=[
            pltpu.VMEM((max(sizes.block_k, sizes.block_q if tiles.diagonal else 0), sizes.block_q), jnp.float32),
            pltpu.VMEM((head_dim, sizes.block_q), jnp.float32),
            pltpu.VMEM((1, sizes.block_q), jnp.float32),
            pltpu.VMEM((8, sizes.block_q), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"), vmem_limit_bytes=memory
        ),
        interpret=interpret,
        name=FORWARD.name,
    )(*arguments)


def _kernel(tiles: Tiles, *refs: Any) -> None:
    i, step = pl.program_id(2), pl.program_id(3)
    first, last = tiles.chunks_seen(i)
    block = _Block(tiles, refs, i, last - step)

    @pl.when(step == 0)
    def _() -> None:
        block.square() if tiles.diagonal else block.start()

    @pl.when(last - step >= first)
    def _() -> None:
        for begin, end, masked in tiles.spans(i, last - step):
            block.visit(begin, end, masked)

    @pl.when(step == tiles.chunks - 1)
    def _() -> None:
        block.finish()


class _Block:
    """A block of queries against a chunk of keys.

    Scores `s = factor · k qᵀ` have the keys down the rows; so maxima and sums over keys combine whole registers, and a
    number for each query is a row. `out` is transposed as well: `vᵀ p`, with p as it was made.
    """

    def __init__(self, tiles: Tiles, refs: Any, i: Any, c: Any) -> None:
        self.tiles, self.i, self.c = tiles, i, c
        ids, results = refs[4:-6], refs[-6:]
        self.factor, self.q, self.k, self.v_t = refs[0][0], *refs[1:4]
        if tiles.segments:
            self.q_ids, self.k_ids = ids
        self.result, self.lse, self.scores, self.out, self.top, self.total = results

    def start(self) -> None:
        """Nothing seen yet."""
        self.top[...] = jnp.full_like(self.top, LOWEST)
        self.total[...] = jnp.zeros_like(self.total)
        self.out[...] = jnp.zeros_like(self.out)

    def square(self) -> None:
        """The keys of the block's own positions, for strips of queries: of each only the keys that it may see."""
        sizes = self.tiles.blocks
        base = pl.multiple_of(self.i * sizes.block_q - self.c * sizes.chunk, sizes.block_q)
        hidden = lax.broadcasted_iota(jnp.int32, (sizes.strip, sizes.strip), 0) > lax.broadcasted_iota(
            jnp.int32, (sizes.strip, sizes.strip), 1
        )

        def produce(begin: int) -> Array:
            queries, end = pl.ds(begin, sizes.strip), begin + sizes.strip
            s = self._products(pl.ds(base, end), queries)
            own = jnp.where(hidden, -jnp.inf, s[begin:])
            s = jnp.concatenate([s[:begin], own]) if begin else own
            self.scores[pl.ds(0, end), queries] = s
            return jnp.max(s, axis=0, keepdims=True)

        top = produce(0)
        for begin in range(0, sizes.block_q, sizes.strip):
            queries, end = pl.ds(begin, sizes.strip), begin + sizes.strip
            p = jnp.exp2(self.scores[pl.ds(0, end), queries] - top)
            self.top[:, queries] = top
            self.total[:, queries] = _sum_of_rows(p)
            if end < sizes.block_q:
                top = produce(end)
            self.out[:, queries] = _dot(self.v_t[:, pl.ds(base, end)], p.astype(self.v_t.dtype))

    def visit(self, begin: Any, end: Any, masked: bool) -> None:
        """The tiles of a span.

        In one iteration the matrix unit makes the next tile's scores while the vector unit turns this one's into
        weights: neither waits for the other.
        """

        @pl.when(begin < end)
        def _() -> None:
            def consume_and_produce(j: Any, top: Array) -> Array:
                return self._consume(j, top, lambda: self._produce(j + 1, masked))

            top = lax.fori_loop(begin, end - 1, consume_and_produce, self._produce(begin, masked))
            self._consume(end - 1, top, lambda: top)

    def finish(self) -> None:
        """Divides by the sum of the exponentials, and writes."""
        total = jnp.sum(self.total[...], axis=0, keepdims=True)
        some = total > 0
        out = self.out[...] * jnp.where(some, 1 / jnp.where(some, total, 1), 0)
        self.result[...] = out.T.astype(self.result.dtype)
        self.lse[...] = jnp.where(some, self.top[...] + jnp.log2(jnp.where(some, total, 1)), jnp.inf)

    def _produce(self, j: Any, masked: bool) -> Array:
        """Stores the scores of a tile, and gives the greatest of each query."""
        sizes = self.tiles.blocks
        keys = pl.ds(pl.multiple_of(j * sizes.block_k, sizes.block_k), sizes.block_k)
        s = self._products(keys, slice(None))
        if masked:
            q_at = self.tiles.positions(self.i)[0] + lax.broadcasted_iota(jnp.int32, (1, sizes.block_q), 1)
            k_at = self.c * sizes.chunk + j * sizes.block_k + lax.broadcasted_iota(jnp.int32, (sizes.block_k, 1), 0)
            ids = (self.q_ids[...], self.k_ids[keys, :]) if self.tiles.segments else (None, None)
            s = jnp.where(self.tiles.mask(q_at, k_at, *ids), s, -jnp.inf)
        self.scores[pl.ds(0, sizes.block_k), :] = s
        return jnp.max(s, axis=0, keepdims=True)

    def _consume(self, j: Any, top: Array, meanwhile: Any) -> Array:
        """Adds a tile whose scores are stored, given the greatest of each query; what `meanwhile` gave."""
        size = self.tiles.blocks.block_k
        old, new = self.top[...], jnp.maximum(self.top[...], top)
        shrink = jnp.exp2(old - new)
        p = jnp.exp2(self.scores[pl.ds(0, size), :] - new)
        self.top[...] = new
        self.total[...] = self.total[...] * shrink + _sum_of_rows(p)
        result = meanwhile()
        values = self.v_t[:, pl.ds(pl.multiple_of(j * size, size), size)]
        self.out[...] = self.out[...] * shrink + _dot(values, p.astype(values.dtype))
        return result

    def _products(self, keys: Any, queries: Any) -> Array:
        """Scores, not masked, of some keys of the chunk and some queries of the block."""
        return self.factor * _dot(self.k[keys, :], self.q[queries, :], transpose=True)


def _sum_of_rows(x: Array) -> Array:
    """Eight partial sums over the rows: the rows of one register are not added to each other."""
    return jnp.sum(x.reshape(-1, 8, x.shape[1]), axis=0)


def _dot(a: Array, b: Array, *, transpose: bool = False) -> Array:
    """`a b` or `a bᵀ`, summed in float32."""
    return lax.dot_general(a, b, (((1,), (1 if transpose else 0,)), ((), ())), preferred_element_type=jnp.float32)
