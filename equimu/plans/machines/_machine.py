"""What a kind of machine is: values, which can be sent to another process, and the compiler that they name."""

import abc
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from equimu._errors import EquimuError
from equimu._values import Count, Positive, Real, Size, check_fields, takes_ints


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A kind of machine, and the figures of one of its devices: what JAX calls a device and a program runs on.

    Figures that are None are not known, and a plan leaves out what follows from them. Times need `flops`, `bandwidth` and
    `interconnect`.

    Attributes:
        name: as in the name of a machine, `v4` in `v4:4x4x8`.
        compiler: which compiles for it: `"tpu"` (libtpu), `"cuda"` (JAX's plugin for CUDA), or `"cpu"`, whose programs have the
            shapes, sums and collectives of other machines, though neither their fusions nor their kernels.
        compiled_as: the name by which the compiler knows it, `v5e` or `h100` say; None for `name`.
        kind: as JAX names its devices.
        dimensions: how many numbers follow the colon: those of the torus, or mesh, that the chips form. Where there is a
            `network`, the number of hosts may stand before them: `h100:8` is one host, `h100:4x8` are four.
        per_chip: devices in a chip; two cores of a v3 are two devices, from v4 on they work as one.
        memory: bytes of main memory.
        flops: operations a second at best, in bfloat16 where the device has it.
        bandwidth: bytes a second between the main memory and the device.
        interconnect: bytes a second that the device can send over all its links together: to others in its host, where there
            is a `network`.
        network: bytes a second that each device can send to other hosts; None where `interconnect` reaches all devices.
        per_host: devices in a host at most, where there is a `network`; None for any number.
        clock: cycles a second, where the compiler reports cycles; None where it does not.
        matrix_units: their number in a device.
        matrix_size: rows and columns of one of them.
        megacore: whether the device is two cores that work as one, which the compiler needs to know.
        examples: sizes that there are, for messages: `4x4x8`.
        source: of the figures.

    Raises:
        EquimuError: a field that cannot be.
    """

    name: str
    compiler: Literal["cpu", "cuda", "tpu"] = "cpu"
    compiled_as: str | None = None
    kind: str = ""
    dimensions: Size = 1
    per_chip: Size = 1
    memory: Count | None = None
    flops: Positive | None = None
    bandwidth: Positive | None = None
    interconnect: Positive | None = None
    network: Positive | None = None
    per_host: Size | None = None
    clock: Positive | None = None
    matrix_units: Size | None = None
    matrix_size: Size | None = None
    megacore: bool = False
    examples: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        check_fields(self, "machine.")
        if not re.fullmatch(r"\w+", self.name, re.ASCII):
            raise EquimuError(f"machine.name {self.name!r} is not a word of letters, digits and _, e.g. 'cluster'")
        given = [value is not None for value in (self.flops, self.bandwidth, self.interconnect)]
        if any(given) != all(given):
            raise EquimuError(
                f"the times on {self.name} follow from machine.flops, machine.bandwidth and machine.interconnect together; "
                "give all three, or none"
            )
        if self.network is None and self.per_host is not None:
            raise EquimuError(f"machine.per_host of {self.name} needs machine.network, what joins its hosts")

    @property
    def has_times(self) -> bool:
        """Whether the figures that times need are known."""
        return self.flops is not None


class Compiler(abc.ABC):
    """What compiles for a vendor's machines, on any machine.

    - `most`: devices that it is asked for at most.
    """

    most: int

    @abc.abstractmethod
    def missing(self) -> str | None:
        """What is not installed that it needs, as the rest of a sentence; None if nothing is."""

    @abc.abstractmethod
    def environment(self, devices: int) -> Mapping[str, str]:
        """What a process needs in its environment before it imports JAX, on top of what all need."""

    def notes(self, used: Real | None) -> tuple[str, ...]:
        """What a reader of a plan should know of how it was compiled, a sentence each.

        Args:
            used: share of the device's memory that the program needs; None where the memory is not known.
        """
        del used
        return ()

    @abc.abstractmethod
    def devices(self, machine: Machine, sizes: str, number: int) -> Sequence[Any]:
        """The devices, real ones or their descriptions.

        Args:
            machine: their kind.
            sizes: what follows the colon of the machine's name.
            number: of devices.

        Raises:
            ValueError: the compiler does not know the size; with its reason.
        """
