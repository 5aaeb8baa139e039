"""What a change of one size does to a model: axes that grow, blocks that are repeated, arrays that come and go."""

import dataclasses
import functools
import math
import re
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any

from equimu._errors import EquimuError
from equimu.declarations import Containers, Leaf, is_within


@dataclasses.dataclass(frozen=True)
class Model:
    """The arrays of a model's shapes, and what holds them."""

    leaves: list[Leaf]
    containers: Containers

    @functools.cached_property
    def by_path(self) -> dict[str, Leaf]:
        return {leaf.path: leaf for leaf in self.leaves}

    @functools.cached_property
    def shapes_by_pattern(self) -> dict[str, set[tuple[int, ...]]]:
        found: dict[str, set[tuple[int, ...]]] = {}
        for leaf in self.leaves:
            found.setdefault(pattern(leaf.path), set()).add(leaf.shape)
        return found


@dataclasses.dataclass(frozen=True)
class Repeat:
    """How one size repeats a leaf.

    - `root`: the path of what holds the copies.
    - `count`, `ratio`: their number, and that relative to the other model's.
    """

    root: str
    count: int
    ratio: Fraction


@dataclasses.dataclass(frozen=True)
class Counted:
    """How often all sizes together repeat a leaf, and that relative to the base; `root` of the outermost, None if none does."""

    root: str | None = None
    count: int = 1
    ratio: Fraction = Fraction(1)

    def times(self, repeat: Repeat, ratio: Fraction) -> "Counted":
        root = repeat.root if self.root is None else min(self.root, repeat.root, key=len)
        return Counted(root, self.count * repeat.count, self.ratio * ratio)


@dataclasses.dataclass(frozen=True)
class Difference:
    """The axes that a size changes, by leaf; the leaves that it repeats; and those of them that were found to be stacks."""

    grown: Mapping[str, set[int]]
    repeated: Mapping[str, Repeat]
    stacked: set[str]


def compare(name: str, sizes: tuple[int, int], mine: Model, theirs: Model) -> Difference:
    """What is different between a model and the same at another value of the size called `name`.

    Args:
        sizes: its values in the two models, for messages.

    Raises:
        EquimuError: arrays exist at one of the values only, change their number of axes, or nothing changes.
    """
    lists = _changed_containers(mine.containers, theirs.containers)
    for model, other, value, missing_at in ((mine, theirs, *sizes), (theirs, mine, *sizes[::-1])):
        for leaf in model.leaves:
            if leaf.path not in other.by_path and not any(path in lists for path in leaf.containers):
                raise _comes_and_goes(leaf, name, value, missing_at)
    grown: dict[str, set[int]] = {}
    # By how many an array's copies are more than one: of the axes in front of those that are declared.
    copies: dict[str, tuple[int, int]] = {}
    for leaf in mine.leaves:
        for axis, (before, after) in enumerate(
            zip(leaf.shape, _other_shape(leaf, mine, theirs, name, lists), strict=True)
        ):
            if before != after and axis < leaf.stacks:
                copies[leaf.path] = _times(copies.get(leaf.path, (1, 1)), (before, after))
            elif before != after:
                grown.setdefault(leaf.path, set()).add(axis)
    bare = {leaf.path for leaf in mine.leaves if leaf.axes is None and grown.get(leaf.path) == {0}}
    stacked = set[str]()
    if (copies or lists) and set(grown) == bare:
        # The blocks are stacked, and these are bare arrays of theirs.
        stacked, grown = bare, {}
        for leaf in mine.leaves:
            if leaf.path in stacked:
                copies[leaf.path] = (leaf.shape[0], _other_shape(leaf, mine, theirs, name, lists)[0])
    repeated: dict[str, Repeat] = {}
    for leaf in mine.leaves:
        roots = [path for path in leaf.containers if path in lists]
        count = functools.reduce(_times, (lists[path] for path in roots), copies.get(leaf.path, (1, 1)))
        if count[0] != count[1]:
            root = roots[0] if roots else _stack_of(leaf.path, copies, mine.leaves)
            repeated[leaf.path] = Repeat(root, count[0], Fraction(*count))
    if not grown and not repeated:
        raise EquimuError(
            f"{name} changes no array of the model, so it is neither a width nor a depth; leave it out of base and target"
        )
    if grown and repeated:
        _check_parts(name, mine, grown, repeated)
    return Difference(grown, repeated, stacked)


def counted(model: Model, repeats: Mapping[str, Counted]) -> dict[str, int]:
    """How many blocks there are in the stack that each leaf is in.

    Those are the modules that are declared to have residual branches, or, where none is, the copies themselves. Stacks of maps
    that are declared to follow one another without any are left out.
    """
    containers = model.containers
    copies = {path: _copies(path, model.leaves) for path in containers.residual}
    counts: dict[str, int] = {}
    for path, repeat in repeats.items():
        assert repeat.root is not None
        blocks = sum(count for block, count in copies.items() if is_within(block, repeat.root) or not repeat.root)
        if not blocks and _all_plain(path, repeat.root, containers):
            continue
        counts[path] = max(blocks, repeat.count)
    return counts


def _all_plain(path: str, root: str, containers: Containers) -> bool:
    """Whether a repeated leaf belongs to a module that is declared to add nothing to a stream, and holds the copies itself."""
    return any(not plain or (is_within(root, plain) and is_within(path, plain)) for plain in containers.plain)


def _copies(block: str, leaves: list[Leaf]) -> int:
    """How many copies of a module its arrays hold: the axes in front of all those that are declared."""
    stacks = [
        math.prod(leaf.shape[: leaf.stacks]) for leaf in leaves if leaf.axes is not None and is_within(leaf.path, block)
    ]
    return min(stacks, default=1)


def _changed_containers(mine: Containers, theirs: Containers) -> dict[str, tuple[int, int]]:
    """The containers that hold another number of children of one kind, with their numbers of children in both models."""
    found: dict[str, tuple[int, int]] = {}
    for path, here in mine.children.items():
        there = theirs.children.get(path)
        if there is None:
            continue
        by_key = not (here.alike and there.alike)
        kinds, others = here.kinds(by_key), there.kinds(by_key)
        if any(kinds[kind] != others[kind] for kind in kinds if kind in others):
            found[path] = (kinds.total(), others.total())
    return found


def _other_shape(leaf: Leaf, mine: Model, theirs: Model, name: str, lists: Collection[str]) -> tuple[int, ...]:
    """The shape of the same leaf in the other model; where it is one of several in a list of another length, of one of them."""
    other = theirs.by_path.get(leaf.path)
    if any(path in lists for path in leaf.containers):
        shapes = theirs.shapes_by_pattern.get(pattern(leaf.path), set())
        if shapes & mine.shapes_by_pattern[pattern(leaf.path)] or (other is None and len(shapes) != 1):
            return leaf.shape  # the list is another, what it holds is not
        other = dataclasses.replace(leaf, shape=next(iter(shapes))) if other is None else other
    assert other is not None
    if len(other.shape) != len(leaf.shape):
        raise EquimuError(
            f"{leaf.describe()} changes its number of axes with {name}, which no rule can follow: "
            f"{list(leaf.shape)} and {list(other.shape)}"
        )
    return other.shape


def pattern(path: str) -> str:
    """A path without its indices and keys: the same for the same array of each block in a container."""
    return re.sub(r"\[[^\]]*\]", "[]", path)


def _times(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] * other[0], one[1] * other[1]


def _comes_and_goes(leaf: Leaf, name: str, there: int, not_there: int) -> EquimuError:
    return EquimuError(
        f"{leaf.describe()} exists at {name}={there} and not at {name}={not_there}, so there is nothing for its rule to grow "
        f"from; make the same arrays at all sizes, take a base at which it exists, or leave {name} out of base and target"
    )


def _check_parts(name: str, model: Model, grown: Mapping[str, set[int]], repeated: Mapping[str, Repeat]) -> None:
    """What a width repeats must be equal parts of a layer (experts), and no residual blocks."""
    containers = model.containers
    for path, repeat in repeated.items():
        inside = [block for block in containers.residual if is_within(block, repeat.root) and block != repeat.root]
        if inside:
            raise EquimuError(
                f"{name} changes both the width of arrays ({min(grown)}) and the number of residual blocks ({path}); give "
                "`make` one size for each, or leave it out of base and target"
            )


def _stack_of(path: str, copies: Mapping[str, Any], leaves: list[Leaf]) -> str:
    """The path of the outermost part of the model in which all arrays that a class declares have the copies that this has."""
    ends = [match.start() for match in re.finditer(r"[.\[]", path)]
    for root in (path[:end] for end in ends):
        if all(leaf.path in copies for leaf in leaves if leaf.declared and is_within(leaf.path, root)):
            return root
    return path
