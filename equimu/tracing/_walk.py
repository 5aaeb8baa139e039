"""Follows each array of a model through a traced program: what it meets, and what becomes of the outcome.

Nothing is computed: the program is walked with what is known of each value (`Value`) in the place of the values.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jax.extend.core import Literal

from equimu.tracing._around import Around
from equimu.tracing._flow import (
    Flow,
    Mark,
    Place,
    Product,
    Value,
    View,
    along,
    bare,
    befall,
    join,
    merged,
    same_axes,
    union,
    unknown,
)
from equimu.tracing._jaxpr import (
    CALLS,
    axes_before,
    axes_read,
    inside,
    is_entry_by_entry,
    opened,
    parts_of_scan,
)

_STATES = ("plain", "multiplied", "bent")


def follow(closed: Any, arrays: Sequence[str | None]) -> Flow:
    """Follows the arrays of a model.

    Args:
        closed: a program; its inputs are arrays of a model and data.
        arrays: of each input the path of the array, "" for one that is not to be followed, or None for data.
    """
    found = Flow()

    def start(path: str | None, aval: Any) -> Value:
        axes = len(aval.shape)
        if not path:
            return Value(data=path is None, marks=bare(axes))
        view = View(path, tuple(frozenset([axis]) for axis in range(axes)))
        return Value(params=True, views=frozenset([view]), marks=bare(axes))

    given = [start(path, var.aval) for path, var in zip(arrays, closed.jaxpr.invars, strict=True)]
    for out in _Walk(Around(found, (), "")).run(closed.jaxpr, [unknown(const) for const in closed.consts], given):
        befall(found, union(out.marks), "output")
        found.outcome |= out.ends
        found.last |= out.makers
    return found


# Operations that are linear in each of their arguments; what else works entry by entry bends.
_LINEAR = {"add", "sub", "add_any", "mul", "div", "select_n", "neg", "name", "tap", "pvary"}
_SQUARES = {"square", "integer_pow"}
_MIXING = {"exp", "exp2", "log", "log1p", "expm1", "integer_pow", "square", "logistic", "pow"}


class _Walk:
    """Through one jaxpr."""

    def __init__(self, at: Around):
        self.at = at

    def run(self, jaxpr: Any, consts: Iterable[Value], given: Sequence[Value]) -> list[Value]:
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *given), strict=True))

        def read(atom: Any) -> Value:
            return unknown(atom.val) if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            known.update(zip(eqn.outvars, self._apply(eqn, [read(atom) for atom in eqn.invars]), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, eqn: Any, given: list[Value]) -> list[Value]:
        name, body = eqn.primitive.name, inside(eqn)
        if name == "scan":
            return self._scan(eqn, given)
        if name == "while":
            return self._closed_off(eqn, self._while(eqn, given))
        if name == "cond":
            branches = [self._inside(eqn, branch, given[1:]) for branch in eqn.params["branches"]]
            return self._closed_off(eqn, [join(*each) for each in zip(*branches, strict=True)])
        if body is not None and hasattr(opened(body)[0], "eqns") and len(opened(body)[0].invars) == len(given):
            out = self._inside(eqn, body, given)
            return out if name in CALLS else self._closed_off(eqn, out)
        if name == "dot_general":
            return [self._product(eqn, *given)]
        if name == "conv_general_dilated":
            return [self._convolution(eqn, *given)]
        if name in ("gather", "dynamic_slice") and any(index.data for index in given[1:]):
            return [self._read(eqn, given[0], given[1:])]
        if name == "concatenate":
            return [self._together(eqn, given)]
        before = axes_before(eqn)
        if name == "tap":
            self.at.found.named.add((self.at.stack, id(eqn.invars[0])))
        if before is not None:
            return [self._rearranged(eqn, given[0], before, rest=given[1:])] * len(eqn.outvars)
        if is_entry_by_entry(eqn):
            return [self._entry_by_entry(eqn, given)]
        return self._opaque(eqn, given)

    # --- calls

    def _inside(self, eqn: Any, body: Any, given: Sequence[Value]) -> list[Value]:
        jaxpr, consts = opened(body)
        walk = _Walk(self.at.inside(eqn))
        return walk.run(jaxpr, [unknown(const) for const in consts], given)

    def _scan(self, eqn: Any, given: list[Value]) -> list[Value]:
        consts, carry, xs = parts_of_scan(given, eqn.params)
        if any(x.views for x in xs):
            self.at.found.over_layers.add(id(eqn))
        each = [along(x, [(axis,) for axis in range(1, len(x.marks))]) for x in xs]
        out, carry = self._settled(carry, lambda c: self._inside(eqn, eqn.params["jaxpr"], [*consts, *c, *each]))
        ys = [along(y, [(), *((axis,) for axis in range(len(y.marks)))]) for y in out[len(carry) :]]
        return [*carry, *ys]

    def _while(self, eqn: Any, given: list[Value]) -> list[Value]:
        first, second = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
        conds, consts, carry = given[:first], given[first:second], given[second:]
        _, carry = self._settled(carry, lambda c: self._inside(eqn, eqn.params["body_jaxpr"], [*consts, *c]))
        self._inside(eqn, eqn.params["cond_jaxpr"], [*conds, *carry])
        return carry

    def _settled(
        self, carry: list[Value], turn: Callable[[list[Value]], list[Value]]
    ) -> tuple[list[Value], list[Value]]:
        """The outputs of a loop's body once what it carries is what it was given, and what it carries."""
        while True:
            out = turn(carry)
            grown = [join(*each) for each in zip(carry, out, strict=False)]
            if grown == carry:
                return out, carry
            carry = grown

    def _closed_off(self, eqn: Any, out: list[Value]) -> list[Value]:
        """Of what nobody sees the inside of, places inside are none to point at."""
        return [
            dataclasses.replace(value, scores=frozenset(), ends=self.at.here(var) if value.ends else frozenset[Place]())
            for value, var in zip(out, eqn.outvars, strict=True)
        ]

    # --- meetings

    def _product(self, eqn: Any, *sides: Value) -> Value:
        contracted, batch = eqn.params["dimension_numbers"]
        marks: list[frozenset[Mark]] = [frozenset() for _ in batch[0]]
        views: set[View] = set()
        data = any(side.data for side in sides)
        span, of_array, before, features = 1, False, 0, frozenset[str]()
        for number, side in enumerate(sides):
            other = sides[1 - number]
            free = [axis for axis in range(len(side.marks)) if axis not in (*contracted[number], *batch[number])]
            for view in side.views:
                summed = view.summed | union(view.axes[axis] for axis in contracted[number])
                if data:
                    met = self.at.meet(eqn, view.path, number, "product", other.kind)
                    met.summed |= summed
                    met.shared |= union(view.axes[axis] for axis in batch[number])
                    met.kept |= union(view.axes[axis] for axis in free)
                    of_array |= bool(summed)
                else:
                    at = before + len(batch[0])
                    rest = (frozenset[int](),)
                    axes = (*rest * at, *(view.axes[axis] for axis in free))
                    views.add(View(view.path, axes + rest * (len(eqn.outvars[0].aval.shape) - len(axes)), summed))
            gone = union(side.marks[axis] for axis in contracted[number])
            befall(self.at.found, gone, "contracted", other.kind)
            features |= self.at.makers(gone)
            # What is contracted within each head no longer indexes the outcome by its heads.
            left = [each - same_axes(each, gone) for each in side.marks]
            for axis, x in enumerate(batch[number]):
                marks[axis] |= left[x]
            own = [self.at.marks_of(eqn, side, number, axis) | left[axis] for axis in free]
            marks += own
            before += len(own)
            span = max([span, *(eqn.invars[number].aval.shape[axis] for axis in contracted[number])])
        scores = frozenset[Place]()
        if data and contracted[0] and (of_array or all(side.kind == "activation" for side in sides)):
            scores = self.at.score(eqn, Product(not of_array, span, self.at.module(eqn), features))
        return self.at.met(eqn, sides, marks, scores, views=frozenset(views))

    def _convolution(self, eqn: Any, image: Value, kernel: Value) -> Value:
        spec = eqn.params["dimension_numbers"]
        marks = list(bare(len(eqn.outvars[0].aval.shape)))
        for view in kernel.views if image.data else ():
            met = self.at.meet(eqn, view.path, 1, "product", image.kind)
            outs, ins, *positions = spec.rhs_spec
            grouped = eqn.params["feature_group_count"] > 1
            met.summed |= union(view.axes[axis] for axis in (ins, *positions))
            met.kernel |= union(view.axes[axis] for axis in (*positions, *((ins,) if grouped else ())))
            met.kept |= view.axes[outs]
            marks[spec.out_spec[1]] |= self.at.marks_of(eqn, kernel, 1, outs)
        befall(self.at.found, image.marks[spec.lhs_spec[1]], "contracted", kernel.kind)
        return self.at.met(eqn, (image, kernel), marks, frozenset())

    def _read(self, eqn: Any, array: Value, indices: list[Value]) -> Value:
        read, before = axes_read(eqn), axes_before(eqn) or []
        out = along(array, before)
        for view in array.views:
            met = self.at.meet(eqn, view.path, 0, "lookup", "data")
            met.read |= union(view.axes[axis] for axis in read)
            met.kept |= union(view.axes[axis] for axis in range(len(view.axes)) if axis not in read)
            self.at.found.look_ups[next(iter(self.at.here(eqn.outvars[0])))] = view.path
        marks = [
            mine | union(self.at.marks_of(eqn, array, 0, axis) for axis in axes if axis not in read)
            for mine, axes in zip(out.marks, before, strict=True)
        ]
        if array.views:
            return self.at.met(eqn, (array, *indices), marks, frozenset())
        return dataclasses.replace(out, data=True, params=out.params or any(index.params for index in indices))

    def _together(self, eqn: Any, given: list[Value]) -> Value:
        if not any(value.data for value in given):
            return join(*given)
        marks = merged([value.marks for value in given])
        if not any(value.views for value in given):
            return dataclasses.replace(join(*given), marks=marks)
        return self.at.met(eqn, given, self.at.meet_all(eqn, given, "other", list(marks)), frozenset())

    def _entry_by_entry(self, eqn: Any, given: list[Value]) -> Value:
        name, axes = eqn.primitive.name, len(eqn.outvars[0].aval.shape)
        full = [value for value in given if len(value.marks) == axes]
        if not any(value.data for value in given):
            views = frozenset[View]().union(*(value.views for value in full))
            return Value(params=any(value.params for value in given), views=views, marks=bare(axes))
        marks = [frozenset[Mark]() for _ in range(axes)]
        for number, value in enumerate(given):
            if len(value.marks) != axes:
                continue
            state = "plain" if name in _LINEAR else "bent"
            others = (*given[:number], *given[number + 1 :])
            if name in _SQUARES or (name in ("mul", "div") and any(other.kind == "activation" for other in others)):
                state = "multiplied"
            for axis in range(axes):
                marks[axis] |= {(key, of, max(old, state, key=_STATES.index)) for key, of, old in value.marks[axis]}
        if name in ("exp", "exp2"):
            self.at.found.exponents |= dict.fromkeys(place for value in given for place in value.scores)
            befall(self.at.found, union(mark for value in given for mark in value.marks), "exponential")
        if any(value.views and not value.data for value in given):
            kind = {"add": "add", "sub": "add", "mul": "multiply", "div": "multiply"}.get(name, "other")
            marks = self.at.meet_all(eqn, given, kind, marks)
            scores = self.at.moved(eqn, given) if kind == "add" else frozenset[Place]()
            return self.at.met(eqn, given, marks, scores)
        plain = all(value.plain for value in given) and name not in _MIXING
        plain = plain and not any(value.kind == "data" and value.marks for value in given)
        ends = frozenset[Place]().union(*(value.ends for value in given))
        if name in ("mul", "div") and ends and plain and sum(value.kind == "constant" for value in given):
            before, ends = ends, self.at.here(eqn.outvars[0])
            self.at.found.sums |= ends if before & self.at.found.sums else set()
        return Value(
            data=True,
            params=any(value.params for value in given),
            marks=tuple(marks),
            scores=self._scores_behind(eqn, given),
            ends=ends,
            plain=plain,
            makers=frozenset[str]().union(*(value.makers for value in given)),
        )

    def _scores_behind(self, eqn: Any, given: list[Value]) -> frozenset[Place]:
        """What products come to, entry by entry: a mask or a shift leaves them, a factor or a sum of two makes another."""
        name, having = eqn.primitive.name, [value for value in given if value.scores]
        if not having:
            return frozenset()
        if name in ("mul", "div"):
            fixed = all(value.kind == "constant" for value in given if not value.scores)
            return self.at.moved(eqn, given) if fixed and len(having) == 1 else frozenset()
        if name in ("add", "add_any", "select_n", "max", "min") and len(having) > 1:
            return self.at.moved(eqn, given)
        if name in ("add", "sub", "add_any", "select_n", "max", "min", "tanh", "name", "tap", "pvary"):
            return frozenset[Place]().union(*(value.scores for value in having))
        return frozenset()

    def _rearranged(self, eqn: Any, value: Value, before: list[tuple[int, ...]], rest: Sequence[Value] = ()) -> Value:
        out, name = along(value, before), eqn.primitive.name
        if name == "sort" or any(other.data for other in rest):
            out = dataclasses.replace(out, data=out.data or any(other.data for other in rest))
        if not name.startswith(("reduce_", "arg")):
            return out
        gone = [axis for axis in range(len(value.marks)) if axis not in {axis for each in before for axis in each}]
        marks = union(value.marks[axis] for axis in gone)
        left = tuple(each - same_axes(each, marks) for each in out.marks)
        out = dataclasses.replace(out, views=frozenset(), scores=frozenset(), marks=left)
        if name != "reduce_sum" or not marks:
            return out
        for mark in marks:
            # An activation that is multiplied with another one and summed is contracted with it.
            if mark[2] == "multiplied":
                befall(self.at.found, {mark}, "contracted", "activation")
            else:
                befall(self.at.found, {mark}, "summed" if mark[2] == "plain" else "bent")
        span = max(eqn.invars[0].aval.shape[axis] for axis in gone)
        if any(state == "multiplied" or self.at.found.meetings[key].kind == "multiply" for key, _, state in marks):
            of_activations = any(state == "multiplied" for _, _, state in marks)
            scores = self.at.score(eqn, Product(of_activations, span, self.at.module(eqn), self.at.makers(marks)))
            out = dataclasses.replace(out, scores=scores)
        if not out.plain or not out.ends:
            return out
        ends = self.at.here(eqn.outvars[0])
        self.at.found.sums |= ends
        return dataclasses.replace(out, ends=ends)

    def _opaque(self, eqn: Any, given: list[Value]) -> list[Value]:
        marks = union(mark for value in given for mark in value.marks)
        befall(self.at.found, marks, "other")
        data, params = any(value.data for value in given), any(value.params for value in given)
        if data:
            self.at.meet_all(eqn, given, "other", [])
        return [
            Value(data, params, marks=bare(len(v.aval.shape)), ends=self.at.here(v) if data and params else frozenset())
            for v in eqn.outvars
        ]
