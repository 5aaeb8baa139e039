"""What a compiled program does, counted from its text: operations, bytes, collectives, kernels and the compiler's own cycles.

The compiler's own totals count the body of a loop once. Here it counts as often as the loop runs.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

from equimu._values import Real
from equimu.plans._groups import group_size, in_a_host
from equimu.plans._hlo import Computation, Instruction, Module
from equimu.plans._kernels import kernel_of, without_workspace
from equimu.plans._product_flops import flops_of

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
_MOVES_NOTHING = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all")
    + ("iota", "partition-id", "replica-id", "opt-barrier", "copy-done", "async-done", "async-update", "domain")
)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of a kind: how many, and the bytes that a device sends for them.

    - `count`: calls in a step, those in loops as often as they run.
    - `bytes`: in a step.
    - `across`: of the calls, those whose devices are in several hosts.
    - `network`: bytes that a device sends to other hosts for these. Where a group has several devices in a host, it forms as
      many rings, each of which leaves the host once.
    """

    count: Real
    bytes: Real
    across: Real = 0.0
    network: Real = 0.0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def times(self, n: Real) -> "Traffic":
        """That of n runs."""
        return Traffic(*(value * n for value in dataclasses.astuple(self)))


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of one device in one run of a program.

    Attributes:
        flops: of the matrix products, kernels aside.
        bytes: read from and written to the main memory.
        cycles: of the compiler's schedule, as far as it wrote them down; kernels and collectives have none.
        work: operations, or bytes times `balance`, whichever are more, of each instruction that runs by itself.
        collectives: by kind.
        exposed_bytes: bytes of the collectives that nothing else runs beside, as far as these stay in a host.
        exposed_network: bytes that those of them send to other hosts that do not.
        kernels: how often each kernel runs.
        unknown_loops: loops whose number of iterations only the running program knows.
    """

    flops: Real = 0.0
    bytes: Real = 0.0
    cycles: Real = 0.0
    work: Real = 0.0
    collectives: dict[str, Traffic] = dataclasses.field(default_factory=dict[str, Traffic])
    exposed_bytes: Real = 0.0
    exposed_network: Real = 0.0
    kernels: dict[str, Real] = dataclasses.field(default_factory=dict[str, float])
    unknown_loops: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        collectives = dict(self.collectives)
        for kind, traffic in other.collectives.items():
            collectives[kind] = collectives.get(kind, Traffic(0, 0)) + traffic
        kernels = dict(self.kernels)
        for name, count in other.kernels.items():
            kernels[name] = kernels.get(name, 0) + count
        return Counts(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.cycles + other.cycles,
            self.work + other.work,
            collectives,
            self.exposed_bytes + other.exposed_bytes,
            self.exposed_network + other.exposed_network,
            kernels,
            self.unknown_loops + other.unknown_loops,
        )

    def times(self, n: Real) -> "Counts":
        """The counts of n runs."""
        return Counts(
            self.flops * n,
            self.bytes * n,
            self.cycles * n,
            self.work * n,
            {kind: traffic.times(n) for kind, traffic in self.collectives.items()},
            self.exposed_bytes * n,
            self.exposed_network * n,
            {name: count * n for name, count in self.kernels.items()},
            self.unknown_loops,
        )


def count(text: str, *, hosts: Sequence[int] = (), balance: Real = 0.0) -> Counts:
    """What a program does.

    Where the number of iterations of a loop depends on data, as that of the blockwise attention's over the blocks that are seen
    does, it stands in a loop of N iterations over all blocks, and is taken to run (N + 1) / 2 times: what is causal sees that
    many. Several such loops side by side share them.

    Args:
        text: of the optimized program, as `compiled.as_text()` gives it.
        hosts: of each device of the program, in its order; none if all devices are joined alike.
        balance: operations that a device makes while it moves a byte of its main memory.
    """
    module = Module(text)

    @functools.cache
    def of(name: str, fused: bool, around: int) -> Counts:
        computation = module.computations[name]
        loops = {i.name: module.trips(i, computation) for i in computation if i.opcode == "while"}
        unknown = sum(trips is None for trips in loops.values())
        total = Counts()
        for instruction in computation:
            called = instruction.called
            own = _own(instruction, computation, module, fused, hosts)
            if instruction.opcode == "while":
                trips = loops[instruction.name]
                if trips is None:
                    own += Counts(unknown_loops=1) + of(called[0], fused, around).times((around + 1) / 2 / unknown)
                else:
                    own += of(called[0], fused, trips).times(trips)
            elif instruction.opcode == "conditional":
                own += max((of(branch, fused, around) for branch in called), key=lambda c: (c.flops, c.bytes))
            else:
                own = sum((of(part, fused or instruction.is_fusion, around) for part in called), own)
            total += own if fused or own.work else _with_work(own, balance)
        return total

    return of(module.entry, False, 1)


def _with_work(alone: Counts, balance: Real) -> Counts:
    """The counts of an instruction that runs by itself: collectives are not work of the device."""
    work = 0.0 if alone.collectives else max(alone.flops, alone.bytes * balance)
    return dataclasses.replace(alone, work=work)


def _own(instruction: Instruction, inside: Computation, module: Module, fused: bool, hosts: Sequence[int]) -> Counts:
    """The counts of an instruction without those of what it calls."""
    kind = instruction.opcode.removesuffix("-start")
    kernel = kernel_of(instruction)
    cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    counts = Counts(
        flops=flops_of(instruction, inside),
        bytes=0.0 if fused else _moved(instruction, inside, module),
        cycles=float(cycles[1]) if cycles and not fused else 0.0,
        kernels={} if kernel is None else {kernel: 1.0},
    )
    return counts + _collective(instruction, inside, fused, hosts) if kind in COLLECTIVES else counts


def _collective(instruction: Instruction, inside: Computation, fused: bool, hosts: Sequence[int]) -> Counts:
    times, kind, sync = _role(instruction, inside, fused)
    size = group_size(instruction.attributes)
    if not times or size <= 1:
        return Counts()
    sent, own = times * _sent(instruction, inside, kind), in_a_host(instruction.attributes, hosts)
    if own is None:
        traffic = Traffic(times, sent)
        return Counts(collectives={kind: traffic}, exposed_bytes=sent if sync else 0.0)
    # To every other device something else, of which those in other hosts get theirs over the network; else rings.
    network = sent * (size - own) / (size - 1) if kind == "all-to-all" else sent / own
    traffic = Traffic(times, sent, times, network)
    return Counts(collectives={kind: traffic}, exposed_network=network if sync else 0.0)


def _role(instruction: Instruction, inside: Computation, fused: bool) -> tuple[Real, str, bool]:
    """How often a collective counts (0 or 1), its kind, and whether the device waits for it.

    The TPU's compiler hides one behind other work by writing it several times: in a fusion that starts it, in those that go on
    with it beside their own work, and in one that ends it. It counts where it starts. A fusion of a sum over devices
    and of the cut that takes the device's part of it is a reduce-scatter.
    """
    kind = instruction.opcode.removesuffix("-start")
    if not fused:
        return 1.0, kind, not instruction.opcode.endswith("-start")
    targets = [i.attribute("custom_call_target") or i.attributes for i in inside if i.opcode == "custom-call"]
    if any("AsyncCollectiveStart" in target for target in targets):
        return 1.0, kind, False
    if "async_collective_fusion" in inside.name or any("AsyncCollectiveDone" in target for target in targets):
        return 0.0, kind, False
    if kind == "all-reduce" and any(i.opcode == "dynamic-slice" for i in inside.users[instruction.name]):
        return 1.0, "reduce-scatter", True
    return 1.0, kind, True


def _sent(instruction: Instruction, inside: Computation, kind: str) -> Real:
    """Bytes that a device sends, if they go around a ring: for all-reduce twice, for all others once past the others."""
    whole = float(sum(operand.bytes for operand in inside.operands(instruction)))
    n = group_size(instruction.attributes)
    if kind == "collective-permute":
        return whole
    if kind == "all-gather":
        return whole * (n - 1)
    return whole * (n - 1) / n * (2 if kind == "all-reduce" else 1)


def _moved(instruction: Instruction, inside: Computation, module: Module) -> Real:
    """Bytes between the main memory and the device: of a stack, only the layer that is read or written."""
    if instruction.opcode in _MOVES_NOTHING or instruction.opcode.endswith("-done"):
        return 0.0
    operands = inside.operands(instruction)
    if instruction.is_fusion:
        called = module.computations[instruction.called[0]]
        reads = [_read(called.parameters[n], called, operand) for n, operand in enumerate(operands)]
        return float(sum(reads) + _written(instruction, called.root, called))
    if instruction.opcode in ("dynamic-slice", "gather"):
        return 2.0 * _in_memory(instruction)
    if instruction.opcode == "dynamic-update-slice":
        return 2.0 * _in_memory(operands[1])
    return float(sum(map(_in_memory, operands)) + without_workspace(instruction))


def _read(parameter: Instruction, called: Computation, operand: Instruction) -> int:
    cuts: list[int] = []
    for user in _readers(parameter, called):
        if user.opcode in ("dynamic-slice", "gather"):
            cuts.append(user.bytes)
        elif user.opcode != "dynamic-update-slice" or _origin(user.operands[0], called) != parameter.name:
            return _in_memory(operand)
    return min(sum(cuts), _in_memory(operand))


def _written(fusion: Instruction, root: Instruction, called: Computation) -> int:
    while root.opcode == "bitcast":
        root = called[root.operands[0]]
    if root.opcode == "dynamic-update-slice":
        return called[root.operands[1]].bytes
    # what is begun hands on its operands with its result
    return _in_memory(root if fusion.opcode.endswith("-start") else fusion)


def _readers(value: Instruction, inside: Computation) -> list[Instruction]:
    """What reads a value, looked at through changes of its shape."""
    found: list[Instruction] = []
    for user in inside.users[value.name]:
        found += _readers(user, inside) if user.opcode == "bitcast" else [user]
    return found


def _origin(name: str, inside: Computation) -> str:
    while inside[name].opcode == "bitcast":
        name = inside[name].operands[0]
    return name


def _in_memory(instruction: Instruction) -> int:
    return sum(shape.bytes for shape in instruction.shapes if not shape.on_chip)
