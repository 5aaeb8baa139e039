"""What is known, while a program is traced, of the device that it is traced for.

The mesh of a `jax.shard_map`, of `jax.set_mesh` or of `jax.sharding.use_abstract_mesh` names its device, also when that
is not in this machine and the program is only compiled for it. Without a mesh only the lowering knows the platform.
"""

import jax


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


def chip() -> str:
    """The kind of the mesh's devices, or else of the default device: `TPU v4`, `NVIDIA H100 80GB HBM3`, `cpu`."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (jax.devices()[0] if device is None else device).device_kind
