"""Names of machines, such as `v3:16x8` or `cpu:8`, and the environment in which a process can compile for one."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from equimu._errors import EquimuError, counted
from equimu._values import checked, shown
from equimu.plans.machines import COMPILERS, Machine, examples, machines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Machines of a kind, joined: `sizes` is what follows the colon of the name, `hosts` those that a network joins."""

    name: str
    machine: Machine
    sizes: str
    devices: int
    hosts: int = 1

    @property
    def per_host(self) -> int:
        """Devices in each host."""
        return self.devices // self.hosts


def parse_topology(name: str) -> Topology:
    """The machine of that name: a kind and how many there are along each dimension.

    Raises:
        EquimuError: no such kind, not that many dimensions, or more devices than a host holds. Whether the compiler knows the
            size shows when it is asked.
    """
    match = re.fullmatch(r"(\w+):(\d{1,9}(?:x\d{1,9})*)", checked("topology", name, str)[:100], re.ASCII)
    machine = machines().get(match[1]) if match else None
    if match is None or machine is None:
        raise unknown_topology(name, "how many follows a colon" if name in machines() else "")
    sizes = [int(size) for size in match[2].split("x")]
    above = len(sizes) - machine.dimensions
    if min(sizes) < 1 or above not in ((0,) if machine.network is None else (0, 1)):
        raise unknown_topology(name, f"{machine.name} has {counted(machine.dimensions, 'dimension')}")
    hosts = math.prod(sizes[:above])
    devices = math.prod(sizes) * machine.per_chip
    if machine.per_host is not None and devices // hosts > machine.per_host:
        raise EquimuError(
            f"topology {name!r} has {devices // hosts} devices a host, and a host of {machine.name} holds {machine.per_host}; "
            f"several hosts are {machine.name}:2x{machine.per_host}"
        )
    if devices > COMPILERS[machine.compiler].most:
        raise EquimuError(f"topology {name!r} has {devices} devices, more than can be compiled for")
    return Topology(name=name, machine=machine, sizes=match[2], devices=devices, hosts=hosts)


def unknown_topology(name: str, reason: str = "") -> EquimuError:
    """The error for a name that is none."""
    why = f" ({reason})" if reason else ""
    return EquimuError(f"topology {shown(name)} is unknown{why}; valid are names such as {', '.join(examples())}")


def topology_from_dict(values: Mapping[str, Any]) -> Topology:
    """What `dataclasses.asdict` made of a topology: its machine need not be registered here."""
    fields: dict[str, Any] = {**values, "machine": Machine(**values["machine"])}
    return Topology(**fields)


def devices_of(topology: Topology) -> list[Any]:
    """The devices of a topology, real ones on a CPU and otherwise only their descriptions.

    Raises:
        EquimuError: the compiler does not know the size.
    """
    machine = topology.machine
    try:
        return list(COMPILERS[machine.compiler].devices(machine, topology.sizes, topology.devices))
    except ValueError as error:
        raise unknown_topology(topology.name, str(error)) from None


def check_compiler(topology: Topology) -> None:
    """Raises an `EquimuError` if the compiler for the topology is not installed."""
    missing = COMPILERS[topology.machine.compiler].missing()
    if missing is not None:
        raise EquimuError(f"compiling for {topology.name} needs {missing}")


def environment_for(topology: Topology) -> Mapping[str, str]:
    """What a process needs in its environment before it imports JAX, to compile for the topology on any machine.

    Only the CPU is a device there.
    """
    own = COMPILERS[topology.machine.compiler].environment(topology.devices)
    return {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0", "TF_CPP_MIN_LOG_LEVEL": "3", **own}
