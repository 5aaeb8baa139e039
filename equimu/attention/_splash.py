"""Splash attention, the TPU kernel that comes with JAX, with our arguments.

The kernel works on whole blocks of one sequence with its heads first, has no scale, and gives no defined output for a
query that sees nothing.
"""

import functools
import math
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from equimu._types import Scalar
from equimu.attention._backend import Kernel
from equimu.attention._opaque_call import foreign
from equimu.attention._problem import Problem
from equimu.attention._scale import scaled
from equimu.attention._visible import Visibility

# Forward the scores and the sums of values; backward the scores again and dp in each, then dq in one, dk and dv in the other.
KERNELS = tuple(
    Kernel(name=f"splash_mha_{phase}{segmented}_{residuals}", products=products)
    for phase, residuals, products in (
        ("fwd", "residuals", 2),
        ("fwd", "no_residuals", 2),
        ("dq", "no_residuals", 3),
        ("dkv", "no_residuals", 4),
    )
    for segmented in ("", "_segmented")
)
LANES = 128  # of a vector register; the kernel's blocks are multiples of it
LARGEST = 512  # positions in a block
WITHOUT_BFLOAT16 = ("TPU v2", "TPU v3")  # their matrix units take no bfloat16 operand from a kernel


def splash(
    q: Float[Array, "*batch seq_q heads head_dim"],
    k: Float[Array, "*batch seq_k kv_heads head_dim"],
    v: Float[Array, "*batch seq_k kv_heads head_dim"],
    *,
    scale: Scalar,
    q_offset: int,
    q_segments: Int[Array, "*batch seq_q"] | None,
    k_segments: Int[Array, "*batch seq_k"] | None,
    visibility: Visibility,
    interpret: bool = False,
) -> Float[Array, "*batch seq_q heads head_dim"]:
    """Attention by the kernel; `interpret` runs it as ordinary operations, slowly and on any platform."""
    seq_q, seq_k = q.shape[-3], k.shape[-3]
    block_q, block_k = _block(seq_q), _block(seq_k)
    arrays = [_heads_first(scaled(q, scale), block_q), _heads_first(k, block_k), _heads_first(v, block_k)]

    before, after = _reach(visibility)
    positions = q_offset + np.arange(seq_q)
    if q_segments is not None or (seq_k % block_k and (after is None or positions[-1] + after >= seq_k)):
        arrays += _segments(q_segments, k_segments, arrays[0].shape[0], (seq_q, block_q), (seq_k, block_k))
    kernel = functools.partial(_sequences, q_offset, visibility, block_q, block_k, interpret)
    out = jnp.swapaxes(foreign(kernel, *arrays), 1, 2)[:, :seq_q].reshape(q.shape)

    sees = np.full(seq_q, True)
    sees &= True if before is None else positions - before < seq_k
    sees &= True if after is None else positions + after >= 0
    return out if sees.all() else jnp.where(sees[:, None, None], out, 0)


def splash_why_not(problem: Problem) -> str | None:
    """What splash cannot do as `dot_product_attention` promises it, as far as seen by compiling it for each chip."""
    if problem.dtype not in (jnp.float32, jnp.bfloat16):
        return f"it takes float32 and bfloat16, not {problem.dtype}"
    if problem.dtype == jnp.bfloat16 and problem.chip in WITHOUT_BFLOAT16:
        return f"a {problem.chip} has no bfloat16 matrix product for kernels"
    if problem.head_dim > 256:
        return f"head_dim {problem.head_dim} is more than 256, for which it runs out of fast memory"
    if problem.q_offset is None:
        return "its q_offset must be a Python number"
    if problem.segments and (problem.segments_differ or problem.q_offset != 0):
        return "a query might see no key of its segment, and its output would be undefined"
    return None


def _sequences(
    q_offset: int,
    visibility: Visibility,
    block_q: int,
    block_k: int,
    interpret: bool,
    q: Float[Array, "batch heads seq_q head_dim"],
    k: Float[Array, "batch kv_heads seq_k head_dim"],
    v: Float[Array, "batch kv_heads seq_k head_dim"],
    *segments: Int[Array, "batch _"],
) -> Float[Array, "batch heads seq_q head_dim"]:
    """The kernel on padded sequences."""
    # Pallas takes longer to import than the rest of the package.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    heads, shape = q.shape[1], (q.shape[2], k.shape[2])
    reach = _reach(visibility)
    if reach == (None, None):
        mask = splash_attention_mask.FullMask(shape)
    else:
        mask = splash_attention_mask.LocalMask(shape, reach, q_offset)
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=block_q,
            block_kv=block_k,
            block_q_dkv=block_q,
            block_kv_dkv=block_k,
            block_q_dq=block_q,
            block_kv_dq=block_k,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    ids = splash_attention_kernel.SegmentIds(*segments) if segments else None
    return cast(Array, jax.vmap(kernel)(q, k, v, ids))


def _reach(visibility: Visibility) -> tuple[int | None, int | None]:
    """How many positions before and after itself a query sees; None: all."""
    far = None if visibility.window is None else visibility.window - 1
    return far, 0 if visibility.causal else far


def _block(seq: int) -> int:
    """Positions in a block: at most `LARGEST`, even so that little is padded."""
    even = math.ceil(seq / math.ceil(seq / LARGEST))
    return math.ceil(even / LANES) * LANES


def _heads_first(x: Array, block: int) -> Array:
    """`(*batch, seq, heads, head_dim)` as `(batch, heads, whole blocks, head_dim)`."""
    x = jnp.swapaxes(x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:]), 1, 2)
    return jnp.pad(x, [(0, 0), (0, 0), (0, -x.shape[2] % block), (0, 0)])


def _segments(
    q_segments: Array | None, k_segments: Array | None, batch: int, queries: tuple[int, int], keys: tuple[int, int]
) -> list[Array]:
    """The ids of whole blocks of queries and of keys, given (positions, block); all padding is one segment more."""
    if q_segments is None or k_segments is None:
        q_segments, k_segments = jnp.zeros((batch, queries[0]), int), jnp.zeros((batch, keys[0]), int)
    k_segments = k_segments.reshape(batch, keys[0])
    padding = jnp.max(k_segments, axis=1, keepdims=True) + 1

    def pad(ids: Array, seq: int, block: int) -> Array:
        rest = jnp.broadcast_to(padding, (batch, -seq % block))
        return jnp.concatenate([ids.reshape(batch, seq), rest], axis=1).astype(jnp.int32)

    return [pad(q_segments, *queries), pad(k_segments, *keys)]
