"""From what was measured and what is expected to rows: one a site or leaf, quantity and step, right or off.

A site tells whether the model behaves as it should; a leaf whether it is drawn, multiplied, trained and decayed as the
parameterization's laws say. Leaves are hardly noisy, and show faults that activations hide.
"""

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Literal, TypeAlias

import numpy as np

from equimu._values import Real
from equimu.diagnostics._fit import Exponent, fit
from equimu.diagnostics._laws import ANY, Interval, LeafTheory
from equimu.diagnostics._measure import Measured
from equimu.diagnostics._theory import SiteTheory, Theory

Quantity: TypeAlias = Literal["output", "change", "weight", "update", "decay"]

# By how much an exponent may miss its expectation, beyond its interval: what models of finite width do. Measured on healthy
# models, see docs/guides/coordinate-check.md.
TOLERANCE = {"output": 0.15, "change": 0.25, "update": 0.2, "decay": 0.15}
# The first step of an optimizer of fixed step size is exact: by how many octaves an update may miss its law at any size.
EXACT_OCTAVES = 0.04
# A draw of N entries has a root mean square within this many standard errors of its law.
STANDARD_ERRORS = 6.0
# Below this share of the largest gradient of any leaf, a gradient is made of rounding errors.
ROUNDING = 1e-6
# A change that is smaller than this share of the output is made of rounding errors.
ROUNDING_OF_CHANGE = 1e-6
# An output below this share of the largest that the same site has at any size, and of what sites put out in the middle, is made
# of rounding errors: no power of a size is that steep, (1/4)^10 over a factor of four.
ROUNDING_OF_OUTPUT = 1e-6
# A site that is found in the program has the numbers of a module's output if they agree this well: their sums may not be
# in the same order.
SAME = 1e-4
# Adam's entries move alike in its first step, unless epsilon is no longer small against them.
FLAT = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity of one site or leaf at one step.

    - `kind`, `name`: a site, by the path of its module, or a leaf, by its own.
    - `quantity`: of a site, its `output` and the `change` of it since the start; of a leaf, the `weight` that the forward pass
      uses, its `update` in a step, and its `decay`, the share of itself by which it shrinks in a step.
    - `step`: updates done.
    - `values`: root mean square at each size, the geometric mean over seeds.
    - `absolute`: mean absolute value at each size; of sites.
    - `exponent`, `expected`: the power of the size that it goes with, measured and predicted.
    - `off`: whether what was measured cannot be what is expected.

    - `why`: what is off, in words.
    """

    kind: Literal["site", "leaf"]
    name: str
    quantity: Quantity
    step: int
    values: tuple[Real, ...]
    absolute: tuple[Real, ...] = ()
    exponent: Exponent
    expected: Interval
    off: bool
    why: str = ""


def site_rows(measured: Sequence[Measured], sizes: Sequence[Real], said: Theory) -> list[Row]:
    """All sites in the order of execution: the output at the start, its change at each step.

    A module whose output is that of a submodule, number by number, is left out. A change is off if it is so at most of the
    steps: a fault does not come and go, and the loss may do what it likes for a step.
    """
    rows: list[Row] = []
    seen: list[np.ndarray] = []
    off_of: dict[str, bool] = {}
    first = measured[0]
    floors = [np.median(one.output[:, 0], axis=-1) for one in measured]
    for index, name in enumerate(first.sites):
        what = first.about[name]
        same = np.concatenate([x[:, :, index].ravel() for one in measured for x in (one.output, one.change)])
        if what.layer_of:
            # A layer is told where the whole stack does not show it.
            if off_of.get(what.layer_of, True):
                continue
        elif any(_is_same(same, other, exactly=what.kind == "module") for other in seen):
            continue
        else:
            seen.append(same)
        mine = _rows_of_site(name, index, measured, sizes, said.sites[name], floors)
        off_of[name] = any(row.off for row in mine)
        rows += [row for row in mine if row.off or not what.layer_of]
    return rows


def _is_same(one: np.ndarray, other: np.ndarray, *, exactly: bool) -> bool:
    return np.array_equal(one, other) if exactly else np.allclose(one, other, rtol=SAME, atol=0)


def _rows_of_site(
    name: str,
    index: int,
    measured: Sequence[Measured],
    sizes: Sequence[Real],
    expected: SiteTheory,
    floors: Sequence[np.ndarray],
) -> list[Row]:
    output = np.stack([one.output[:, 0, index] for one in measured], axis=-1)
    floor = np.maximum(np.stack(floors, axis=-1), np.max(output, initial=0.0))
    real = np.where(output > ROUNDING_OF_OUTPUT * floor, output, 0.0)
    absolute = np.stack([one.output_abs[:, 0, index] for one in measured], axis=-1)
    rows = [_site(name, "output", 0, real, absolute, sizes, expected.output)]
    changes: list[Row] = []
    for step in range(1, measured[0].change.shape[1]):
        change = np.stack([one.change[:, step, index] for one in measured], axis=-1)
        # What is made of rounding errors is not a change.
        change = np.where(change > ROUNDING_OF_CHANGE * output, change, 0.0)
        absolute = np.stack([one.change_abs[:, step, index] for one in measured], axis=-1)
        changes.append(_site(name, "change", step, change, absolute, sizes, expected.change))
    is_off = sum(row.off for row in changes) > len(changes) / 2
    return rows + (changes if is_off else list(map(_acquitted, changes)))


def _acquitted(row: Row) -> Row:
    return dataclasses.replace(row, off=False)


def _site(
    name: str,
    quantity: Quantity,
    step: int,
    values: np.ndarray,
    absolute: np.ndarray,
    sizes: Sequence[Real],
    expected: Interval,
) -> Row:
    exponent = fit(sizes, values)
    return Row(
        kind="site",
        name=name,
        quantity=quantity,
        step=step,
        values=_means(values),
        absolute=_means(absolute),
        exponent=exponent,
        expected=expected,
        off=_is_off(exponent, expected, TOLERANCE[quantity]),
    )


def leaf_rows(
    measured: Sequence[Measured], sizes: Sequence[Real], said: Theory, unreached: Collection[str] = ()
) -> list[Row]:
    """All leaves: how they are drawn, their first update and their last, their decay.

    Args:
        measured, sizes, said: what was measured, and is expected.
        unreached: leaves that the loss does not depend on. That one of them never moves is not a fault.
    """
    rows: list[Row] = []
    largest = [one.gradient.max(axis=-1) for one in measured]
    for index, path in enumerate(measured[0].leaves):
        leaf = said.leaves[path]
        rows.append(_weight(leaf, np.stack([one.weight[:, index] for one in measured], axis=-1), sizes))
        if leaf.rules[0].lr == 0:
            continue
        real = np.stack(
            [one.gradient[:, :, index] > ROUNDING * most for one, most in zip(measured, largest, strict=True)], -1
        )
        updates = np.stack([one.update[:, :, index] for one in measured], axis=-1)
        flatness = np.stack([one.flatness[:, :, index] for one in measured], axis=-1)
        rows += _updates(leaf, updates, flatness, real, sizes, said.growth, stuck=path not in unreached)
        rows += _decay(leaf, np.stack([one.decay[:, 0, index] for one in measured], axis=-1), sizes)
    return rows


def _weight(leaf: LeafTheory, values: np.ndarray, sizes: Sequence[Real]) -> Row:
    """At each size the draw has the law's standard deviation, but for chance."""
    law, rule = np.array(leaf.sizes_of_weight), leaf.rules[0]
    seeds = len(values)
    off = False
    if rule.init_mean is not None:
        entries = np.array([math.prod(rule.shape) for rule in leaf.rules])
        error = 1 / np.sqrt(2 * entries * seeds) if rule.init_std != 0 else 0.0
        found = np.sqrt(np.mean(values**2, axis=0))
        off = bool(np.any(np.abs(found - law) > np.maximum(STANDARD_ERRORS * error, 1e-3) * law + 1e-30))
    return Row(
        kind="leaf",
        name=leaf.path,
        quantity="weight",
        step=0,
        values=_means(values),
        exponent=fit(sizes, values),
        expected=ANY if leaf.weight == -math.inf else Interval(leaf.weight, leaf.weight),
        off=off,
    )


def _updates(
    leaf: LeafTheory,
    updates: np.ndarray,
    flatness: np.ndarray,
    real: np.ndarray,
    sizes: Sequence[Real],
    growth: Real,
    *,
    stuck: bool,
) -> list[Row]:
    """The first step in which the leaf moves at all sizes, and the last."""
    moves: np.ndarray = np.all(updates > 0, axis=(0, 2))
    steps = sorted({int(np.argmax(moves)), len(moves) - 1})
    rows: list[Row] = []
    for step in steps:
        values = updates[:, step]
        exponent = fit(sizes, values)
        # Where activations grow, so do gradients, and later steps of Adam are what the gradients' course makes of them.
        off = (step == steps[0] or growth < TOLERANCE["update"]) and _is_off(exponent, leaf.update, TOLERANCE["update"])
        if leaf.sizes_of_update is not None and step == steps[0] and np.all(flatness[:, step] > FLAT):
            # Where epsilon is small against most entries, the largest one has the very size of the law.
            octaves = np.log2(values / flatness[:, step]) - np.log2(leaf.sizes_of_update)
            off = bool(np.any(np.abs((octaves - octaves[:, :1]).mean(axis=0)) > EXACT_OCTAVES))
        if not real[:, step].all():
            off = False
        if not updates.any():
            off = stuck  # a leaf that has a learning rate and never moves, though the loss depends on it
        rows.append(
            Row(
                kind="leaf",
                name=leaf.path,
                quantity="update",
                step=step + 1,
                values=_means(values),
                exponent=exponent,
                expected=leaf.update,
                off=off,
            )
        )
    return rows


def _decay(leaf: LeafTheory, decays: np.ndarray, sizes: Sequence[Real]) -> list[Row]:
    """The decay in the first step, if there is one."""
    if not np.all(decays > 0):
        return []
    exponent = fit(sizes, decays)
    expected = ANY if leaf.decay == -math.inf else Interval(leaf.decay, leaf.decay)
    return [
        Row(
            kind="leaf",
            name=leaf.path,
            quantity="decay",
            step=1,
            values=_means(decays),
            exponent=exponent,
            expected=expected,
            off=_is_off(exponent, expected, TOLERANCE["decay"]),
        )
    ]


def _is_off(exponent: Exponent, expected: Interval, tolerance: Real) -> bool:
    if exponent.value is None:
        return False
    return abs(expected.off_by(exponent.value)) > tolerance + (exponent.reach or 0.0)


def _means(values: np.ndarray) -> tuple[Real, ...]:
    """Over seeds: the geometric mean, that the line is fitted to; zero if any is."""
    with np.errstate(divide="ignore"):
        return tuple(float(2**mean) for mean in np.log2(values).mean(axis=0))
