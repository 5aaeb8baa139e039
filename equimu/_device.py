"""What is known, while a program is traced, of the device that it is traced for.

The mesh of a `jax.shard_map`, of `jax.set_mesh` or of `jax.sharding.use_abstract_mesh` names its device, also when that
is not in this machine and the program is only compiled for it. Without a mesh only the lowering knows the platform.
"""

import contextlib
import re
from collections.abc import Generator
from typing import Any

import jax

_DESCRIBED: list[Any] = []


@contextlib.contextmanager
def compiling_for(device: Any) -> Generator[None, None, None]:
    """Programs that are compiled inside are for devices like this one, in all threads; it may be only a description of one."""
    _DESCRIBED.append(device)
    try:
        yield
    finally:
        _DESCRIBED.pop()


def described_device() -> Any | None:
    """The device of the innermost `compiling_for`, or None."""
    return _DESCRIBED[-1] if _DESCRIBED else None


def known_platform() -> str | None:
    """The platform of the mesh's devices as the compiler names it, or None without a mesh."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return None
    if device.platform != "gpu":
        return device.platform
    if device.device_kind == jax.devices()[0].device_kind:
        return default_platform()
    return "rocm" if any(maker in device.device_kind for maker in ("AMD", "Radeon", "gfx")) else "cuda"


def default_platform() -> str:
    """The default device's platform as the compiler names it: JAX's `gpu` is `cuda` or `rocm`."""
    client = jax.devices()[0].client
    named = (name for name in ("cuda", "rocm") if name in client.platform_version)
    return next(named, client.platform)


# By what JAX calls the card, for a program that is compiled for one that is not in this machine.
_CAPABILITIES = {
    "H100": (9, 0),
    "H200": (9, 0),
    "GH200": (9, 0),
    "A100": (8, 0),
    "A10": (8, 6),
    "A10G": (8, 6),
    "L4": (8, 9),
    "B200": (10, 0),
    "RTX PRO 6000": (12, 0),
}


def capability() -> tuple[int, int] | None:
    """The compute capability of the mesh's devices, or else of the default device: (9, 0) for an H100; None if unknown."""
    kind, device = chip(), jax.devices()[0]
    if kind == device.device_kind:
        major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
        return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
    return next((found for name, found in _CAPABILITIES.items() if re.search(rf"\b{name}\b", kind)), None)


def chip() -> str:
    """The kind of the mesh's devices, or else of the default device: `TPU v4`, `NVIDIA H100 80GB HBM3`, `cpu`."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (jax.devices()[0] if device is None else device).device_kind
