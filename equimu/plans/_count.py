"""What a compiled program does, counted from its text: operations, bytes, collectives, kernels and the compiler's own cycles.

The compiler's own totals count the body of a loop once. Here it counts as often as the loop runs.
"""

import dataclasses
import functools
import math
import re

import numpy as np

from equimu._values import Real
from equimu.plans._hlo import Computation, Instruction, Module

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
KERNEL = "tpu_custom_call"
_MOVES_NOTHING = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all")
    + ("iota", "partition-id", "replica-id", "opt-barrier", "copy-done", "async-done", "async-update", "domain")
)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of a kind: how many, and the bytes that a device sends for them.

    - `count`: calls in a step, those in loops as often as they run.
    - `bytes`: in a step.
    """

    count: Real
    bytes: Real

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.count + other.count, self.bytes + other.bytes)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of one device in one run of a program.

    Attributes:
        flops: of the matrix products, kernels aside.
        bytes: read from and written to the main memory.
        cycles: of the compiler's schedule, as far as it wrote them down; kernels and collectives have none.
        collectives: by kind.
        exposed_bytes: bytes of the collectives that nothing else runs beside.
        kernels: how often each kernel runs.
        unknown_loops: loops whose number of iterations only the running program knows.
    """

    flops: Real = 0.0
    bytes: Real = 0.0
    cycles: Real = 0.0
    collectives: dict[str, Traffic] = dataclasses.field(default_factory=dict[str, Traffic])
    exposed_bytes: Real = 0.0
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
            collectives,
            self.exposed_bytes + other.exposed_bytes,
            kernels,
            self.unknown_loops + other.unknown_loops,
        )

    def times(self, n: Real) -> "Counts":
        """The counts of n runs."""
        return Counts(
            self.flops * n,
            self.bytes * n,
            self.cycles * n,
            {kind: Traffic(t.count * n, t.bytes * n) for kind, t in self.collectives.items()},
            self.exposed_bytes * n,
            {name: count * n for name, count in self.kernels.items()},
            self.unknown_loops,
        )


def count(text: str) -> Counts:
    """What a program does.

    Where the number of iterations of a loop depends on data, as that of the blockwise attention's over the blocks that are seen
    does, it stands in a loop of N iterations over all blocks, and is taken to run (N + 1) / 2 times: what is causal sees that
    many. Several such loops side by side share them.

    Args:
        text: of the optimized program, as `compiled.as_text()` gives it.
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
            total += _own(instruction, computation, module, fused)
            if instruction.opcode == "while":
                trips = loops[instruction.name]
                if trips is None:
                    total += Counts(unknown_loops=1) + of(called[0], fused, around).times((around + 1) / 2 / unknown)
                else:
                    total += of(called[0], fused, trips).times(trips)
            elif instruction.opcode == "conditional":
                total += max((of(branch, fused, around) for branch in called), key=lambda c: (c.flops, c.bytes))
            else:
                total = sum((of(part, fused or instruction.opcode == "fusion", around) for part in called), total)
        return total

    return of(module.entry, False, 1)


def _own(instruction: Instruction, inside: Computation, module: Module, fused: bool) -> Counts:
    """The counts of an instruction without those of what it calls."""
    opcode = instruction.opcode
    flops = {"dot": _dot_flops, "convolution": _convolution_flops}.get(opcode, lambda *_: 0.0)(instruction, inside)
    kind = opcode.removesuffix("-start")
    collectives, exposed_bytes = dict[str, Traffic](), 0.0
    if kind in COLLECTIVES:
        times, kind, sync = _role(instruction, inside, fused)
        sent = times * _sent(instruction, inside, kind)
        if times and group_size(instruction.attributes) > 1:
            collectives, exposed_bytes = {kind: Traffic(times, sent)}, sent if sync else 0.0
    is_kernel = opcode == "custom-call" and f'custom_call_target="{KERNEL}"' in instruction.attributes
    kernels = {re.sub(r"\.\d+$", "", instruction.name): 1.0} if is_kernel else {}
    cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    return Counts(
        flops,
        0.0 if fused else _moved(instruction, inside, module),
        float(cycles[1]) if cycles and not fused else 0.0,
        collectives,
        exposed_bytes,
        kernels,
    )


def _dot_flops(instruction: Instruction, inside: Computation) -> Real:
    left = inside.operands(instruction)[0].shapes[0].sizes
    summed = math.prod(left[axis] for axis in instruction.sizes("lhs_contracting_dims"))
    return 2.0 * math.prod(instruction.shapes[0].sizes) * summed


def _convolution_flops(instruction: Instruction, inside: Computation) -> Real:
    """Operations on entries that are there: those on padding and between the entries of a dilated array are not counted.

    The TPU's compiler writes every matrix product as a convolution, and batches of them as spatial axes that are dilated such
    that each output meets one entry.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels is not None
    left, right = (operand.shapes[0].sizes for operand in inside.operands(instruction))
    out = instruction.shapes[0].sizes
    products = out[labels[3].index("b")] * out[labels[3].index("f")] * right[labels[2].index("i")]
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    words = dict(word.split("=") for word in window[1].split()) if window else {}
    spatial = sorted(label for label in labels[1] if label.isdigit())

    def numbers(word: str, default: str) -> list[str]:
        return words.get(word, "x".join([default] * len(spatial))).split("x")

    for at, label in enumerate(spatial):
        products *= _met(
            size=left[labels[1].index(label)],
            taps=int(numbers("size", "1")[at]),
            steps=out[labels[3].index(label)],
            stride=int(numbers("stride", "1")[at]),
            low=int(numbers("pad", "0_0")[at].split("_")[0]),
            dilated=int(numbers("lhs_dilate", "1")[at]),
            spread=int(numbers("rhs_dilate", "1")[at]),
        )
    return 2.0 * products


def _met(*, size: int, taps: int, steps: int, stride: int, low: int, dilated: int, spread: int) -> int:
    """How many pairs of an output and a tap of the window meet an entry, along one axis."""
    at = np.arange(steps)[:, None] * stride + np.arange(taps)[None, :] * spread - low
    return int(np.sum((at >= 0) & (at <= (size - 1) * dilated) & (at % dilated == 0)))


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


def group_size(attributes: str) -> int:
    """How many devices take part in each of the groups of a collective; 2 for pairs that send to one another.

    The groups are written as lists, `{{0,1},{2,3}}`, as an array of groups, `[2,2]<=[4]`, or by the axes of a mesh,
    `mesh['a'=2,'b'=2] {'b'}`.
    """
    if "source_target_pairs" in attributes:
        return 2
    if groups := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(groups[1].split(","))
    if groups := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", attributes):
        return int(groups[2])
    if groups := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", groups[1]))
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", groups[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    if devices := re.search(r"num_partitions=(\d+)", attributes):
        return int(devices[1])
    return 1


def _moved(instruction: Instruction, inside: Computation, module: Module) -> Real:
    """Bytes between the main memory and the device: of a stack, only the layer that is read or written."""
    if instruction.opcode in _MOVES_NOTHING or instruction.opcode.endswith("-done"):
        return 0.0
    operands = inside.operands(instruction)
    if instruction.opcode == "fusion":
        called = module.computations[instruction.called[0]]
        reads = [_read(called.parameters[n], called, operand) for n, operand in enumerate(operands)]
        return float(sum(reads) + _written(instruction, called.root, called))
    if instruction.opcode in ("dynamic-slice", "gather"):
        return 2.0 * _in_memory(instruction)
    if instruction.opcode == "dynamic-update-slice":
        return 2.0 * _in_memory(operands[1])
    return float(sum(map(_in_memory, operands)) + _in_memory(instruction))


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
    return _in_memory(fusion)


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
