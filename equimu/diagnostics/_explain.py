"""What would explain a row that is off: each known mistake predicts by what power of the size the row misses."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from equimu._values import Real
from equimu.diagnostics._fit import slope
from equimu.diagnostics._laws import LeafTheory
from equimu.diagnostics._pool import first_of_pool
from equimu.diagnostics._theory import SiteTheory, Theory
from equimu.diagnostics._verdicts import FLAT, Row
from equimu.parameterization import ROLES, Disagreement, Parameterization, Role, is_within

# An explanation must predict the miss this well, and must predict one that is worth a name.
_CLOSE, _LARGE = 0.12, 0.15


def explain(
    row: Row,
    said: Theory,
    parameterization: Parameterization,
    sizes: Sequence[Real],
    flatness: Mapping[str, Sequence[Real]],
    doubts: Sequence[Disagreement] = (),
) -> Row:
    """The row, with a clause about what would explain it if it is off.

    Args:
        row: any.
        said: what was expected.
        parameterization: the table.
        sizes: of the check.
        flatness: of each leaf's updates at each size, see `Measured`.
        doubts: the leaves that are not used as they are declared.
    """
    if not row.off:
        return row
    why = _of_site(row, said, doubts) if row.kind == "site" else _of_leaf(row, said, parameterization, sizes, flatness)
    return dataclasses.replace(row, why=why)


def _of_leaf(
    row: Row,
    said: Theory,
    parameterization: Parameterization,
    sizes: Sequence[Real],
    flatness: Mapping[str, Sequence[Real]],
) -> str:
    leaf = said.leaves[row.name]
    if row.exponent.value is None:
        if row.quantity == "update":
            return (
                "it has a learning rate and never moves: nothing uses it, or it and what follows it both start at zero"
            )
        return "it starts at zero"
    expected = leaf.weight if row.quantity == "weight" else row.expected.low
    miss = row.exponent.value - expected
    if row.quantity == "update" and leaf.rules[0].optimizer in ("adam", "muon") and min(flatness[row.name]) < FLAT:
        return "the optimizer's epsilon is no longer small against its gradient; scale it, or take a smaller one"
    found = [(abs(miss - power), text) for power, text in _mistakes(row, leaf, parameterization, sizes)]
    close = min(found, key=lambda each: each[0], default=(1.0, ""))
    if close[0] < _CLOSE:
        return close[1]
    if abs(miss) < _LARGE:
        return "it is not what the table says at each size, though it goes with about the same power: are ratios exact?"
    return f"it goes with the power {miss:+.2f} more than the table says"


def _mistakes(
    row: Row, leaf: LeafTheory, parameterization: Parameterization, sizes: Sequence[Real]
) -> Iterator[tuple[Real, str]]:
    """Known mistakes: by what power of the size the row then misses, and their names. The likelier stand first."""

    def power(values: Sequence[Any]) -> Real:
        return slope(sizes, values) if min(values) > 0 else 0.0

    rules = leaf.rules
    rate, multiplier = (power([getattr(rule, name) for rule in rules]) for name in ("lr", "multiplier"))
    made: list[tuple[float, str]] = []
    if row.quantity == "decay":
        decay = power([rule.weight_decay for rule in rules])
        made += [
            (rate, "its decay is multiplied by the factor of the learning rate once too often"),
            (-rate, "its decay is not multiplied by the factor of the learning rate"),
            (decay, "its decay is scaled twice"),
            (-decay, "its decay is not scaled"),
        ]
    if row.quantity == "update":
        made += [(-rate, "its learning rate is not scaled"), (rate, "its learning rate is scaled twice")]
    if row.quantity in ("update", "weight"):
        made += [
            (-multiplier, "its multiplier is not applied: the loss must see scaled(tree, model)"),
            (multiplier, "its multiplier is applied twice"),
        ]
    if row.quantity == "weight":
        made.append((-leaf.fan_in / 2 - leaf.weight, "it is drawn as in the standard parameterization, by 1/√fan_in"))
        made.append((-leaf.weight, "it is drawn with the same standard deviation at all sizes"))
        made += _roles("init_std", "drawn", leaf, parameterization, power)
    if row.quantity == "update":
        made += _roles("lr", "trained", leaf, parameterization, power)
    return (each for each in made if abs(each[0]) > _LARGE)


def _roles(
    number: str,
    verb: str,
    leaf: LeafTheory,
    parameterization: Parameterization,
    power: Callable[[Sequence[Any]], Real],
) -> list[tuple[Real, str]]:
    """What follows if the leaf is given the numbers of another role."""

    def law(role: Role) -> Real:
        laws = parameterization.row(role)
        return power([(laws.multiplier * getattr(laws, number))(rule.dimensions) for rule in leaf.rules])

    mine = leaf.rules[0].role
    return [
        (law(role) - law(mine), f"it is {verb} like {_article(role)} {role} leaf, and is {_article(mine)} {mine} one")
        for role in ROLES
        if role not in (mine, "scalar")
    ]


def _article(role: str) -> str:
    return "an" if role[0] in "aeio" else "a"


def _of_site(row: Row, said: Theory, doubts: Sequence[Disagreement]) -> str:
    site = said.sites[row.name]
    # The doubts about the module's own arrays, else those about any.
    module = first_of_pool(row.name.partition(" ")[0].partition("#")[0])
    near = [doubt for doubt in doubts if doubt.path in site.leaves or is_within(doubt.path, module)]
    if near:
        return str(near[0])
    why = _of_site_alone(site, said)
    return f"{why}; and {doubts[0]}" if doubts else why


def _of_site_alone(site: SiteTheory, said: Theory) -> str:
    if site.derived:
        return (
            "the factor on products of two activations, such as queries and keys: with heads that grow it is 1/head_dim, and "
            "1/sqrt(head_dim) is too large"
        )
    if site.misdeclared:
        leaf = said.leaves[site.misdeclared]
        grows = "does not grow" if leaf.is_readout is False else "grows"
        return (
            f"the axes of {leaf.path} are declared as {', '.join(leaf.rules[0].axes)}, which makes it "
            f"{_article(leaf.role)} {leaf.role} leaf, but what its module puts out {grows}: are they exchanged?"
        )
    if site.leaves:
        return (
            f"{' and '.join(site.leaves)} do as the table says of their declared axes: are the axes right, "
            "is its input of the right size, and does the module multiply by anything?"
        )
    if site.sums:
        return (
            "features are read out by a sum or a product of two activations, which no declared readout makes: divide it by "
            "their number, or read them out by an array declared with an axis `in`"
        )
    return "its parts do as expected: does a sum, mean or factor between them go with the size?"
