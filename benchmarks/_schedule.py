"""What the TPU compiler's dump says of a kernel: how many bundles each of its sections has.

The compiler writes each kernel's final program as very long instruction words ("bundles"), one a cycle unless the machine
stalls. A kernel is one loop over the steps of its grid. Inside are loops, and sections that a branch jumps over
(`pl.when`). Each bundle is counted for the innermost loop or section around it that does vector work; sections that only
start or await copies are counted as part of the step, as if they were always entered.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence

DELAY = 4  # bundles after a branch that are executed whether it is taken or not
LEAST = 8  # bundles that do vector work, from which on a section counts by itself

_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(LB|PF|PB|CT|LH|LE)?\s*:\s*(>*) ")
_BRANCH = re.compile(r"sbr\.rel .*?target = \$region(\d+)")
_EMPTY = re.compile(r"Start/End empty region (\d+)")
_MEMORY = re.compile(r"^\s*#allocation\d+ \[.*space=vmem, size = (0x[0-9a-f]+)")
_VECTOR = ("MXU", "XLU", "VALU", "EUP", "VLOAD", "VSTORE")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the kernel that is executed as a whole."""

    loop: bool  # within the loop over the grid
    bundles: int
    busy: Mapping[str, int]  # slots taken, by unit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A kernel: what every step of the grid executes, and the sections in the order of the program."""

    step: Section
    sections: tuple[Section, ...]
    capacity: Mapping[str, int]  # slots a bundle, by unit
    vmem: (
        int  # bytes of fast memory: the windows of the operands and what the kernel asks for, without spilled registers
    )


def read(folder: pathlib.Path, name: str) -> Program:
    """The program of the kernel whose name holds `name`.

    Raises:
        ValueError: there is no such dump, more than one, or one of another form than was seen.
    """
    texts = [path for path in folder.glob(f"*{name}*-final_bundles.txt") if "schedule-analysis" not in path.name]
    originals = list(folder.glob(f"*{name}*-original.txt"))
    tables = list(folder.glob(f"*{name}*-final_hlo-static-per-bundle-utilization.txt"))
    if len(texts) != 1 or len(tables) != 1:
        raise ValueError(f"{folder} has {len(texts)} dumps of a kernel {name!r} where one is needed")
    depths, loops, sections = _outline(texts[0].read_text().splitlines())
    capacity, busy = _utilization(tables[0].read_text().splitlines())
    if len(busy) != len(depths):
        raise ValueError(f"{texts[0].name}: {len(depths)} bundles but {len(busy)} rows of utilization")

    def works(span: tuple[int, int]) -> bool:
        return sum(any(row[unit] for unit in _VECTOR) for row in busy[slice(*span)]) >= LEAST

    spans = sorted((span for span in {*loops, *sections} if works(span)), key=lambda span: (span[0], -span[1]))
    owner = [-1 if depth else None for depth in depths]  # None: outside of the loop over the grid
    for number, (begin, end) in enumerate(spans):  # an inner one comes later, and takes its bundles from the outer
        owner[begin:end] = [number] * (end - begin)

    def section(number: int, loop: bool) -> Section:
        rows = [row for row, own in zip(busy, owner, strict=True) if own == number]
        return Section(loop=loop, bundles=len(rows), busy={unit: sum(row[unit] for row in rows) for unit in capacity})

    parts = tuple(section(number, span in loops) for number, span in enumerate(spans))
    sizes = [_MEMORY.match(line) for line in originals[0].read_text().splitlines()]
    vmem = sum(int(size[1], 16) for size in sizes if size is not None)
    return Program(step=section(-1, False), sections=parts, capacity=capacity, vmem=vmem)


def _outline(lines: Sequence[str]) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, int]]]:
    """How many loops are around each bundle; the spans of the loops inside the grid's, and of what branches skip."""
    depths: list[int] = []
    branches: list[tuple[int, str]] = []
    joins: dict[str, int] = {}
    for line in lines:
        bundle = _BUNDLE.match(line)
        if bundle is not None:
            depths.append(len(bundle[2]))
        for region in _EMPTY.findall(line):
            joins[region] = len(depths) - 1
        branch = _BRANCH.search(line)
        if branch is not None:
            branches.append((len(depths) - 1, branch[1]))
    loops: list[tuple[int, int]] = []
    sections = [(at + DELAY + 1, joins[to]) for at, to in branches if joins.get(to, 0) > at]
    inside = [at for at, depth in enumerate(depths) if depth > 1]
    for at in inside:
        if loops and loops[-1][1] == at:
            loops[-1] = (loops[-1][0], at + 1)
        else:
            loops.append((at, at + 1))
    # The delay slots of a loop's closing branch are marked as outside of it, except for what they carry; a gap of
    # that size belongs to the loop.
    merged: list[tuple[int, int]] = []
    for begin, end in loops:
        if merged and begin - merged[-1][1] <= DELAY:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    return depths, merged, sections


def _utilization(lines: Sequence[str]) -> tuple[dict[str, int], list[dict[str, int]]]:
    """The slots a bundle of each unit, and those taken in each bundle."""
    units = [unit.strip() for unit in lines[1].split(",")]
    capacity = dict(zip(units, map(int, lines[2].split()), strict=True))
    return capacity, [dict(zip(units, map(int, line.split()), strict=True)) for line in lines[4:] if line.strip()]
