"""The device mesh that every step runs on."""

import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from equimu._errors import EquimuError

AXES = ("data", "fsdp", "tensor")
# A batch's rows are spread over these; on `tensor` every device sees the same rows.
BATCH_AXES = ("data", "fsdp")
BATCH = PartitionSpec(BATCH_AXES)


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh with the three axes of the step, over the first data · fsdp · tensor devices.

    Raises:
        EquimuError: there are not so many devices.
    """
    shape = (data, fsdp, tensor)
    needed, there = math.prod(shape), jax.device_count()
    if min(shape) < 1 or needed > there:
        raise EquimuError(f"a mesh of {data}×{fsdp}×{tensor} needs {needed} devices, there are {there}")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:needed])


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """A batch of numpy arrays on the mesh's devices, rows spread over `data` and `fsdp`."""
    return jax.device_put(batch, NamedSharding(mesh, BATCH))
