"""tokamax's attention kernels for NVIDIA GPUs, with our arguments; the package is an extra."""

import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._device import described_device
from equimu._types import Scalar
from equimu._values import Real
from equimu.attention._backend import Kernel
from equimu.attention._jax_nn import xla_why_not
from equimu.attention._opaque_call import foreign, once_per_device, trial
from equimu.attention._problem import Problem
from equimu.attention._scale import scaled
from equimu.attention._visible import Visibility

KERNELS = ("mosaic", "triton")  # what tokamax tries, in this order; the first is for newer chips only
# Triton's backward kernel makes the scores and the gradients of the weights once for queries and once for keys and values.
TOKAMAX_KERNELS = (
    Kernel(name="pallas_flash_attention_fwd", products=2),
    Kernel(name="pallas_flash_attention_vjp", products=7),
    Kernel(name="flash_attention_sm80", products=2),
    Kernel(name="flash_attention_sm90", products=2),
    Kernel(name="flash_attention_sm100", products=2),
    Kernel(name="sm100_dq_kernel", products=3),
    Kernel(name="sm100_dkv_kernel", products=4),
)


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
    device = described_device()
    call = functools.partial(
        tokamax.dot_product_attention,
        scale=scale,
        is_causal=visibility.causal,
        local_window_size=None if reach is None else (reach, 0 if visibility.causal else reach),
        implementation=implementation if device is None else _kernels_of(device, implementation),
    )
    return call(q, k, v) if device is None else _for_another_machine(call)(q, k, v)


def _kernels_of(device: Any, implementation: tuple[str, ...]) -> tuple[str, ...]:
    """The kernels for a device that is not here, which tokamax would choose by what is here."""
    has_mosaic = str(device.compute_capability) in ("9.0", "10.0")
    return tuple({"mosaic": "mosaic_gpu"}.get(name, name) for name in implementation if has_mosaic or name != "mosaic")


def _for_another_machine(call: Callable[..., Array]) -> Callable[..., Array]:
    """A call of tokamax that does not ask, forward or backward, whether this machine has the device that it is for."""
    import tokamax  # pyright: ignore[reportMissingImports]

    @jax.custom_vjp
    def attend(*arrays: Array) -> Array:
        return forward(*arrays)[0]

    def forward(*arrays: Array) -> tuple[Array, Any]:
        with tokamax.config.cross_compile(True):
            return jax.vjp(call, *arrays)

    def backward(pull: Any, d_out: Array) -> Any:
        with tokamax.config.cross_compile(True):
            return pull(d_out)

    attend.defvjp(forward, backward)
    return attend


@once_per_device
def _missing() -> str | None:
    """Why its kernels do not run here: they are tried once, since they are made for some chips only."""
    if importlib.util.find_spec("tokamax") is None:
        return "the package tokamax is not installed: pip install 'equimu[tokamax]' (Python 3.12 or newer)"
    return trial(functools.partial(_attend, 0.1, Visibility(causal=True, window=None), KERNELS))
