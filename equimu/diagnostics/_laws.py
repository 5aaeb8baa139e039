"""What the laws of a parameterization say of each leaf: powers of the size that is varied.

Everything is an exponent: the power of the size that is varied. The laws of a leaf of multiplier A, standard deviation σ and
factor c on the learning rate give, for what the forward pass sees,

- the weight: w = A·σ;
- the update: u = A·c times the size of the optimizer's direction. That is 1 for Adam and sign-like optimizers; the weight's
  own size for Adafactor; of an orthogonal matrix for Muon; and the gradient for SGD. The gradient of a stored leaf is A times
  that of the forward weight, hence u = A²·c·g, where g is n⁰ for an output leaf (an activation times the slope of the loss),
  and for every other leaf the slope of the loss with respect to an activation. That has the size of the output layer's
  forward weights: A·σ at first, their updates later.

The exponents are read off the numbers of the tables' own trees at the sizes of the check, so that a law may be any function.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from equimu._values import Real
from equimu.diagnostics._fit import slope
from equimu.diagnostics._pool import first_of_pool
from equimu.parameterization import Rule, Tree, rules_of

EXACT = 1e-3  # exponents of laws are exact up to rounding of sizes


@dataclasses.dataclass(frozen=True)
class Interval:
    """Exponents that are expected, between two ends that may be infinite.

    - `low`, `high`: the ends; infinite where there is none.
    """

    low: Real
    high: Real

    def __str__(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return "any"
        if self.high - self.low < EXACT:
            return _number(self.low)
        if math.isinf(self.high):
            return f"≥ {_number(self.low)}"
        if math.isinf(self.low):
            return f"≤ {_number(self.high)}"
        return f"{_number(self.low)} … {_number(self.high)}"

    def off_by(self, value: Real) -> Real:
        """By how much a value lies outside; negative below."""
        return value - min(max(value, self.low), self.high)


ANY = Interval(-math.inf, math.inf)


def _number(value: Real) -> str:
    return f"{round(value, 2) + 0.0:+.2f}" if abs(value) > EXACT else "0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeafTheory:
    """What the laws say of one leaf.

    - `path`, `rules`: its path, and its rule in the tables' own tree at each size.
    - `sizes_of_weight`, `sizes_of_update`: root mean square of the forward weight at the start, and of an update of it in
      units that are the same at all sizes; None where the optimizer's direction has no size of its own.
    - `weight`, `update`: their exponents. A weight that is drawn as zero has -inf.
    - `contribution`: by what its updates change its output.
    - `decay`: exponent of the share by which decay shrinks it, -inf without decay.
    - `fan_in`: exponent of the fan-in.
    - `narrowing`: exponent of how many inputs a hidden matrix has to each of its outputs: of the heads in a group, for keys
      and values whose number of heads stays.
    - `is_readout`: whether it is an output layer: few outputs, each the sum of many inputs.
    - `is_inside`: whether it is one that the loss does not read, such as a router: what it does comes back into features.
    - `is_tied`: whether it is the slot of a tied array, which stands for the array's use as an output layer.
    - `drawn`: whether it starts at random; `trained`: whether it has a learning rate; `ends_branch`: of a residual block.
    """

    path: str
    rules: tuple[Rule, ...]
    sizes_of_weight: tuple[Real, ...]
    sizes_of_update: tuple[Real, ...] | None
    weight: Real
    update: Interval
    contribution: Interval
    decay: Real
    fan_in: Real
    narrowing: Real
    is_readout: bool
    is_inside: bool
    is_tied: bool
    drawn: bool
    trained: bool
    ends_branch: bool

    @property
    def role(self) -> str:
        return self.rules[0].role

    @property
    def passes(self) -> Real:
        """Exponent of what its first weights make of an input of size n⁰ that is independent of them."""
        return self.weight + self.fan_in / 2

    @property
    def passes_aligned(self) -> Real:
        """The same of an input that is aligned with them."""
        return self.weight + self.fan_in


def leaf_theories(
    trees: Sequence[Tree[Any]],
    sizes: Sequence[Real],
    paths: Sequence[str],
    *,
    decays: bool,
    last: frozenset[str] = frozenset(),
) -> dict[str, LeafTheory]:
    """What the laws say of each leaf; the arguments are those of `theory`."""
    by_path = [{rule.path: rule for rule in rules_of(tree)} for tree in trees]
    rules = {path: tuple(each[first_of_pool(path)] for each in by_path) for path in paths}
    places = {path: each[0].leaf for path, each in rules.items()}
    tied = {path: place.tied_source for path, place in places.items()}
    by_width = is_by_width(trees)

    def exponent(values: Sequence[Any]) -> Real:
        return slope(sizes, values) if all(value > 0 for value in values) else -math.inf

    def fan_in(path: str) -> Real:
        return exponent([rule.dimensions.fan_in for rule in rules[path]])

    def narrowing(path: str) -> Real:
        each = [rule.dimensions.fan_in / rule.dimensions.fan_out for rule in rules[path]]
        return max(0.0, exponent(each)) if rules[path][0].role == "hidden" and each[-1] > each[0] else 0.0

    def weight(path: str) -> list[Real]:
        source = tied[path]
        # The slot of a tied array stands for the array's second use.
        first = [1.0] * len(sizes) if source is None else weight(source)
        return [_weight(rule) * one for rule, one in zip(rules[path], first, strict=True)]

    def step(path: str) -> Real:
        """Exponent of the forward update for a direction of size 1."""
        source = tied[path]
        if source is not None:
            return step(source) + exponent([_weight(rule) for rule in rules[path]])
        return exponent([rule.multiplier * rule.lr for rule in rules[path]])

    def is_readout(path: str) -> bool:
        return tied[path] is not None or rules[path][0].role == "output"

    def is_last(path: str) -> bool:
        """Whether the loss reads what this output layer puts out: not if it is a router. Where nobody knows, it does."""
        return not last or tied[path] is not None or first_of_pool(path) in last

    def multiplier(path: str) -> Real:
        return exponent([rule.multiplier for rule in rules[path]])

    def spectral(path: str) -> bool:
        return rules[path][0].optimizer == "muon" and rules[path][0].role == "hidden"

    # The slope of the loss with respect to activations has the size of the forward weights that it comes back through.
    all_readouts = [path for path in rules if is_readout(path)]
    readouts = list(filter(is_last, all_readouts)) or all_readouts
    drawn = max((exponent(weight(path)) for path in readouts), default=-math.inf)
    moved = max((step(path) + multiplier(path) for path in readouts), default=-math.inf)
    # A tied readout is aligned with the embeddings that it reads: logits that grow by that take the slope with them.
    overlap = max((exponent(weight(path)) + fan_in(path) for path in readouts if tied[path] is not None), default=0.0)
    backward = Interval(drawn if drawn > -math.inf else moved, max(drawn, moved) + max(0.0, overlap))
    # What matrices with few outputs put out may vanish, and with it what others multiply with that. (One that is drawn as zero
    # says nothing of the size that it takes on.)
    few = [exponent(weight(path)) + fan_in(path) / 2 for path in rules if narrowing(path)]
    vanishing = sorted(min(0.0, size) for size in few if size > -math.inf)
    # Two of them may be multiplied, as queries' slopes are with keys and values.
    narrow = sum(vanishing[:2])
    # Over depth, it comes into a branch with the branch's factor.
    branches = [multiplier(path) for path in rules if places[path].ends_branch and not by_width]

    def slope_of_loss(path: str) -> Interval:
        if rules[path][0].role == "scalar" or backward.high == -math.inf:
            return ANY
        inside = rules[path][0].dimensions.depth != rules[path][-1].dimensions.depth and not places[path].ends_branch
        branch = max(branches, default=0.0) if inside else 0.0
        # Few activations that many read gather the slopes of all of them: independent ones at least, at most aligned ones.
        gathered = narrowing(path)
        return Interval(backward.low + narrow + branch + gathered / 2, backward.high + branch + gathered)

    def update(path: str) -> Interval:
        rule, once = rules[path][0], step(path)
        if once == -math.inf or rule.optimizer in ("adam", "sign") or (rule.optimizer == "muon" and not spectral(path)):
            return Interval(once, once)
        if rule.optimizer == "adafactor":
            own = weight(path) if tied[path] is None else [1.0] * len(sizes)
            # What starts at zero moves as if it were a small constant in the forward pass.
            relative = exponent(own) - multiplier(path) if all(own) else -multiplier(path)
            return Interval(once + relative, once + relative)
        if spectral(path):
            # An orthogonal matrix, of a rank that the batch may limit.
            ins, outs = fan_in(path), exponent([rule.dimensions.fan_out for rule in rules[path]])
            return Interval(once - (ins + outs) / 2, once - max(ins, outs) / 2)
        if is_readout(path) and (is_last(path) or backward.high == -math.inf):
            return Interval(once + multiplier(path), once + multiplier(path))
        if is_readout(path):
            # A router weighs features: its slope is the sum, over all of them, of their slopes times what it weighs. Slopes of
            # the loss are independent of features at the start (they come through the first output weights), aligned later.
            low, high = backward.low + fan_in(path) / 2, backward.high + fan_in(path)
            return Interval(once + multiplier(path) + low, once + multiplier(path) + high)
        slopes = slope_of_loss(path)
        # What all positions agree on in the gradient of the gain before the readout is the logits' slope, shared among the
        # width. It falls faster than what they do not agree on, but of many positions it is the larger part at first.
        is_gain = rule.role == "vector" and rule.init_mean != 0
        shared = -max(map(fan_in, readouts), default=0.0) / 2 if is_gain else 0.0
        return Interval(once + multiplier(path) + slopes.low + shared, once + multiplier(path) + slopes.high)

    def contribution(path: str) -> Interval:
        if spectral(path):
            # Its norm is 1 whatever its rank is.
            outs = exponent([rule.dimensions.fan_out for rule in rules[path]])
            return Interval(*[step(path) + (fan_in(path) - outs) / 2] * 2)
        return Interval(update(path).low + fan_in(path), update(path).high + fan_in(path))

    def direction(path: str) -> tuple[Real, ...] | None:
        rule = rules[path][0]
        if rule.optimizer not in ("adam", "sign", "muon") or spectral(path):
            return None
        return tuple(float(rule.multiplier * rule.lr) for rule in rules[path])

    return {
        path: LeafTheory(
            path=path,
            rules=each,
            sizes_of_weight=tuple(map(_weight, each)),
            sizes_of_update=direction(path),
            weight=exponent(weight(path)),
            update=update(path),
            contribution=contribution(path),
            decay=exponent([_decay(rule) for rule in each]) if decays and _decays_apart(each[0]) else -math.inf,
            fan_in=fan_in(path),
            narrowing=narrowing(path),
            is_tied=tied[path] is not None,
            is_readout=is_readout(path),
            is_inside=is_readout(path) and not is_last(path),
            drawn=any(rule.init_mean == 0 and rule.init_std != 0 for rule in rules[tied[path] or path]),
            trained=any(rule.lr != 0 for rule in rules[tied[path] or path]),
            ends_branch=places[path].ends_branch,
        )
        for path, each in rules.items()
    }


def _decays_apart(rule: Rule) -> bool:
    """Whether decay is a share of the leaf; where it is part of a gradient that is normalised, it is in the update."""
    return rule.decay != "l2" or rule.optimizer == "sgd"


def _decay(rule: Rule) -> float:
    """The share by which decay shrinks a leaf in a step, in units that are the same at all sizes."""
    return float(rule.weight_decay * (rule.lr if rule.decay in ("standard", "l2") else 1.0))


def _weight(rule: Rule) -> float:
    """Root mean square of the forward weight; 1 where only the model knows it."""
    if rule.init_mean is None:
        return 1.0
    return float(abs(rule.multiplier) * math.hypot(rule.init_mean, rule.init_std))


def is_by_width(trees: Sequence[Tree[Any]]) -> bool:
    """Whether the sizes of the trees differ in a width; else it is a depth."""
    fans = [{rule.path: (rule.dimensions.fan_in, rule.dimensions.fan_out) for rule in rules_of(tree)} for tree in trees]
    return any(each[path] != fan for each in fans for path, fan in fans[0].items())
