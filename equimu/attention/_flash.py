"""FlashAttention for NVIDIA GPUs, with our arguments; the package is an extra.

`dew_flash_attn` holds FlashAttention-2 for compute capability 8.x and 12.x and FlashAttention-3 for 9.0, and takes what the
device has. It aligns the last query with the last key, and knows packed documents by where each of them begins.
"""

import functools
import importlib
import importlib.util
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from equimu._types import Scalar
from equimu._values import Real
from equimu.attention._blockwise import blockwise
from equimu.attention._opaque_call import foreign, once_per_device, trial
from equimu.attention._problem import Problem
from equimu.attention._scale import scaled
from equimu.attention._visible import Visibility

MODULE = "dew_flash_attn"
SHORTEST = 64  # positions: of documents that are this long on average, as many as fit are told to the kernel


def flash(
    q: Float[Array, "*batch seq_q heads head_dim"],
    k: Float[Array, "*batch seq_k kv_heads head_dim"],
    v: Float[Array, "*batch seq_k kv_heads head_dim"],
    *,
    scale: Scalar,
    q_offset: int,
    q_segments: Int[Array, "*batch seq_q"] | None,
    k_segments: Int[Array, "*batch seq_k"] | None,
    visibility: Visibility,
) -> Float[Array, "*batch seq_q heads head_dim"]:
    """FlashAttention; the offset is known to align the ends. A scale that is traced or not positive goes into the queries."""
    if isinstance(scale, Array) or scale <= 0:
        q, scale = scaled(q, scale), 1.0
    batch = math.prod(q.shape[:-3])
    arrays = [x.reshape(batch, *x.shape[-3:]) for x in (q, k, v)]
    attend = _attend
    if q_segments is not None:
        arrays.append(q_segments.reshape(batch, -1))
        attend = _attend_packed
    return foreign(functools.partial(attend, float(scale), visibility), *arrays, folds=True).reshape(q.shape)


def flash_why_not(problem: Problem) -> str | None:
    """What FlashAttention cannot do as `dot_product_attention` promises it, or why it does not run on this machine."""
    if problem.dtype not in (jnp.float16, jnp.bfloat16):
        return f"it takes float16 and bfloat16, not {problem.dtype}"
    if problem.head_dim > 256:
        return f"head_dim {problem.head_dim} is more than 256"
    if problem.q_offset is None:
        return "its q_offset must be a Python number"
    placed = problem.visibility.causal or problem.visibility.window is not None
    if placed and problem.q_offset + problem.seq_q != problem.seq_k:
        return f"it aligns the last query with the last key, which q_offset {problem.q_offset} does not"
    if problem.segments_differ or (problem.segments and problem.seq_q != problem.seq_k):
        return "it has one array of segment_ids for queries and keys"
    return _missing()


def _options(scale: Real, visibility: Visibility) -> dict[str, Any]:
    """The arguments of the library's two functions; its windows count the keys on each side, -1 where there is no bound."""
    reach = -1 if visibility.window is None else visibility.window - 1
    right = 0 if visibility.causal and visibility.window is not None else reach
    return {"softmax_scale": scale, "is_causal": visibility.causal, "window_size": (reach, right)}


def _attend(
    scale: Real,
    visibility: Visibility,
    q: Float[Array, "batch seq_q heads head_dim"],
    k: Float[Array, "batch seq_k kv_heads head_dim"],
    v: Float[Array, "batch seq_k kv_heads head_dim"],
) -> Float[Array, "batch seq_q heads head_dim"]:
    return importlib.import_module(MODULE).flash_mha(q, k, v, **_options(scale, visibility))


def _attend_packed(
    scale: Real,
    visibility: Visibility,
    q: Float[Array, "batch seq heads head_dim"],
    k: Float[Array, "batch seq kv_heads head_dim"],
    v: Float[Array, "batch seq kv_heads head_dim"],
    ids: Int[Array, "batch seq"],
) -> Float[Array, "batch seq heads head_dim"]:
    """Documents that lie in one piece each go to the kernel; ids that come back, or too many documents, do not."""
    starts, in_pieces = documents(ids)
    seq = ids.shape[1]

    def kernel(q: Array, k: Array, v: Array) -> Array:
        merged = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
        packed = importlib.import_module(MODULE).flash_mha_varlen
        return packed(*merged, starts, seq, **_options(scale, visibility)).reshape(q.shape)

    def any_ids(q: Array, k: Array, v: Array) -> Array:
        return blockwise(q, k, v, scale=scale, q_offset=0, q_segments=ids, k_segments=ids, visibility=visibility)

    return jax.lax.cond(in_pieces, kernel, any_ids, q, k, v)


def documents(ids: Int[Array, "batch seq"]) -> tuple[Int[Array, " ends"], Bool[Array, ""]]:
    """Where each document begins in the sequences laid end to end, then the end; and whether that says all.

    The array has a fixed length: after the last document it repeats the end, for documents without a token. It says all
    where no more documents are there than fit, and each is in one piece: no id comes back in its sequence.
    """
    batch, seq = ids.shape
    total, room = batch * seq, batch * (1 + math.ceil(seq / SHORTEST))
    begins = jnp.concatenate([jnp.ones((batch, 1), bool), ids[:, 1:] != ids[:, :-1]], axis=1).reshape(-1)
    # By a scatter: `jnp.nonzero` is a primitive of a kind that `foreign` cannot hold.
    place = jnp.where(begins, jnp.cumsum(begins) - 1, room)
    starts = jnp.full(room, total, jnp.int32).at[place].set(jnp.arange(total, dtype=jnp.int32), mode="drop")
    at = jnp.minimum(starts, total - 1)
    row, name, there = at // seq, ids.reshape(-1)[at], starts < total
    alike = (row[:, None] == row) & (name[:, None] == name) & there[:, None] & there
    return starts, (jnp.sum(begins) < room) & (jnp.sum(alike) == jnp.sum(there))


@once_per_device
def _missing() -> str | None:
    """Why its kernels do not run here: they are tried once, since they are made for some cards only."""
    if importlib.util.find_spec(MODULE) is None:
        return "the package dew-flash-attn-cu13 is not installed: pip install 'equimu[flash]'"
    return trial(functools.partial(_attend, 0.1, Visibility(causal=True, window=None)))
