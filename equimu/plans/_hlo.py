"""The text of a compiled program, taken apart: computations, their instructions, and how often each loop runs."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array of an instruction's result."""

    dtype: str
    sizes: tuple[int, ...]
    on_chip: bool  # in the fast memory beside the cores, and not in the main one

    @property
    def bytes(self) -> int:
        """Bytes of the array, without padding."""
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype) if self.dtype in _BITS else int(digits[0]) if digits else 8
        return math.ceil(math.prod(self.sizes) * (bits or 0) / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation. `attributes` is the text after the operands."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    arguments: str  # the text between the parentheses: a constant's value, a parameter's number
    attributes: str
    is_root: bool

    @property
    def bytes(self) -> int:
        """Bytes of the result."""
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, name: str) -> str | None:
        """The word after `name=`, without its leading percent sign."""
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else None

    def text(self, name: str) -> str:
        """The text in quotes after `name=`; an empty one if it is not there."""
        match = re.search(rf'\b{name}="([^"]*)"', self.attributes)
        return match[1] if match else ""

    def sizes(self, name: str) -> tuple[int, ...]:
        """The numbers in braces after `name=`; none if it is not there."""
        match = re.search(rf"\b{name}=\{{([\d,]*)\}}", self.attributes)
        return tuple(int(size) for size in match[1].split(",") if size) if match else ()

    @property
    def is_fusion(self) -> bool:
        """Whether what it calls is one kernel."""
        return self.opcode.removesuffix("-start") == "fusion"

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that run where this instruction does; the condition of a loop is not among them."""
        if self.opcode == "while":
            return (self.attribute("body") or "",)
        if self.opcode == "conditional":
            match = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
            if match:
                return tuple(name.strip().lstrip("%") for name in match[1].split(","))
            return tuple(self.attribute(f"{word}_computation") or "" for word in ("true", "false"))
        if self.opcode == "call":
            return (self.attribute("to_apply") or "",)
        if self.is_fusion or self.opcode == "async-start":
            return (self.attribute("calls") or "",)
        return ()


class Computation:
    """Instructions by name, in the order in which they are written."""

    def __init__(self, name: str, instructions: Mapping[str, Instruction]):
        self.name = name
        self._instructions = instructions

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self._instructions.values())

    def __getitem__(self, name: str) -> Instruction:
        return self._instructions[name]

    @functools.cached_property
    def root(self) -> Instruction:
        """The instruction whose result is the computation's."""
        return next(instruction for instruction in self if instruction.is_root)

    @functools.cached_property
    def parameters(self) -> Mapping[int, Instruction]:
        """The parameters by their number."""
        return {int(i.arguments): i for i in self if i.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> Mapping[str, tuple[Instruction, ...]]:
        """The instructions that read each one's result."""
        found: dict[str, list[Instruction]] = {instruction.name: [] for instruction in self}
        for instruction in self:
            for operand in dict.fromkeys(instruction.operands):
                found[operand].append(instruction)
        return {name: tuple(users) for name, users in found.items()}

    def operands(self, instruction: Instruction) -> tuple[Instruction, ...]:
        """The instructions whose results an instruction reads."""
        return tuple(self[name] for name in instruction.operands)


class Module:
    """A program: its computations by name, and the one that it begins with."""

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        name, lines = "", dict[str, Instruction]()
        for line in text.splitlines():
            if head := _COMPUTATION.match(line):
                name, lines = head[2], {}
                if head[1]:
                    self.entry = name
            elif line.startswith("}"):  # after it may stand the thread that runs it
                self.computations[name] = Computation(name, lines)
            elif instruction := _instruction(line):
                lines[instruction.name] = instruction

    def trips(self, loop: Instruction, inside: Computation) -> int | None:
        """How often a `while` runs, or None if only the running program knows.

        The compiler writes it down on a CPU. Elsewhere the loop's condition compares a counter, which begins at a constant and
        grows by one as every loop that JAX makes does, with a constant.
        """
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        condition = self.computations[loop.attribute("condition") or ""]
        compare = condition.root
        if compare.opcode != "compare" or compare.attribute("direction") != "LT":
            return None
        begin, end = (self._constant(i, condition, loop, inside) for i in condition.operands(compare))
        return None if begin is None or end is None else max(0, end - begin)

    def _constant(self, value: Instruction, at: Computation, loop: Instruction, inside: Computation) -> int | None:
        """The value that an integer in a loop's condition has as the loop begins, where that is a constant."""
        value, at = _through_copies(value, at), at
        if value.opcode == "get-tuple-element":
            start = _through_copies(inside[loop.operands[0]], inside)
            if start.opcode != "tuple":
                return None
            index = int(value.attribute("index") or 0)
            value = _through_copies(inside[start.operands[index]], inside)
        return int(value.arguments) if value.opcode == "constant" and value.arguments.lstrip("-").isdigit() else None


def _through_copies(value: Instruction, at: Computation) -> Instruction:
    while value.opcode in ("copy", "bitcast", "convert"):
        value = at[value.operands[0]]
    return value


def _instruction(line: str) -> Instruction | None:
    text = line.strip()
    head = _HEAD.match(text)
    if head is None:
        return None
    rest = text[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shapes = tuple(_shape(match) for match in _SHAPE.finditer(rest[:end]))
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        return None
    last = _closing(rest, opcode.end() - 1)
    arguments = rest[opcode.end() : last]
    operands = () if opcode[1] in ("constant", "parameter", "iota") else tuple(re.findall(r"%([\w.\-]+)", arguments))
    return Instruction(head[2], opcode[1], shapes, operands, arguments, rest[last + 1 :], bool(head[1]))


def _shape(match: re.Match[str]) -> Shape:
    sizes = tuple(int(size.lstrip("<=")) for size in match[2].split(",") if size)
    return Shape(match[1], sizes, "S(1)" in (match[3] or ""))


def _closing(text: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return len(text)
