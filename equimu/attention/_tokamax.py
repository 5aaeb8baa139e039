"""tokamax's attention kernels for NVIDIA GPUs, with our arguments; the package is an extra."""

import functools
import importlib.util
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._types import Scalar
from equimu._values import Real
from equimu.attention._jax_nn import xla_why_not
from equimu.attention._opaque_call import foreign, trial
from equimu.attention._problem import Problem
from equimu.attention._scale import scaled
from equimu.attention._visible import Visibility

KERNELS = ("mosaic", "triton")  # what tokamax tries, in this order; the first is for newer chips only


def tokamax(
    q: Float[Array, "*batch seq_q heads head_dim"],
    k: Float[Array, "*batch seq_k kv_heads head_dim"],
    v: Float[Array, "*batch seq_k kv_heads head_dim"],
    *,
    scale: Scalar,
    q_offset: int | Int[Array, ""],
    q_segments: None,
    k_segments: None,
    visibility: Visibility,
    implementation: Sequence[str] = KERNELS,
) -> Float[Array, "*batch seq_q heads head_dim"]:
    """`tokamax.dot_product_attention`; the offset is known to be 0, and a traced scale goes into the queries."""
    if isinstance(scale, Array):
        q, scale = scaled(q, scale), 1.0
    batch = math.prod(q.shape[:-3])
    arrays = (x.reshape(batch, *x.shape[-3:]) for x in (q, k, v))
    return foreign(functools.partial(_attend, scale, visibility, tuple(implementation)), *arrays).reshape(q.shape)


def tokamax_why_not(problem: Problem) -> str | None:
    """What tokamax cannot do as `dot_product_attention` promises it, or why it does not run on this machine."""
    if problem.dtype not in (jnp.float16, jnp.bfloat16, jnp.float32):
        return f"it takes float16, bfloat16 and float32, not {problem.dtype}"
    if problem.segments:
        return "it has segment_ids only as a mask of all scores"
    return xla_why_not(problem) or _missing()


def _attend(
    scale: Real,
    visibility: Visibility,
    implementation: tuple[str, ...],
    q: Float[Array, "batch seq_q heads head_dim"],
    k: Float[Array, "batch seq_k kv_heads head_dim"],
    v: Float[Array, "batch seq_k kv_heads head_dim"],
) -> Float[Array, "batch seq_q heads head_dim"]:
    import tokamax  # pyright: ignore[reportMissingImports]

    reach = None if visibility.window is None else visibility.window - 1
    return tokamax.dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        is_causal=visibility.causal,
        local_window_size=None if reach is None else (reach, 0 if visibility.causal else reach),
        implementation=implementation,
    )


@functools.cache
def _missing() -> str | None:
    """Why its kernels do not run here: they are tried once, since they are made for some chips only."""
    if importlib.util.find_spec("tokamax") is None:
        return "the package tokamax is not installed: pip install 'equimu[tokamax]' (Python 3.12 or newer)"
    return trial(functools.partial(_attend, 0.1, Visibility(causal=True, window=None), KERNELS))
