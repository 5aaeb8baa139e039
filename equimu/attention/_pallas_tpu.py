"""Exact attention as two TPU kernels of our own, typed so that they work inside a checked `jax.shard_map`.

The maths. With `s = factor · k qᵀ`, `factor = scale · log₂ e`, hidden scores at minus infinity, the forward kernel
carries of each query the maximum, the sum of `2^(s - max)` and the weighted sum of values over the tiles (Milakov and
Gimelshein 2018), and saves `out` and `lse = max + log₂ Σ 2^(s - max)`. With `p = 2^(s - lse)` and `δ = Σ dout ∘ out`
the backward kernel makes (Dao et al. 2022), in one pass over the tiles,

    dv = p dout      ds = p ∘ (v doutᵀ - δ)      dk = scale · ds q      dq = scale · dsᵀ k      dscale = Σ q ∘ dsᵀ k

The layout. A tile of scores has the keys down the rows and the queries along the lanes, so that what belongs to a
query (maximum, sum, lse, δ) is a row of a few registers, reductions over keys combine whole registers, and the
products `vᵀ p` and `kᵀ ds` take p and ds as they were made. Such a product is as high as the head and as
wide as the tile: a matrix unit of 256 lanes is not half idle with heads of 128.

The memory. One instance holds a block of queries and *all* keys of a head (a chunk of them, where the fast memory is
too small) and loops over tiles itself. Keys are fetched once for all query heads of a group, tiles that no query sees
are neither fetched nor visited, and a step of the grid costs nothing per tile. In the backward kernel the gradients of
all keys of the chunk stay in fast memory, too, until every query has met them, while those of a block of queries are
complete when its tiles are.

Causal attention of a sequence to itself begins at the square on the diagonal, in strips that leave out what is above
it; every other tile is then seen whole and needs no mask.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._device import chip
from equimu._types import Scalar
from equimu._varying import vary_alike
from equimu.attention._pallas_tpu_tiles import LANES, Blocks, Tiles
from equimu.attention._problem import Problem
from equimu.attention._visible import Visibility

# Bytes of fast memory of a core, as the compiler tells them when asked for too many.
MEMORY = {"TPU v4": 16 << 20, "TPU v5": 64 << 20, "TPU v5 lite": 128 << 20, "TPU v6 lite": 128 << 20}
SMALLEST_MEMORY = 16 << 20
WITHOUT_BFLOAT16 = ("TPU v2", "TPU v3")  # their matrix units take no bfloat16 operand from a kernel


def pallas_tpu(
    q: Float[Array, "*batch seq_q heads head_dim"],
    k: Float[Array, "*batch seq_k kv_heads head_dim"],
    v: Float[Array, "*batch seq_k kv_heads head_dim"],
    *,
    scale: Scalar,
    q_offset: int,
    q_segments: Int[Array, "*batch seq_q"] | None,
    k_segments: Int[Array, "*batch seq_k"] | None,
    visibility: Visibility,
    blocks: tuple[Blocks, Blocks] | None = None,
    interpret: Any = False,
) -> Float[Array, "*batch seq_q heads head_dim"]:
    """Attention by the kernels. Has first derivatives with respect to q, k, v and scale.

    `blocks` gives the sizes of the forward and of the backward kernel instead of those that measured best, and
    `interpret=pltpu.InterpretParams()` runs them slowly on any platform.

    Args:
        q: queries.
        k: keys, of as many heads or of a divisor of them.
        v: values, shaped as the keys.
        scale: factor on the scores.
        q_offset: position of the first query.
        q_segments: the document of each query; None if there is one.
        k_segments: the document of each key.
        visibility: which keys a query may see.
        blocks: sizes of the forward and of the backward kernel.
        interpret: how to run without a TPU.
    """
    tiles = functools.partial(
        Tiles,
        visibility=visibility,
        q_offset=q_offset,
        seq_q=q.shape[-3],
        seq_k=k.shape[-3],
        segments=q_segments is not None,
    )
    forward, backward = blocks or _blocks(
        q.shape[-3], k.shape[-3], q.shape[-1], q.dtype.itemsize, q_segments is not None
    )
    setting = tiles(blocks=forward), tiles(blocks=backward), MEMORY.get(chip(), SMALLEST_MEMORY), interpret
    arrays = vary_alike((q, k, v, jnp.asarray(scale, jnp.float32), q_segments, k_segments))
    return _attend(setting, *arrays)


def unsupported_reason(problem: Problem) -> str | None:
    """What the kernels cannot do as `dot_product_attention` promises it."""
    if problem.dtype not in (jnp.float32, jnp.bfloat16):
        return f"it takes float32 and bfloat16, not {problem.dtype}"
    if problem.dtype == jnp.bfloat16 and problem.chip in WITHOUT_BFLOAT16:
        return f"a {problem.chip} has no bfloat16 matrix product for kernels"
    if problem.head_dim % 64 or problem.head_dim > 256:
        return f"head_dim {problem.head_dim} is not a multiple of 64 up to 256"
    if problem.q_offset is None:
        return "its q_offset must be a Python number"
    return None


def _blocks(seq_q: int, seq_k: int, head_dim: int, itemsize: int, segments: bool) -> tuple[Blocks, Blocks]:
    """Sizes that the compiler's schedule favours and that fit."""
    memory = MEMORY.get(chip(), SMALLEST_MEMORY)
    wide = head_dim * itemsize > 256
    # What a key costs: keys and values twice, since the next head's are fetched meanwhile; backward also transposed
    # keys and both gradients, and these once more in float32; a column of segments takes whole registers. Half of the
    # memory is left to the blocks of queries.
    width, column = max(head_dim, LANES), 2 * 4 * LANES if segments else 0
    forward_cost, backward_cost = width * itemsize * 4 + column, width * (itemsize * 10 + 8) + column
    forward = Blocks.of(seq_q, seq_k, largest=512 if wide else 1024, resident=memory // 2 // forward_cost)
    backward = Blocks.of(seq_q, seq_k, largest=256 if wide else 512, resident=memory // 2 // backward_cost)
    return forward, backward


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(setting: Any, *arguments: Any) -> Array:
    return _forward(setting, *arguments)[0]


def _forward(setting: Any, *arguments: Any) -> tuple[Array, Any]:
    """The output, and what the backward pass needs: the arguments, the output and `lse`."""
    # Pallas takes longer to import than the rest of the package.
    from equimu.attention._pallas_tpu_forward import forward

    tiles, _, memory, interpret = setting
    q, k, v, scale, q_segments, k_segments = arguments
    q_ids, k_ids = _segments(tiles, q_segments, k_segments)
    keys, values = (_heads_first(x, tiles.padded_k) for x in (k, v))
    out, lse = forward(
        tiles,
        memory,
        interpret,
        scale * math.log2(math.e),
        _grouped(q, k, tiles.padded_q),
        keys,
        jnp.swapaxes(values, 1, 2),
        q_ids,
        k_ids,
    )
    out = _ungrouped(out, q)
    return out, (arguments, out, lse[..., : tiles.seq_q])


def _backward(setting: Any, saved: Any, d_out: Array) -> tuple[Any, ...]:
    """The gradients of q, k, v and scale."""
    from equimu.attention._pallas_tpu_backward import backward

    _, tiles, memory, interpret = setting
    (q, k, v, scale, q_segments, k_segments), out, lse = saved
    q_ids, k_ids = _segments(tiles, q_segments, k_segments)
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    more = ((0, 0), (0, 0), (0, 0), (0, tiles.padded_q - tiles.seq_q))
    dq, dk, dv, d_scale = backward(
        tiles,
        memory,
        interpret,
        scale * jnp.array([math.log2(math.e), 1], jnp.float32),
        _grouped(q, k, tiles.padded_q),
        _heads_first(k, tiles.padded_k),
        _heads_first(v, tiles.padded_k),
        q_ids,
        k_ids,
        _grouped(d_out, k, tiles.padded_q),
        jnp.pad(lse, more, constant_values=jnp.inf),
        jnp.swapaxes(_grouped(delta, k, tiles.padded_q), 2, 3),
    )
    return _ungrouped(dq, q), _ungrouped(dk[:, None], k), _ungrouped(dv[:, None], v), d_scale, None, None


_attend.defvjp(_forward, _backward)


def _heads_first(x: Array, padded: int) -> Array:
    """`(*batch, seq, heads, ...)` as `(batch * heads, padded, ...)`."""
    x = jnp.moveaxis(x, -2, -3)
    x = x.reshape(-1, *x.shape[-2:])
    return jnp.pad(x, ((0, 0), (0, padded - x.shape[1]), (0, 0)))


def _grouped(x: Array, k: Array, padded: int) -> Array:
    """`(*batch, seq_q, heads, ...)` as `(batch * kv_heads, group, padded, ...)`."""
    rows = _heads_first(x, padded)
    return rows.reshape(-1, x.shape[-2] // k.shape[-2], *rows.shape[1:])


def _ungrouped(x: Array, like: Array) -> Array:
    """What `_grouped` made of an array of that shape."""
    *batch, seq, heads, width = like.shape
    return jnp.moveaxis(x[:, :, :seq].reshape(*batch, heads, seq, width), -3, -2)


def _segments(tiles: Tiles, q_segments: Any, k_segments: Any) -> tuple[Array | None, Array | None]:
    """Segments of the queries as rows, `(batch, 1, padded_q)`, of the keys as columns, `(batch, padded_k, 1)`."""
    if q_segments is None:
        return None, None

    def flat(ids: Any, padded: int) -> Array:
        ids = ids.reshape(-1, ids.shape[-1]).astype(jnp.int32)
        return jnp.pad(ids, ((0, 0), (0, padded - ids.shape[-1])))

    return flat(q_segments, tiles.padded_q)[:, None], flat(k_segments, tiles.padded_k)[..., None]
