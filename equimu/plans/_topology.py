"""Names of machines, such as `v3:16x8` or `cpu:8`, and the environment in which a process can compile for one."""

import dataclasses
import importlib.util
import math
import re
from collections.abc import Mapping

from equimu._errors import EquimuError
from equimu._values import checked, shown
from equimu.plans._chips import CHIPS, Chip

CPU = "cpu"
# More are valid: any size that the compiler knows.
_MOST_CPUS, _MOST_CHIPS = 2**10, 2**16
EXAMPLES = ("v3:8x8", "v3:16x8", "v4:4x4x8", "v5e:16x16", "v5p:4x4x8", "v6e:16x16", "cpu:8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """A machine: `chip` is None for CPU devices, whose figures are unknown."""

    name: str
    chip: Chip | None
    devices: int


def parse_topology(name: str) -> Topology:
    """The machine of that name: a kind of chip and how many there are along each dimension.

    Raises:
        EquimuError: no such kind, or not that many dimensions. Whether the compiler knows the size shows when it is asked.
    """
    match = re.fullmatch(r"(\w+):(\d{1,9}(?:x\d{1,9})*)", checked("topology", name, str)[:100], re.ASCII)
    sizes = [int(size) for size in match[2].split("x")] if match else []
    chip = CHIPS.get(match[1]) if match else None
    is_cpu = match is not None and match[1] == CPU and len(sizes) == 1
    if min(sizes, default=0) < 1 or not (is_cpu or (chip is not None and len(sizes) == chip.dimensions)):
        raise unknown_topology(name)
    devices = math.prod(sizes) * (chip.per_chip if chip else 1)
    if devices > (_MOST_CPUS if chip is None else _MOST_CHIPS):
        raise EquimuError(f"topology {name!r} has {devices} devices, more than can be compiled for")
    return Topology(name=name, chip=chip, devices=devices)


def unknown_topology(name: str, reason: str = "") -> EquimuError:
    """The error for a name that is none."""
    why = f" ({reason})" if reason else ""
    return EquimuError(f"topology {shown(name)} is unknown{why}; valid are names such as {', '.join(EXAMPLES)}")


def check_compiler(topology: Topology) -> None:
    """Raises an `EquimuError` if the compiler for the topology is not installed."""
    if topology.chip is not None and importlib.util.find_spec("libtpu") is None:
        raise EquimuError(
            f"compiling for {topology.name} needs libtpu, which is not installed: pip install 'equimu[tpu]'"
        )


def environment_for(topology: Topology) -> Mapping[str, str]:
    """What a process needs in its environment before it imports JAX, to compile for the topology on any machine.

    Only the CPU is a device there. The compiler asks the machine's metadata for its host and would wait for it; and it takes a
    lock for the chips, which are not used.
    """
    common = {"JAX_PLATFORMS": CPU, "JAX_ENABLE_X64": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if topology.chip is None:
        return {**common, "JAX_NUM_CPU_DEVICES": str(topology.devices)}
    return {
        **common,
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }
