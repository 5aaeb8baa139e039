"""Google's TPUs, with their public figures, and libtpu, which compiles for them on any machine."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from equimu._peaks import PEAKS
from equimu.plans.machines._machine import Compiler, Machine

_GIB = 2**30
_DOCS = "docs.cloud.google.com/tpu/docs"
_JOUPPI = "Jouppi et al., arXiv 2304.01433, table 4"

# Clocks that are not published follow from the peak and the matrix units: peak = 2 · units · size² · clock.
# What the documentation calls bidirectional bandwidth of the interconnect is twice what a device can send.
MACHINES = (
    Machine(
        name="v3",
        compiler="tpu",
        examples=("8x8", "16x8"),
        kind="TPU v3",
        per_chip=2,
        memory=16 * _GIB,
        flops=PEAKS["TPU v3"],
        bandwidth=450e9,
        interconnect=140e9,
        clock=940e6,
        matrix_units=2,
        matrix_size=128,
        dimensions=2,
        source=f"{_DOCS}/v3; clock and links (4 of 70 GB/s a chip): {_JOUPPI}",
    ),
    Machine(
        name="v4",
        compiler="tpu",
        examples=("4x4x8",),
        kind="TPU v4",
        per_chip=1,
        memory=32 * _GIB,
        flops=PEAKS["TPU v4"],
        bandwidth=1228e9,
        interconnect=300e9,
        clock=1050e6,
        matrix_units=8,
        matrix_size=128,
        dimensions=3,
        megacore=True,
        source=f"{_DOCS}/v4; clock and links (6 of 50 GB/s): {_JOUPPI}",
    ),
    Machine(
        name="v5e",
        compiler="tpu",
        examples=("16x16",),
        kind="TPU v5 lite",
        per_chip=1,
        memory=16 * _GIB,
        flops=PEAKS["TPU v5 lite"],
        bandwidth=819e9,
        interconnect=200e9,
        clock=1500e6,
        matrix_units=4,
        matrix_size=128,
        dimensions=2,
        source=f"{_DOCS}/v5e",
    ),
    Machine(
        name="v5p",
        compiler="tpu",
        examples=("4x4x8",),
        kind="TPU v5",
        per_chip=1,
        memory=95 * _GIB,
        flops=PEAKS["TPU v5"],
        bandwidth=2765e9,
        interconnect=600e9,
        clock=1750e6,
        matrix_units=8,
        matrix_size=128,
        dimensions=3,
        megacore=True,
        source=f"{_DOCS}/v5p",
    ),
    Machine(
        name="v6e",
        compiler="tpu",
        examples=("16x16",),
        kind="TPU v6 lite",
        per_chip=1,
        memory=32 * _GIB,
        flops=PEAKS["TPU v6 lite"],
        bandwidth=1638e9,
        interconnect=400e9,
        clock=1750e6,
        matrix_units=4,
        matrix_size=256,
        dimensions=2,
        source=f"{_DOCS}/v6e",
    ),
)


class Libtpu(Compiler):
    """libtpu, which describes the devices of a pod by its name."""

    most = 2**16

    def missing(self) -> str | None:
        """As `Compiler.missing`."""
        if importlib.util.find_spec("libtpu") is None:
            return "libtpu, which is not installed: pip install 'equimu[tpu]'"
        return None

    def environment(self, devices: int) -> Mapping[str, str]:
        """As `Compiler.environment`.

        It would ask the machine's metadata for its host and wait for it; and it takes a lock for the chips, which are not used.
        """
        return {
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-16",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_STDERR_LOG_LEVEL": "3",
            "TPU_MIN_LOG_LEVEL": "3",
        }

    def devices(self, machine: Machine, sizes: str, number: int) -> Sequence[Any]:
        """As `Compiler.devices`: descriptions."""
        name = f"{machine.compiled_as or machine.name}:{sizes}"
        cores: dict[str, str] = {"chip_config_name": "megacore"} if machine.megacore else {}
        try:
            return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **cores).devices)
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(str(error).splitlines()[0][:200].rstrip(".")) from None
