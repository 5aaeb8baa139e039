"""JAX's own attention: XLA's plain formula, and cuDNN's fused kernel."""

import functools
import math
from typing import Literal, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._types import Scalar
from equimu._values import Real
from equimu.attention._backend import Kernel
from equimu.attention._opaque_call import foreign, once_per_device, trial
from equimu.attention._problem import Problem
from equimu.attention._scale import scaled
from equimu.attention._visible import Visibility

# As XLA calls what it makes of cuDNN's attention.
CUDNN_KERNELS = (
    Kernel(name="cudnn$fmhaSoftmax", products=2),
    Kernel(name="cudnn$fmhaSoftmaxBackward", products=5),
)


def jax_nn(
    q: Float[Array, "*batch seq_q heads head_dim"],
    k: Float[Array, "*batch seq_k kv_heads head_dim"],
    v: Float[Array, "*batch seq_k kv_heads head_dim"],
    *,
    scale: Scalar,
    q_offset: int | Int[Array, ""],
    q_segments: None,
    k_segments: None,
    visibility: Visibility,
    implementation: Literal["xla", "cudnn"] = "xla",
    keys: int | None = None,
) -> Float[Array, "*batch seq_q heads head_dim"]:
    """`jax.nn.dot_product_attention` with our arguments; the offset is known to be 0, and `keys` of k are not padding."""
    reach = None if visibility.window is None else visibility.window - 1
    batch = math.prod(q.shape[:-3])
    out = jax.nn.dot_product_attention(
        *(x.reshape(batch, *x.shape[-3:]) for x in (q, k, v)),
        scale=cast(float, scale),  # annotated as a float, but XLA's takes a traced scalar as well
        is_causal=visibility.causal,
        local_window_size=None if reach is None else (reach, 0 if visibility.causal else reach),
        key_value_seq_lengths=None if keys is None else jnp.full(batch, keys, jnp.int32),
        implementation=implementation,
    )
    return out.reshape(q.shape)


def cudnn(
    q: Float[Array, "*batch seq_q heads head_dim"],
    k: Float[Array, "*batch seq_k kv_heads head_dim"],
    v: Float[Array, "*batch seq_k kv_heads head_dim"],
    *,
    scale: Scalar,
    q_offset: int | Int[Array, ""],
    q_segments: None,
    k_segments: None,
    visibility: Visibility,
    implementation: Literal["xla", "cudnn"] = "cudnn",
) -> Float[Array, "*batch seq_q heads head_dim"]:
    """cuDNN's kernel, whose scale is constant; a traced one goes into the queries. (The tests put XLA in its place.)"""
    if isinstance(scale, Array):
        q, scale = scaled(q, scale), 1.0
    batch = math.prod(q.shape[:-3])
    arrays = (x.reshape(batch, *x.shape[-3:]) for x in (q, k, v))
    attend = functools.partial(_cudnn_even, scale, visibility, implementation)
    return foreign(attend, *arrays, folds=True).reshape(q.shape)


def _cudnn_even(
    scale: Real, visibility: Visibility, implementation: Literal["xla", "cudnn"], q: Array, k: Array, v: Array
) -> Array:
    """JAX refuses odd lengths where there is a gradient: one position more, which no query sees, makes them even."""
    seq_q, seq_k = q.shape[-3], k.shape[-3]
    hidden = seq_k % 2 == 0 or (visibility.causal and seq_q <= seq_k)
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[-3] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    out = jax_nn(
        q,
        k,
        v,
        scale=scale,
        q_offset=0,
        q_segments=None,
        k_segments=None,
        visibility=visibility,
        implementation=implementation,
        keys=None if hidden else seq_k,
    )
    return out[:, :seq_q]


def xla_why_not(problem: Problem) -> str | None:
    """What `implementation="xla"` cannot do as `dot_product_attention` promises it."""
    if problem.dtype == jnp.float64:
        return "its softmax is float32, which is too coarse for float64"
    if problem.q_offset != 0:
        return "it has no q_offset"
    if problem.segments:
        return "it has no segment_ids"
    if problem.visibility.window is not None and problem.seq_q > problem.seq_k:
        return "queries at the end see no key, and it gives them a mean of all values instead of zeros"
    return None


def cudnn_why_not(problem: Problem) -> str | None:
    """What cuDNN cannot do, or why it does not run on this machine."""
    if problem.dtype not in (jnp.float16, jnp.bfloat16):
        return f"it takes float16 and bfloat16, not {problem.dtype}"
    largest = 128 if problem.capability is not None and problem.capability < (9, 0) else 256
    if problem.head_dim % 8 or problem.head_dim > largest:
        return f"head_dim {problem.head_dim} is not a multiple of 8 up to {largest}"
    if problem.visibility.window is not None and not problem.visibility.causal:
        return "it has a window only where attention is causal"
    return xla_why_not(problem) or _cudnn_missing()


@once_per_device
def _cudnn_missing() -> str | None:
    """Why cuDNN's kernel does not run here: it is tried once, since versions differ."""
    return trial(functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn"))
