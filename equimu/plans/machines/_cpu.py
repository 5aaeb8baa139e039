"""The CPU of this machine, as many devices as are asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from equimu.plans.machines._machine import Compiler, Machine

MACHINES = (Machine(name="cpu", kind="cpu"),)


class XlaCpu(Compiler):
    """XLA's compiler for the CPU, with as many devices as are asked for in place of others."""

    most = 2**10

    def missing(self) -> str | None:
        """As `Compiler.missing`: nothing."""

    def environment(self, devices: int) -> Mapping[str, str]:
        """As `Compiler.environment`."""
        return {"JAX_NUM_CPU_DEVICES": str(devices)}

    def devices(self, machine: Machine, sizes: str, number: int) -> Sequence[Any]:
        """As `Compiler.devices`: those of this process."""
        return jax.devices()[:number]
