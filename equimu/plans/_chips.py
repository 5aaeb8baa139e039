"""Public figures of the chips that a plan can be made for, per device: what JAX calls a device and a program runs on."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One device of a kind.

    Attributes:
        name: as in a topology's name, `v4` in `v4:4x4x8`.
        kind: as JAX names it.
        per_chip: devices in a chip; two cores of a v3 are two devices, from v4 on they work as one.
        memory: bytes of HBM.
        flops: bfloat16 operations a second at best.
        bandwidth: bytes a second between HBM and the device.
        interconnect: bytes a second that the device can send over all its links together.
        clock: cycles a second.
        matrix_units: their number in a device.
        matrix_size: rows and columns of one of them.
        dimensions: of the torus, or mesh, that the chips form.
        megacore: whether the device is two cores that work as one, which the compiler must be told.
        source: of the figures.
    """

    name: str
    kind: str
    per_chip: int
    memory: int
    flops: float
    bandwidth: float
    interconnect: float
    clock: float
    matrix_units: int
    matrix_size: int
    dimensions: int
    megacore: bool = False
    source: str


_GIB = 2**30
_DOCS = "docs.cloud.google.com/tpu/docs"
_JOUPPI = "Jouppi et al., arXiv 2304.01433, table 4"

# Clocks that are not published follow from the peak and the matrix units: peak = 2 · units · size² · clock.
# What the documentation calls bidirectional bandwidth of the interconnect is twice what a device can send.
_TABLE = (
    Chip(
        name="v3",
        kind="TPU v3",
        per_chip=2,
        memory=16 * _GIB,
        flops=61.5e12,
        bandwidth=450e9,
        interconnect=140e9,
        clock=940e6,
        matrix_units=2,
        matrix_size=128,
        dimensions=2,
        source=f"{_DOCS}/v3; clock and links (4 of 70 GB/s a chip): {_JOUPPI}",
    ),
    Chip(
        name="v4",
        kind="TPU v4",
        per_chip=1,
        memory=32 * _GIB,
        flops=275e12,
        bandwidth=1228e9,
        interconnect=300e9,
        clock=1050e6,
        matrix_units=8,
        matrix_size=128,
        dimensions=3,
        megacore=True,
        source=f"{_DOCS}/v4; clock and links (6 of 50 GB/s): {_JOUPPI}",
    ),
    Chip(
        name="v5e",
        kind="TPU v5 lite",
        per_chip=1,
        memory=16 * _GIB,
        flops=197e12,
        bandwidth=819e9,
        interconnect=200e9,
        clock=1500e6,
        matrix_units=4,
        matrix_size=128,
        dimensions=2,
        source=f"{_DOCS}/v5e",
    ),
    Chip(
        name="v5p",
        kind="TPU v5",
        per_chip=1,
        memory=95 * _GIB,
        flops=459e12,
        bandwidth=2765e9,
        interconnect=600e9,
        clock=1750e6,
        matrix_units=8,
        matrix_size=128,
        dimensions=3,
        megacore=True,
        source=f"{_DOCS}/v5p",
    ),
    Chip(
        name="v6e",
        kind="TPU v6 lite",
        per_chip=1,
        memory=32 * _GIB,
        flops=918e12,
        bandwidth=1638e9,
        interconnect=400e9,
        clock=1750e6,
        matrix_units=4,
        matrix_size=256,
        dimensions=2,
        source=f"{_DOCS}/v6e",
    ),
)
CHIPS: Mapping[str, Chip] = {chip.name: chip for chip in _TABLE}
