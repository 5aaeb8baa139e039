"""The device mesh that every step runs on."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

from equimu._errors import EquimuError
from equimu._values import Size, check

FSDP = "fsdp"
"""The axis over which rows and weights are spread."""
TENSOR = "tensor"
"""The axis over which the work on a row is spread."""
AXES = ("data", FSDP, TENSOR)
"""The axes of the mesh, in order."""
# A batch's rows are spread over these; on `tensor` every device sees the same rows.
BATCH_AXES = ("data", FSDP)
"""The axes over which the rows of a batch are spread."""
BATCH = PartitionSpec(BATCH_AXES)
"""The partition spec of a batch."""


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the three axes of the step.

    Args:
        data: devices over which rows are spread, each with a copy of the weights.
        fsdp: devices over which rows are spread, and the weights with them.
        tensor: devices that share the work on the same rows.
        devices: as many; by default all there are, and of a single process the first one for a mesh of one.

    Raises:
        EquimuError: there are more devices, or fewer.
    """
    check(Size, data=data, fsdp=fsdp, tensor=tensor)
    shape = (data, fsdp, tensor)
    needed = math.prod(shape)
    if devices is None:
        devices = jax.devices()[: 1 if needed == 1 and jax.process_count() == 1 else None]
    if needed != len(devices):
        raise EquimuError(
            f"a mesh of {data}×{fsdp}×{tensor} (data×fsdp×tensor) is one of {needed} devices, there are {len(devices)}; "
            "the product must be their number"
        )
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
