"""Where in a traced program an operation is, and what is noted of it there."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from equimu.tracing._flow import Flow, Mark, Meeting, Place, Product, Value, View, union

SCOPE = "equimu:"
"""A name scope of this and a path says that what is inside is the module at that path."""

_SCOPES = re.compile(re.escape(SCOPE) + r"([^/()]*)")
_KINDS = ("constant", "parameter", "data", "activation")


@dataclasses.dataclass(frozen=True)
class Around:
    """The calls around a jaxpr (`stack`), the module around those (`where`), and what is found so far."""

    found: Flow
    stack: tuple[int, ...]
    where: str

    def inside(self, eqn: Any) -> "Around":
        """The inside of a call."""
        return Around(self.found, (*self.stack, id(eqn)), self.module(eqn))

    def meet(self, eqn: Any, path: str, number: int, kind: str, partner: str) -> Meeting:
        """The meeting of an operation's argument, by its number, with what depends on the data."""
        key = (self.stack, id(eqn), path, number)
        met = self.found.meetings.setdefault(key, Meeting(path, kind, partner, self.module(eqn)))
        met.partner = max(met.partner, partner, key=_KINDS.index)  # a later turn of a loop knows more
        return met

    def marks_of(self, eqn: Any, value: Value, number: int, axis: int) -> frozenset[Mark]:
        """The marks that a meeting leaves on an axis of its outcome."""
        keys = ((view, (self.stack, id(eqn), view.path, number)) for view in value.views)
        return frozenset(
            (key, of, "plain") for view, key in keys if key in self.found.meetings for of in view.axes[axis]
        )

    def meet_all(self, eqn: Any, given: list[Value], kind: str, marks: list[frozenset[Mark]]) -> list[frozenset[Mark]]:
        """Meetings of all arrays among an operation's arguments, and the marks with theirs."""
        for number, value in enumerate(given):
            partner = max((other.kind for other in given if other is not value), key=_KINDS.index, default="constant")
            for view in value.views:
                met = self.meet(eqn, view.path, number, kind, partner)
                met.kept |= union(view.axes)
                met.summed |= view.summed
            if len(value.marks) == len(marks):
                marks = [mine | self.marks_of(eqn, value, number, axis) for axis, mine in enumerate(marks)]
        return marks

    def met(
        self,
        eqn: Any,
        given: Sequence[Value],
        marks: Sequence[frozenset[Mark]],
        scores: frozenset[Place],
        views: frozenset[View] = frozenset(),
    ) -> Value:
        """What an operation puts out in which arrays meet data: the last value with a part of the model in it."""
        data, params = any(value.data for value in given), any(value.params for value in given)
        ends = self.here(eqn.outvars[0]) if data and params else frozenset[Place]()
        makers = frozenset(view.path for value in given for view in value.views)
        if eqn.primitive.name not in ("dot_general", "conv_general_dilated"):
            makers = makers.union(*(value.makers for value in given))
        return Value(data, params, views, tuple(marks), scores, ends, makers=makers)

    def score(self, eqn: Any, product: Product) -> frozenset[Place]:
        """A place that is a sum over features."""
        (here,) = self.here(eqn.outvars[0])
        self.found.products[here] = product
        return frozenset([here])

    def moved(self, eqn: Any, given: Sequence[Value]) -> frozenset[Place]:
        """The place of what sums over features have come to."""
        known = [self.found.products[place] for value in given for place in value.scores]
        return self.score(eqn, max(known, key=lambda product: product.span)) if known else frozenset()

    def makers(self, marks: Iterable[Mark]) -> frozenset[str]:
        """The arrays that made what is marked."""
        return frozenset(self.found.meetings[key].path for key, _, _ in marks)

    def here(self, var: Any) -> frozenset[Place]:
        """The place of a variable."""
        return frozenset([(self.stack, id(var))])

    def module(self, eqn: Any) -> str:
        """The path of the module that an operation is in."""
        scopes = _SCOPES.findall(str(eqn.source_info.name_stack))
        return scopes[-1] if scopes else self.where
