"""Which mesh a plan is for, and which ones there could be."""

import dataclasses

from equimu._errors import EquimuError
from equimu.plans._topology import Topology
from equimu.runs import RunConfig
from equimu.tasks import LanguageModel


@dataclasses.dataclass(frozen=True, order=True)
class MeshShape:
    """Devices along each axis of a mesh.

    - `data`: with a copy of the weights each.
    - `fsdp`: over which rows and weights are spread.
    - `tensor`: which share the work on the same rows.
    """

    data: int
    fsdp: int
    tensor: int

    def __str__(self) -> str:
        return f"{self.data}×{self.fsdp}×{self.tensor}"


def mesh_for(topology: Topology, data: int = 1, fsdp: int = 1, tensor: int = 1) -> MeshShape:
    """The mesh that is asked for; where none is, all devices along `fsdp`.

    Raises:
        EquimuError: its product is not the number of devices.
    """
    if data == fsdp == tensor == 1:
        return MeshShape(1, topology.devices, 1)
    if min(data, fsdp, tensor) < 1 or data * fsdp * tensor != topology.devices:
        raise EquimuError(
            f"a mesh of {data}×{fsdp}×{tensor} (data×fsdp×tensor) is one of {data * fsdp * tensor} devices, "
            f"{topology.name} has {topology.devices}; the product must be their number, or leave all three at 1 for "
            "fsdp over all"
        )
    return MeshShape(data, fsdp, tensor)


def meshes(topology: Topology) -> list[MeshShape]:
    """All ways to arrange the devices along the three axes."""
    n = topology.devices
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    return [MeshShape(n // a // b, a, b) for a in divisors for b in divisors if n % (a * b) == 0]


def unsupported_reason(config: RunConfig, mesh: MeshShape) -> str | None:
    """Why a run of the decoder cannot be carried out on a mesh, or None."""
    task, spread = decoder_of(config), mesh.data * mesh.fsdp
    model, text, width = task.model, task.text, config.size["width"]
    heads = model.n_head or width // model.head_dim
    kv_heads = model.n_kv_head or heads
    if text.rows % (spread * config.accumulate) != 0:
        return f"{text.rows} rows do not divide over {spread} devices in {config.accumulate} parts"
    for what, size in {
        "heads": heads,
        "hidden units": int(model.d_ff_multiple * width),
        "positions": text.seq,
    }.items():
        if size % mesh.tensor != 0:
            return f"{size} {what} do not divide over {mesh.tensor} devices"
    if kv_heads % mesh.tensor != 0 and mesh.tensor % kv_heads != 0:
        return f"{kv_heads} key/value heads do not divide over {mesh.tensor} devices"
    return None


def decoder_of(config: RunConfig) -> LanguageModel:
    """The task of a run of the decoder.

    Raises:
        EquimuError: it is another one.
    """
    if not isinstance(config.task, LanguageModel):
        name = type(config.task).__name__
        raise EquimuError(
            f"a sweep of plans estimates LanguageModel alone, and the task is {name}; plan one mesh at a time"
        )
    return config.task
