"""Which size is a width and which a depth, and each leaf's dimensions: found by tracing, never by name."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, SupportsIndex

from equimu._errors import EquimuError
from equimu._values import Size, checked
from equimu.declarations import Axes, Leaf, containers_of, locate
from equimu.parameterization._law import Dimensions
from equimu.parameterization._repeats import Counted, Model, compare, counted, pattern
from equimu.parameterization._rule import Role

_IN = {"in", "kernel"}
_OUT = {"out", "inner"}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The arrays of the target model, and how they grow from the base to it.

    - `wide`: for each leaf's path, the axes that grow with some width, and by what ratio that width grows.
    - `at_base_width`: for each leaf's path, its shape with every width at the base and every depth at the target.
    - `depth`, `depth_ratio`: for each leaf's path, how many blocks there are in its stack, and that relative to the base; 1
      outside stacks of blocks and in stacks of maps that are known to add nothing to a stream.
    - `parts`: for each leaf that exists in a number that grows with a width, the name of that.
    - `branch_ends`: the paths of the parts that are declared to end a residual branch.

    Leaves without a declaration whose first axis changes with the number of blocks have been found to be stacks.
    """

    leaves: list[Leaf]
    wide: Mapping[str, Mapping[int, Fraction]]
    at_base_width: Mapping[str, tuple[int, ...]]
    depth: Mapping[str, int]
    depth_ratio: Mapping[str, Fraction]
    parts: Mapping[str, str]
    branch_ends: frozenset[str]

    def fan_in(self, path: str) -> int:
        """The fan-in of a leaf whose axes are declared."""
        (leaf,) = (leaf for leaf in self.leaves if leaf.path == path)
        assert leaf.axes is not None
        return _fan(leaf, leaf.axes.words, leaf.shape, _IN)


def measure(
    shapes_at: Callable[[Mapping[str, int]], Any], base: Mapping[str, int], target: Mapping[str, int]
) -> Geometry:
    """Looks at the model at the target and with one size changed at a time.

    Args:
        shapes_at: from sizes to the shapes of the model.
        base, target: its sizes, as `checked_sizes` gives them.

    Raises:
        EquimuError: a size changes no array, or both widths and the number of residual blocks.
    """
    known: dict[tuple[int, ...], Model] = {}

    def model_at(sizes: Mapping[str, int]) -> Model:
        key = tuple(sizes[name] for name in target)
        if key not in known:
            shapes = shapes_at(sizes)
            known[key] = Model(locate(shapes), containers_of(shapes))
        return known[key]

    mine = model_at(target)
    wide: dict[str, dict[int, Fraction]] = {leaf.path: {} for leaf in mine.leaves}
    found: dict[str, Counted] = {leaf.path: Counted() for leaf in mine.leaves}
    parts: dict[str, str] = {}
    widths: list[str] = []
    for name, size in target.items():
        # At equal sizes the change has to be made up: what a leaf's axes are does not depend on the ratio.
        other = base[name] if base[name] != size else 2 * size
        difference = compare(name, (size, other), mine, model_at({**target, name: other}))
        mine = dataclasses.replace(mine, leaves=[_stack(leaf, difference.stacked) for leaf in mine.leaves])
        if difference.grown:
            widths.append(name)
        for path, axes in difference.grown.items():
            for axis in axes:
                wide[path][axis] = wide[path].get(axis, 1) * Fraction(size, base[name])
        if difference.grown and difference.repeated:
            parts |= dict.fromkeys(difference.repeated, name)
            continue
        for path, repeat in difference.repeated.items():
            ratio = Fraction(1) if base[name] == size else repeat.ratio
            found[path] = found[path].times(repeat, ratio)
    reference = model_at({**target, **{name: base[name] for name in widths}}).leaves
    depths = counted(mine, {path: count for path, count in found.items() if count.root is not None})
    # A part of which there are fewer at the base has the shape of those that are there.
    at_base = {pattern(leaf.path): leaf.shape for leaf in reference} | {leaf.path: leaf.shape for leaf in reference}
    return Geometry(
        leaves=mine.leaves,
        wide=wide,
        at_base_width={leaf.path: at_base.get(leaf.path, at_base[pattern(leaf.path)]) for leaf in mine.leaves},
        depth={path: depths.get(path, 1) for path in found},
        depth_ratio={path: found[path].ratio if path in depths else Fraction(1) for path in found},
        parts=parts,
        branch_ends=mine.containers.branch_ends,
    )


def checked_sizes(
    base: Mapping[str, SupportsIndex], target: Mapping[str, SupportsIndex]
) -> tuple[dict[str, int], dict[str, int]]:
    """Base and target as plain integers.

    Raises:
        EquimuError: they name different sizes, a size is not a positive integer, or larger at the base.
    """
    if not isinstance(base, Mapping) or not isinstance(target, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EquimuError(f"base and target are sizes by name, e.g. {{'width': 64}}: got {base!r} and {target!r}")
    if not base or set(base) != set(target):
        raise EquimuError(
            f"base and target must name the same sizes, at least one: got {sorted(base)} and {sorted(target)}"
        )
    small, large = ({name: checked(name, size, Size) for name, size in sizes.items()} for sizes in (base, target))
    for name in small:
        if small[name] > large[name]:
            raise EquimuError(
                f"base {name} {small[name]} is larger than the target's {large[name]}; "
                "the base is the small model: exchange them or lower the base"
            )
    return small, large


def _stack(leaf: Leaf, stacked: set[str]) -> Leaf:
    """A leaf without a declaration that stands in stacked blocks: what is left of a vector's axes has one reading."""
    if leaf.path not in stacked or len(leaf.shape) > 2:
        return leaf
    return dataclasses.replace(leaf, axes=Axes(("out",) * (len(leaf.shape) - 1)))


def _fan(leaf: Leaf, words: tuple[str, ...], shape: tuple[int, ...], kinds: set[str]) -> int:
    """The product of the axes of some kinds; of a kernel with strides, the positions that one output sees."""
    strides = iter(() if leaf.axes is None else leaf.axes.strides or ())
    sizes: list[int] = []
    for size, word in zip(shape[len(shape) - len(words) :], words, strict=True):
        seen = -(-size // next(strides, 1)) if word == "kernel" else size
        if word in kinds:
            sizes.append(seen)
    return math.prod(sizes)


def dimensions(leaf: Leaf, words: tuple[str, ...], geometry: Geometry) -> tuple[Dimensions, bool, bool]:
    """A leaf's dimensions when its trailing axes are read as `words`, and whether its fan-in and its fan-out are wide.

    What the run adds, `batch_ratio` and `length_ratio`, is not known here.
    """
    shape, base_shape, wide = leaf.shape, geometry.at_base_width[leaf.path], geometry.wide[leaf.path]
    first = len(shape) - len(words)

    def fan(kinds: set[str]) -> tuple[int, Fraction]:
        axes = [axis for axis, word in enumerate(words, start=first) if word in kinds]
        grown = (_growth(shape[axis], base_shape[axis], wide[axis]) for axis in axes if axis in wide)
        return _fan(leaf, words, shape, kinds), math.prod(grown, start=Fraction(1))

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
            layer_fan_in=fan_in if leaf.bias_of is None else geometry.fan_in(leaf.bias_of),
            narrowing=min(Fraction(fan_out, fan_in), Fraction(1)),
            readers_ratio=in_ratio / out_ratio if wide_in and "inner" in words and not grown & _OUT else Fraction(1),
            depth=geometry.depth[leaf.path],
            depth_ratio=geometry.depth_ratio[leaf.path],
        ),
        wide_in,
        wide_out,
    )


def base_dimensions(leaf: Leaf, words: tuple[str, ...], geometry: Geometry) -> Dimensions:
    """The dimensions that a leaf has at the base sizes."""
    shape = geometry.at_base_width[leaf.path]
    fan_in, fan_out = _fan(leaf, words, shape, _IN), _fan(leaf, words, shape, _OUT)
    return Dimensions(
        fan_in=fan_in,
        fan_out=fan_out,
        layer_fan_in=fan_in,
        narrowing=min(Fraction(fan_out, fan_in), Fraction(1)),
        depth=round(geometry.depth[leaf.path] / geometry.depth_ratio[leaf.path]),
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
