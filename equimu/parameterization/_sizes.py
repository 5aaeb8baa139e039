"""Which size is a width and which a depth, and each leaf's dimensions: found by tracing, never by name."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from equimu._axes import Axes
from equimu._errors import EquimuError
from equimu.parameterization._law import Dimensions
from equimu.parameterization._leaves import Leaf, branch_ends, locate
from equimu.parameterization._rule import Role
from equimu.parameterization._trace import Blueprint

_IN = {"in", "kernel"}
_OUT = {"out", "inner"}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The arrays of the target model, and how they grow from the base to it.

    - `wide`: for each leaf's path, the axes that grow with some width, and by what ratio that width grows.
    - `at_base_width`: for each leaf's path, its shape with every width at the base and every depth at the target.
    - `depth`, `depth_ratio`: for each leaf's path, how often its block is repeated, and that relative to the base.
    - `branch_ends`: the paths of the parts that are declared to end a residual branch.

    Leaves without a declaration whose first axis changes with the number of blocks have been found to be stacks.
    """

    leaves: list[Leaf]
    wide: Mapping[str, Mapping[int, Fraction]]
    at_base_width: Mapping[str, tuple[int, ...]]
    depth: Mapping[str, int]
    depth_ratio: Mapping[str, Fraction]
    branch_ends: frozenset[str]

    def fan_in(self, path: str) -> int:
        """The fan-in of a leaf whose axes are declared."""
        (leaf,) = (leaf for leaf in self.leaves if leaf.path == path)
        assert leaf.axes is not None
        return math.prod(
            size for size, word in zip(leaf.shape[leaf.stacks :], leaf.axes.words, strict=True) if word in _IN
        )


def measure(make: Callable[..., Any], base: Mapping[str, int], target: Mapping[str, int]) -> Geometry:
    """Traces the model at the target and with one size changed at a time.

    Raises:
        EquimuError: base and target name different sizes, a size is no positive integer, larger at the base than at the
            target, changes no array, or changes both widths and the number of blocks.
    """
    _check_sizes(base, target)
    model = Blueprint(make, target).shapes()
    leaves = locate(model)
    wide: dict[str, dict[int, Fraction]] = {leaf.path: {} for leaf in leaves}
    depth = {leaf.path: 1 for leaf in leaves}
    depth_ratio = {leaf.path: Fraction(1) for leaf in leaves}
    widths: list[str] = []
    changed: list[Leaf] = leaves
    for name, size in target.items():
        # At equal sizes the change has to be made up: what a leaf's axes are does not depend on the ratio.
        other = base[name] if base[name] != size else 2 * size
        changed = locate(Blueprint(make, {**target, name: other}).shapes())
        grown, repeated, stacked = _compare(name, leaves, changed)
        leaves = [_as_stack(leaf) if leaf.path in stacked else leaf for leaf in leaves]
        if grown:
            widths.append(name)
        ratio = Fraction(size, base[name])
        for path, axes in grown.items():
            for axis in axes:
                wide[path][axis] = wide[path].get(axis, 1) * ratio
        for path in repeated:
            depth[path] *= size
            depth_ratio[path] *= ratio
    if all(base[name] == target[name] for name in widths):
        reference = leaves
    elif len(widths) == 1 and list(target) == widths:
        reference = changed
    else:
        reference = locate(Blueprint(make, {**target, **{name: base[name] for name in widths}}).shapes())
    return Geometry(
        leaves=leaves,
        wide=wide,
        at_base_width={leaf.path: leaf.shape for leaf in reference},
        depth=depth,
        depth_ratio=depth_ratio,
        branch_ends=branch_ends(model),
    )


def _check_sizes(base: Mapping[str, int], target: Mapping[str, int]) -> None:
    if not base or set(base) != set(target):
        raise EquimuError(
            f"base and target must name the same sizes, at least one: got {sorted(base)} and {sorted(target)}"
        )
    for name in base:
        for sizes in (base, target):
            size = sizes[name]
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise EquimuError(f"{name} must be a positive integer, got {size!r}")
        if base[name] > target[name]:
            raise EquimuError(
                f"base {name} {base[name]} is larger than the target's {target[name]}; "
                "the base is the small model: exchange them or lower the base"
            )


def _compare(name: str, leaves: list[Leaf], changed: list[Leaf]) -> tuple[dict[str, set[int]], set[str], set[str]]:
    """The axes that a size changes, by leaf; the leaves that it repeats; and those of them that were found to be stacks."""
    theirs = {leaf.path: leaf for leaf in changed}
    counts, their_counts = (Counter(leaf.pattern for leaf in found) for found in (leaves, changed))
    grown: dict[str, set[int]] = {}
    repeated: set[str] = set()
    for leaf in leaves:
        if counts[leaf.pattern] != their_counts[leaf.pattern]:
            repeated.add(leaf.path)
        other = theirs.get(leaf.path)
        if other is None or other.shape == leaf.shape:
            continue
        if len(other.shape) != len(leaf.shape):
            raise EquimuError(
                f"{leaf.describe()} changes its number of axes with {name}, which no rule can follow: "
                f"{list(leaf.shape)} and {list(other.shape)}"
            )
        for axis, (mine, its) in enumerate(zip(leaf.shape, other.shape, strict=True)):
            if mine != its:
                if axis < leaf.stacks:
                    repeated.add(leaf.path)
                else:
                    grown.setdefault(leaf.path, set()).add(axis)
    stacked = {leaf.path for leaf in leaves if leaf.axes is None and grown.get(leaf.path) == {0}}
    if repeated and set(grown) == stacked:
        # The blocks are stacked, and these are bare arrays of theirs.
        grown, repeated = {}, repeated | stacked
    else:
        stacked = set()
    if set(their_counts) - set(counts) or (not grown and not repeated):
        what = "adds arrays of another kind to" if set(their_counts) - set(counts) else "changes no array of"
        raise EquimuError(
            f"{name} {what} the model, so it is neither a width nor a depth; leave it out of base and target"
        )
    if grown and repeated:
        raise EquimuError(
            f"{name} changes both the width of arrays ({min(grown)}) and the number of blocks ({min(repeated)}); "
            "give `make` one size for each, or leave it out of base and target"
        )
    return grown, repeated, stacked


def _as_stack(leaf: Leaf) -> Leaf:
    """A leaf without a declaration that stands in stacked blocks: what is left of a vector's axes has one reading."""
    return dataclasses.replace(leaf, axes=Axes(("out",) * (len(leaf.shape) - 1))) if len(leaf.shape) < 3 else leaf


def dimensions(leaf: Leaf, words: tuple[str, ...], geometry: Geometry) -> tuple[Dimensions, bool, bool]:
    """A leaf's dimensions when its trailing axes are read as `words`, and whether its fan-in and its fan-out are wide.

    What the run adds, `batch_ratio` and `length_ratio`, is not known here.
    """
    shape, base_shape, wide = leaf.shape, geometry.at_base_width[leaf.path], geometry.wide[leaf.path]
    first = len(shape) - len(words)

    def fan(kinds: set[str]) -> tuple[int, Fraction]:
        axes = [axis for axis, word in enumerate(words, start=first) if word in kinds]
        grown = (_growth(shape[axis], base_shape[axis], wide[axis]) for axis in axes if axis in wide)
        return math.prod(shape[axis] for axis in axes), math.prod(grown, start=Fraction(1))

    grown = {words[axis - first] for axis in wide}
    wide_in = bool(grown & _IN)
    wide_out = bool(grown & _OUT) or (wide_in and "inner" in words)
    (fan_in, in_ratio), (fan_out, out_ratio) = fan(_IN), fan(_OUT)
    return (
        Dimensions(
            fan_in=fan_in,
            fan_out=fan_out,
            fan_in_ratio=in_ratio,
            fan_out_ratio=out_ratio,
            width_ratio=in_ratio if wide_in else out_ratio,
            map_fan_in=fan_in if leaf.beside is None else geometry.fan_in(leaf.beside),
            narrowing=min(Fraction(fan_out, fan_in), Fraction(1)),
            depth=geometry.depth[leaf.path],
            depth_ratio=geometry.depth_ratio[leaf.path],
        ),
        wide_in,
        wide_out,
    )


def role_of(words: tuple[str, ...], wide_in: bool, wide_out: bool) -> Role:
    """The role of an array whose axes are `words` and whose fans are wide or not."""
    if wide_in:
        return "hidden" if wide_out else "output"
    if not wide_out:
        return "scalar"
    # A `kernel` alone reads, for each output, finitely many features of its own: its update moves that output, as a gain's.
    return "input" if {"in", "table"} & set(words) else "vector"


def _growth(size: int, base: int, ratio: Fraction) -> Fraction:
    """By what an axis grows: exactly as its width, where it differs from that by rounding only, as int(8/3 · width) does."""
    own = Fraction(size, base)
    return ratio if abs(own / ratio - 1) < Fraction(1, 20) else own
