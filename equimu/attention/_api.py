"""The public functions: attention over sequences, decoding against a cache, and what would be chosen."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._device import default_platform
from equimu._errors import EquimuError
from equimu._types import Scalar
from equimu._values import Integer, checked, is_traced
from equimu._varying import vary_alike
from equimu.attention._backends import AUTO, backends, choose, choose_by_platform, find, refusal
from equimu.attention._problem import Aval, Segments, check, check_arrays, check_window, split_segments


def dot_product_attention(
    q: Float[Array, "*batch seq_q heads head_dim"],
    k: Float[Array, "*batch seq_k kv_heads head_dim"],
    v: Float[Array, "*batch seq_k kv_heads head_dim"],
    *,
    scale: Scalar,
    causal: bool = True,
    window: int | None = None,
    segment_ids: Int[Array, "*batch seq_k"]
    | tuple[Int[Array, "*batch seq_q"], Int[Array, "*batch seq_k"]]
    | None = None,
    q_offset: int | Int[Array, ""] = 0,
    backend: str = AUTO,
) -> Float[Array, "*batch seq_q heads head_dim"]:
    """`softmax(scale · q kᵀ) v` for each head, over the keys that each query may see.

    A query that may see no key gives zeros. `heads` may be a multiple of `kv_heads`: query head `h` then
    reads key/value head `h // (heads // kv_heads)`, which is never repeated in memory.

    Args:
        q: queries.
        k: keys.
        v: values.
        scale: what the scores are multiplied by; required, since every library has another default.
        causal: a query sees no key that comes after it.
        window: a query sees only the keys less than this many positions away, itself counted.
        segment_ids: a query sees only keys of its own segment (packed documents). One array for queries and
            keys, or a pair where their lengths differ.
        q_offset: position of the first query among the keys.
        backend: `auto` takes what serves best on the device of the mesh in use, or without a mesh on the platform
            that the program is compiled for; else a name from `backends`.

    Returns:
        The attention output, with the shape and the dtype of `q`; scores and softmax are float32 (float64 for
        float64 inputs).

    Raises:
        EquimuError: arguments that do not fit together, a backend that is unknown or cannot serve this call.
    """
    problem = check(q, k, v, scale=scale, causal=causal, window=window, segment_ids=segment_ids, q_offset=q_offset)
    if 0 in q.shape or 0 in k.shape:
        return jnp.zeros_like(q)
    # Inside `jax.shard_map`, keys that are the same on all devices may online_softmax_update queries that are not, say.
    q_segments, k_segments = split_segments(segment_ids)
    if problem.q_offset is not None:  # keys that no query sees are left out, whatever they hold
        begin, end = problem.reached
        if begin == end:
            return jnp.zeros_like(q)
        k, v = k[..., begin:end, :, :], v[..., begin:end, :, :]
        k_segments = None if k_segments is None else k_segments[..., begin:end]
        problem, q_offset = problem.trimmed(), problem.q_offset - begin
    arrays = vary_alike((q, k, v, scale, q_offset, q_segments, k_segments))
    q, k, v, scale, q_offset, q_segments, k_segments = arrays
    rest = {
        "scale": scale,
        "q_offset": q_offset,
        "q_segments": q_segments,
        "k_segments": k_segments,
        "visibility": problem.visibility,
    }
    if backend != AUTO:
        chosen = find(backend)
        # The mesh names the platform; without one, only the compiler will know it, and the backend then says so itself.
        reason = refusal(chosen, problem, problem.platform) if problem.platform else chosen.unsupported_reason(problem)
        if reason is not None:
            raise EquimuError(f"backend {backend!r} cannot serve this call: {reason}; backend='auto' can")
        return chosen.run(q, k, v, **rest)
    choices = choose_by_platform(problem)
    branches = {platform: functools.partial(choice.run, **rest) for platform, choice in choices.items()}
    if len({choice.name for choice in choices.values()}) == 1:
        return branches["default"](q, k, v)
    return jax.lax.platform_dependent(q, k, v, **branches)


def decode_attention(
    q: Float[Array, "*batch seq_q heads head_dim"],
    k_cache: Float[Array, "*batch seq_k kv_heads head_dim"],
    v_cache: Float[Array, "*batch seq_k kv_heads head_dim"],
    *,
    scale: Scalar,
    length: int | Int[Array, ""],
    window: int | None = None,
    backend: str = AUTO,
) -> Float[Array, "*batch seq_q heads head_dim"]:
    """Causal attention of the newest queries against a key/value cache that is filled up to `length`.

    What lies in the cache beyond `length` is left out, whatever it is: NaN there does no harm. The same call serves a
    prompt (`seq_q` = its length) and the tokens after it (`seq_q` = 1). With a window, only the part of the cache that it
    reaches is read.

    Args:
        q: the queries of the last `seq_q` of the `length` positions.
        k_cache: keys, the first `length` of them valid, those of the queries among them.
        v_cache: values, likewise.
        scale: what the scores are multiplied by.
        length: how many positions of the cache are valid; may be traced. For sequences of different lengths,
            `jax.vmap` over the batch.
        window: as in `dot_product_attention`.
        backend: as in `dot_product_attention`.

    Returns:
        The attention output, with the shape and the dtype of `q`.

    Raises:
        EquimuError: as in `dot_product_attention`, or a `length` that the queries or the cache do not have room for.
    """
    check_arrays(q=q, k_cache=k_cache, v_cache=v_cache)
    check_window(window)
    if min(q.ndim, k_cache.ndim) < 3:
        raise EquimuError("q and the caches need at least the axes (seq, heads, head_dim)")
    if not is_traced(length):
        length = checked("length", length, Integer)
    if isinstance(length, int) and not q.shape[-3] <= length <= k_cache.shape[-3]:
        raise EquimuError(
            f"length is {length}: with {q.shape[-3]} queries and a cache of {k_cache.shape[-3]} positions it must be "
            f"{q.shape[-3]} to {k_cache.shape[-3]}"
        )
    q_offset = length - q.shape[-3]
    if window is not None and window + q.shape[-3] - 1 < k_cache.shape[-3]:
        reach = window + q.shape[-3] - 1
        start = jnp.clip(length - reach, 0, k_cache.shape[-3] - reach)
        k_cache = jax.lax.dynamic_slice_in_dim(k_cache, start, reach, axis=-3)
        v_cache = jax.lax.dynamic_slice_in_dim(v_cache, start, reach, axis=-3)
        q_offset -= start
    return dot_product_attention(q, k_cache, v_cache, scale=scale, window=window, q_offset=q_offset, backend=backend)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """What `auto` takes on a platform, and for each other backend why it is not that one.

    - `platform`: `cpu`, `gpu` or `tpu`.
    - `chosen`: the name of the backend.
    - `others`: the reason against each of the others, by name.
    """

    platform: str
    chosen: str
    others: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{name}: {reason}" for name, reason in self.others.items()]
        return "\n".join([f"on {self.platform}: {self.chosen}", *lines])


def explain(
    q: Aval,
    k: Aval,
    v: Aval,
    *,
    scale: Scalar,
    causal: bool = True,
    window: int | None = None,
    segment_ids: Segments = None,
    q_offset: int | Int[Array, ""] = 0,
    platform: str | None = None,
) -> Explanation:
    """What `dot_product_attention` would choose for these arguments, and why not the others.

    Args:
        q: queries, or their `jax.ShapeDtypeStruct`; `k`, `v` and `segment_ids` likewise.
        k: keys.
        v: values.
        scale: as in `dot_product_attention`; so are `causal`, `window`, `segment_ids` and `q_offset`.
        causal: see there.
        window: see there.
        segment_ids: see there.
        q_offset: see there.
        platform: `cpu`, `cuda`, `rocm` or `tpu`; None for that of the mesh in use, or else of the default device.

    Returns:
        The choice and the reasons; `print` shows them a line each.

    Raises:
        EquimuError: arguments that do not fit together.
    """
    problem = check(q, k, v, scale=scale, causal=causal, window=window, segment_ids=segment_ids, q_offset=q_offset)
    problem = problem.trimmed()
    platform = checked("platform", platform, Literal["cpu", "cuda", "rocm", "gpu", "tpu"] | None)
    if platform is None:
        platform = problem.platform or default_platform()
    chosen = choose(problem, platform)
    others = {
        name: refusal(backend, problem, platform) or f"{chosen.name} comes first"
        for name, backend in backends().items()
        if name != chosen.name
    }
    return Explanation(platform=platform, chosen=chosen.name, others=others)
