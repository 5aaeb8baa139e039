"""What is known of the values of a traced program: which arrays of a model are in them, and what those have met.

A value of the program is known by what lies along its axes: axes of arrays (a `View`, until the array meets what depends on
the data), and axes of what such meetings put out (a `Mark`). Nothing is computed.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

Place: TypeAlias = tuple[tuple[int, ...], int]
"""One value in a run of the program: the calls that it is inside of, and its variable, by identity."""
Mark: TypeAlias = tuple[Any, int, str]
"""A meeting, an axis of the array that came in, and what became of the outcome: `plain`,
`multiplied` with an activation, `bent`."""


@dataclasses.dataclass(frozen=True)
class View:
    """An array of the model, perhaps rearranged: those of its axes that lie along each axis, and those that are summed."""

    path: str
    axes: tuple[frozenset[int], ...]
    summed: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of a value.

    - `data`, `params`: whether it depends on the data, and on arrays of the model.
    - `marks`: of each axis.
    - `scores`: the products that it is, but for shifts and masks.
    - `ends`: the last values with a part of the model in them that it depends on; `plain` while nothing but sums and factors
      came after them.
    - `makers`: the arrays that those were made with.
    """

    data: bool = False
    params: bool = False
    views: frozenset[View] = frozenset()
    marks: tuple[frozenset[Mark], ...] = ()
    scores: frozenset[Place] = frozenset()
    ends: frozenset[Place] = frozenset()
    plain: bool = True
    makers: frozenset[str] = frozenset()

    @property
    def kind(self) -> str:
        """Among `activation`, `data`, `parameter`, `constant`."""
        if self.data:
            return "activation" if self.params else "data"
        return "parameter" if self.params else "constant"


@dataclasses.dataclass
class Meeting:
    """One array with what depends on the data: how, and what becomes of each axis of the array. See `Use`."""

    path: str
    kind: str
    partner: str
    where: str
    summed: set[int] = dataclasses.field(default_factory=set[int])
    kernel: set[int] = dataclasses.field(default_factory=set[int])
    read: set[int] = dataclasses.field(default_factory=set[int])
    shared: set[int] = dataclasses.field(default_factory=set[int])
    kept: set[int] = dataclasses.field(default_factory=set[int])
    fates: dict[int, set[str]] = dataclasses.field(default_factory=dict[int, set[str]])


@dataclasses.dataclass(frozen=True)
class Product:
    """A sum over features.

    - `of_activations`: of two activations, not of an array and an activation.
    - `span`: over how many. `where`: the path of the module that makes it.
    - `features`: the arrays that made the features.
    """

    of_activations: bool
    span: int
    where: str
    features: frozenset[str] = frozenset()


@dataclasses.dataclass
class Flow:
    """What was found.

    - `meetings`: by operation and array.
    - `products`: by place; `exponents`: those of them that an exponential is taken of, as a softmax does.
    - `look_ups`: places of rows that were read from an array, and its path.
    - `over_layers`: the scans that go through arrays of the model, by identity.
    - `outcome`: the last values with a part of the model in them that the program's outputs depend on; `last`: the arrays
      that they were made with.
    - `sums`: places of sums over features. `named`: places that a tap gives a name.
    """

    meetings: dict[Any, Meeting] = dataclasses.field(default_factory=dict[Any, Meeting])
    products: dict[Place, Product] = dataclasses.field(default_factory=dict[Place, Product])
    exponents: dict[Place, None] = dataclasses.field(default_factory=dict[Place, None])
    look_ups: dict[Place, str] = dataclasses.field(default_factory=dict[Place, str])
    over_layers: set[int] = dataclasses.field(default_factory=set[int])
    outcome: frozenset[Place] = frozenset()
    last: frozenset[str] = frozenset()
    sums: set[Place] = dataclasses.field(default_factory=set[Place])
    named: set[Place] = dataclasses.field(default_factory=set[Place])


def bare(axes: int) -> tuple[frozenset[Mark], ...]:
    return (frozenset(),) * axes


def unknown(value: Any) -> Value:
    return Value(marks=bare(len(getattr(value, "shape", ()))))


def union(sets: Iterable[Iterable[Any]]) -> frozenset[Any]:
    return frozenset(one for each in sets for one in each)


def merged(marks: Sequence[tuple[frozenset[Mark], ...]]) -> tuple[frozenset[Mark], ...]:
    axes = max(map(len, marks))
    return tuple(union(each) for each in zip(*(one for one in marks if len(one) == axes), strict=True))


def along(value: Value, before: list[tuple[int, ...]]) -> Value:
    """The value with its axes rearranged."""
    views = frozenset(
        dataclasses.replace(view, axes=tuple(union(view.axes[axis] for axis in axes) for axes in before))
        for view in value.views
    )
    return dataclasses.replace(
        value, views=views, marks=tuple(union(value.marks[axis] for axis in axes) for axes in before)
    )


def join(*values: Value) -> Value:
    """What is known of a value that is one of several."""
    if all(value == values[0] for value in values):
        return values[0]
    return Value(
        data=any(value.data for value in values),
        params=any(value.params for value in values),
        views=frozenset[View]().union(*(value.views for value in values)),
        marks=merged([value.marks for value in values]),
        scores=frozenset[Place]().union(*(value.scores for value in values)),
        ends=frozenset[Place]().union(*(value.ends for value in values)),
        plain=all(value.plain for value in values),
        makers=frozenset[str]().union(*(value.makers for value in values)),
    )


def befall(found: Flow, marks: Iterable[Mark], fate: str, by: str = "") -> None:
    for key, axis, state in marks:
        name = f"{fate} with {by}" if by else fate
        found.meetings[key].fates.setdefault(axis, set()).add(name if state != "bent" or fate == "output" else "bent")


def same_axes(marks: Iterable[Mark], others: Iterable[Mark]) -> frozenset[Mark]:
    """Those of the marks that stand for an axis that is among the others'."""
    known = {mark[:2] for mark in others}
    return frozenset(mark for mark in marks if mark[:2] in known)
