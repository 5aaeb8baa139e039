"""The kinds of machines by name, users' own among them, and the compilers that they name."""

from collections.abc import Mapping
from types import MappingProxyType

from equimu._errors import EquimuError
from equimu._peaks import add_peak
from equimu._values import check
from equimu.plans.machines import _cpu, _google, _nvidia
from equimu.plans.machines._machine import Compiler, Machine

COMPILERS: Mapping[str, Compiler] = {"cpu": _cpu.XlaCpu(), "cuda": _nvidia.Cuda(), "tpu": _google.Libtpu()}
_REGISTERED: dict[str, Machine] = {
    machine.name: machine for machine in (*_google.MACHINES, *_nvidia.MACHINES, *_cpu.MACHINES)
}
_OWN = frozenset(_REGISTERED)


def register_machine(machine: Machine) -> None:
    """Adds a kind of machine that plans can be made for: `equimu plan mine:8`.

    Registering a name again replaces its machine.

    Args:
        machine: whose name is not one of this library's.

    Raises:
        EquimuError: the name is taken.

    Example:
        >>> register_machine(Machine(name="mine", memory=80 * 2**30, flops=989e12, bandwidth=3.35e12, interconnect=450e9))
    """
    check(Machine, machine=machine)
    if machine.name in _OWN:
        raise EquimuError(f"{machine.name!r} is a machine of equimu's own; choose another name")
    _REGISTERED[machine.name] = machine
    if machine.kind and machine.flops is not None:
        add_peak(machine.kind, machine.flops)


def machines() -> Mapping[str, Machine]:
    """All kinds of machines by name, those that were registered among them; a view, which cannot be changed."""
    return MappingProxyType(_REGISTERED)


def examples() -> tuple[str, ...]:
    """Names of whole machines, some of each kind."""
    return tuple(
        f"{machine.name}:{sizes}"
        for machine in _REGISTERED.values()
        for sizes in machine.examples or ("x".join(["8"] * machine.dimensions),)
    )
