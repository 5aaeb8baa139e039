"""What a parameterization says each leaf and each site should do as the model grows.

Everything is an exponent: the power of the size that is varied. The laws of a leaf of multiplier A, deviation σ and factor c on
the learning rate give, for what the forward pass sees,

- the weight: w = A·σ;
- the update: u = A·c times the size of the optimizer's direction. That is 1 for Adam and sign-like optimizers; the weight's
  own size for Adafactor; of an orthogonal matrix for Muon; and the gradient for SGD. The gradient of a stored leaf is A times
  that of the forward weight, hence u = A²·c·g, where g is n⁰ for an output leaf (an activation times the slope of the loss),
  and for every other leaf the slope of the loss with respect to an activation. That has the size of the output layer's
  forward weights: A·σ at first, their updates later.

With f the exponent of the fan-in, a layer whose input is of size n⁰ puts out w + f/2, since its draws are independent, and
updates, which are aligned with their inputs, change that by u + f. A change of its input passes through the first weights as
w + f/2 where they have many outputs, and as w + f where they have few, which can all be aligned. (Tensor Programs V,
arXiv 2203.03466, appendix J; for alignment Everett et al., arXiv 2407.05872.)

Over the depth L nothing has a fan-in that grows, but the stream adds up the outputs of the branches: independent ones as L^1/2,
and updates, which all pull the same way, as L. (CompleteP, arXiv 2505.01618.)

The exponents are read off the numbers of the tables' own trees at the sizes of the check, so that a law may be any function.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from equimu._types import PyTree
from equimu.diagnostics._fit import slope
from equimu.diagnostics._pool import first_of_pool
from equimu.diagnostics._record import WHOLE, module_classes
from equimu.parameterization import Rule, rules_of
from equimu.parameterization._leaves import is_within, locate

_EXACT = 1e-3  # exponents of laws are exact up to rounding of sizes


@dataclasses.dataclass(frozen=True)
class Interval:
    """Exponents that are expected, between two ends that may be infinite."""

    low: float
    high: float

    def __str__(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return "any"
        if self.high - self.low < _EXACT:
            return _number(self.low)
        if math.isinf(self.high):
            return f"≥ {_number(self.low)}"
        return f"{_number(self.low)} … {_number(self.high)}"

    def off_by(self, value: float) -> float:
        """By how much a value lies outside; negative below."""
        return value - min(max(value, self.low), self.high)


ANY = Interval(-math.inf, math.inf)


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}" if abs(value) > _EXACT else "0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeafTheory:
    """What the laws say of one leaf.

    - `path`, `rules`: its path, and its rule in the tables' own tree at each size.
    - `sizes_of_weight`, `sizes_of_update`: root mean square of the forward weight at the start, and of an update of it in
      units that are the same at all sizes; None where the optimizer's direction has no size of its own.
    - `weight`, `update`: their exponents. A weight that is drawn as zero has -inf.
    - `contribution`: by what its updates change its output.
    - `fan_in`: exponent of the fan-in.
    - `is_readout`: whether it has few outputs, each the sum of many inputs. The slot of a tied array, which stands for the
      array's use as an output layer, is one.
    - `drawn`: whether it starts at random; `trained`: whether it has a learning rate; `ends_branch`: of a residual block.
    """

    path: str
    rules: tuple[Rule, ...]
    sizes_of_weight: tuple[float, ...]
    sizes_of_update: tuple[float, ...] | None
    weight: float
    update: Interval
    contribution: Interval
    fan_in: float
    is_readout: bool
    drawn: bool
    trained: bool
    ends_branch: bool

    @property
    def role(self) -> str:
        return self.rules[0].role


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiteTheory:
    """What is expected of one site: the exponents of its output at the start and of the change of it by training.

    - `leaves`: those of the module itself, if the site is the output of a layer.
    - `misdeclared`: a leaf of that layer whose axes say that it has many outputs, where the layer has few, or few where many.
    - `derived`: whether the site is no module's output, see `register_sites`.
    """

    output: Interval
    change: Interval
    leaves: tuple[str, ...] = ()
    misdeclared: str | None = None
    derived: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theory:
    """What a parameterization says of a model.

    - `growth`: exponent of the largest change of features that an update makes, aligned with its input: 0 where training is
      maximal and stable, positive where activations grow, negative where features stay as they were.
    """

    leaves: dict[str, LeafTheory]
    sites: dict[str, SiteTheory]
    growth: float


def theory(
    trees: Sequence[PyTree],
    sizes: Sequence[float],
    paths: Sequence[str],
    shapes: Sequence[dict[str, tuple[int, ...]]],
) -> Theory:
    """Predicts.

    Args:
        trees: the parameterization's own trees, one a size.
        sizes: the values of the size that is varied.
        paths: the leaves; one that stands for the same leaf of each block has `[*]` for an index.
        shapes: of each site, by name, one dictionary a size.
    """
    leaves = _leaves(trees, sizes, paths)
    growth = _growth(leaves, by_width=_is_by_width(trees))
    classes = module_classes(trees[0])
    owned: dict[str, list[LeafTheory]] = {path: [] for path in ("", *classes)}
    for leaf in leaves.values():
        owned[max((p for p in owned if p == "" or is_within(leaf.rules[0].path, p)), key=len)].append(leaf)
    sites: dict[str, SiteTheory] = {}
    for site in shapes[0]:
        path = _module(site, classes)
        grows = len({one[site] for one in shapes}) > 1 or not _is_by_width(trees)
        if path is None:
            sites[site] = _derived(leaves, growth)
            continue
        is_layer = not any(p != path and (path == "" or is_within(p, path)) for p in classes)
        all_own = owned[path] if is_layer else []
        own = [leaf for leaf in all_own if leaf.is_readout != grows]
        if own:
            sites[site] = _layer(own, growth)
        else:
            sites[site] = _features(leaves, growth) if grows else _outputs(leaves, growth)
        if not any(leaf.drawn for leaf in own):
            odd = [leaf.path for leaf in all_own if leaf.drawn and leaf.role != "scalar"]
            sites[site] = dataclasses.replace(sites[site], misdeclared=odd[0] if odd else None)
    return Theory(leaves=leaves, sites=sites, growth=growth.change)


@dataclasses.dataclass(frozen=True)
class _Growth:
    """Exponents of features: `change` of the largest change that updates make, `start` of their size at the start."""

    change: float
    start: float


def _growth(leaves: dict[str, LeafTheory], *, by_width: bool) -> _Growth:
    features = [leaf for leaf in leaves.values() if not leaf.is_readout and leaf.role != "scalar"]
    change = max((leaf.contribution.high for leaf in features if leaf.trained), default=0.0)
    if by_width:
        return _Growth(change, 0.0)
    ends = [leaf for leaf in features if leaf.ends_branch]
    if not ends:
        return _Growth(math.inf, math.inf)  # nobody knows what is added up
    start = max(0.0, *(leaf.weight + 0.5 for leaf in ends))
    return _Growth(max(change, start, *(leaf.contribution.high + 1 for leaf in ends)), start)


def _is_by_width(trees: Sequence[PyTree]) -> bool:
    fans = [{rule.path: (rule.dimensions.fan_in, rule.dimensions.fan_out) for rule in rules_of(tree)} for tree in trees]
    return any(each[path] != fan for each in fans for path, fan in fans[0].items())


# --- sites


def _module(site: str, classes: dict[str, type]) -> str | None:
    """The path of the module that puts a site out; None for a derived site."""
    name = "" if site.startswith(WHOLE) else first_of_pool(site.partition("#")[0])
    if name not in classes and name.endswith("]"):
        name = name[: name.rindex("[")]  # one of several outputs
    return name if name in classes else None


def _layer(own: list[LeafTheory], growth: _Growth) -> SiteTheory:
    """The output of a layer: it follows from the layer's own leaves, and from an input of size n⁰ that changes by `growth`."""
    drawn = [leaf.weight + leaf.fan_in / 2 for leaf in own if leaf.drawn]
    constant = [leaf.weight for leaf in own if not leaf.drawn and leaf.weight > -math.inf]
    start = max(drawn or constant, default=None)
    # What comes into an input layer is data, which does not change.
    passing = [leaf for leaf in own if leaf.role != "input" and leaf.weight > -math.inf]
    passed = [leaf.weight + leaf.fan_in / (1 if leaf.is_readout else 2) for leaf in passing]
    trained = [leaf.contribution for leaf in own if leaf.trained]
    low = max((contribution.low for contribution in trained), default=-math.inf)
    high = max([contribution.high for contribution in trained] + [e + growth.change for e in passed], default=low)
    # The first weights of few outputs also pass a part of the change that is not aligned with them. It vanishes, slowly.
    low = min([low] + [leaf.weight + leaf.fan_in / 2 + growth.change for leaf in passing if leaf.is_readout])
    if growth.change > _EXACT and passed:
        # Growth adds up from layer to layer and from step to step, until a norm or a saturated loss ends it.
        low, high = min(low, 0.0), math.inf
    return SiteTheory(
        output=ANY if start is None else Interval(start, start + (growth.start if passed else 0.0)),
        change=Interval(min(low, high), high),
        leaves=tuple(leaf.path for leaf in own),
    )


def _features(leaves: dict[str, LeafTheory], growth: _Growth) -> SiteTheory:
    """The output of a module of several layers: features, of the size of those that one of its layers puts out."""
    starts = [0.0, *(e.weight + e.fan_in / 2 for e in leaves.values() if e.drawn and not e.is_readout)]
    return SiteTheory(output=Interval(min(starts), max(starts) + growth.start), change=_moves(leaves, growth))


def _moves(leaves: dict[str, LeafTheory], growth: _Growth) -> Interval:
    """By what features change, in one layer or another."""
    lows = [e.contribution.low for e in leaves.values() if e.trained and not e.is_readout and e.role != "scalar"]
    if growth.change > _EXACT:
        return Interval(min([0.0, *lows]), math.inf)
    return Interval(min([growth.change, *lows]), growth.change)


def _outputs(leaves: dict[str, LeafTheory], growth: _Growth) -> SiteTheory:
    """Few outputs, made of those of the output layers."""
    each = [_layer([leaf], growth) for leaf in leaves.values() if leaf.is_readout]
    if not each:
        return SiteTheory(output=ANY, change=ANY)
    starts = [0.0, *(site.output.low for site in each if site.output != ANY)]
    low, high = min(site.change.low for site in each), max(site.change.high for site in each)
    return SiteTheory(output=Interval(min(starts), max(starts)), change=Interval(low, high))


def _derived(leaves: dict[str, LeafTheory], growth: _Growth) -> SiteTheory:
    """Scores of attention: products of two activations over a head.

    With heads of one size they are of size n⁰. With heads that grow and a factor 1/head_dim they vanish as n^-1/2 at the start,
    where queries and keys are independent; their changes are aligned, and stay of size n⁰ but for a part that is not.
    """
    moves = _moves(leaves, growth)
    low = moves.low - 0.5
    start = 2 * growth.start if growth.change <= _EXACT else math.inf
    return SiteTheory(output=Interval(-0.5, start), change=Interval(low, moves.high), derived=True)


# --- leaves


def _leaves(trees: Sequence[PyTree], sizes: Sequence[float], paths: Sequence[str]) -> dict[str, LeafTheory]:
    by_path = [{rule.path: rule for rule in rules_of(tree)} for tree in trees]
    rules = {path: tuple(each[first_of_pool(path)] for each in by_path) for path in paths}
    located = {leaf.path: leaf for leaf in locate(rules[paths[0]][0].blueprint.shapes())}
    places = {path: located[first_of_pool(path)] for path in paths}
    tied = {path: places[path].tied_source for path in paths}
    by_width = _is_by_width(trees)

    def exponent(values: Sequence[Any]) -> float:
        return slope(sizes, values) if all(value > 0 for value in values) else -math.inf

    def fan_in(path: str) -> float:
        return exponent([rule.dimensions.fan_in for rule in rules[path]])

    def weight(path: str) -> list[float]:
        source = tied[path]
        # The slot of a tied array stands for the array's second use.
        first = [1.0] * len(sizes) if source is None else weight(source)
        return [_weight(rule) * one for rule, one in zip(rules[path], first, strict=True)]

    def step(path: str) -> float:
        """Exponent of the forward update for a direction of size 1."""
        source = tied[path]
        if source is not None:
            return step(source) + exponent([_weight(rule) for rule in rules[path]])
        return exponent([rule.multiplier * rule.lr for rule in rules[path]])

    def is_readout(path: str) -> bool:
        return tied[path] is not None or rules[path][0].role == "output"

    def multiplier(path: str) -> float:
        return exponent([rule.multiplier for rule in rules[path]])

    def spectral(path: str) -> bool:
        return rules[path][0].optimizer == "muon" and rules[path][0].role == "hidden"

    # The slope of the loss with respect to activations has the size of the forward weights that it comes back through.
    readouts = [path for path in rules if is_readout(path)]
    drawn = max((exponent(weight(path)) for path in readouts), default=-math.inf)
    moved = max((step(path) + multiplier(path) for path in readouts), default=-math.inf)
    backward = Interval(drawn if drawn > -math.inf else moved, max(drawn, moved))
    # Over depth, it comes into a branch with the branch's factor.
    branches = [multiplier(path) for path in rules if places[path].ends_branch and not by_width]

    def slope_of_loss(path: str) -> Interval:
        if rules[path][0].role == "scalar" or backward.high == -math.inf:
            return ANY
        inside = rules[path][0].dimensions.depth != rules[path][-1].dimensions.depth and not places[path].ends_branch
        branch = max(branches, default=0.0) if inside else 0.0
        return Interval(backward.low + branch, backward.high + branch)

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
        if is_readout(path):
            return Interval(once + multiplier(path), once + multiplier(path))
        slopes = slope_of_loss(path)
        return Interval(once + multiplier(path) + slopes.low, once + multiplier(path) + slopes.high)

    def contribution(path: str) -> Interval:
        if spectral(path):
            # Its norm is 1 whatever its rank is.
            outs = exponent([rule.dimensions.fan_out for rule in rules[path]])
            return Interval(*[step(path) + (fan_in(path) - outs) / 2] * 2)
        return Interval(update(path).low + fan_in(path), update(path).high + fan_in(path))

    def direction(path: str) -> tuple[float, ...] | None:
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
            fan_in=fan_in(path),
            is_readout=is_readout(path),
            drawn=any(rule.init_mean == 0 and rule.init_std != 0 for rule in rules[tied[path] or path]),
            trained=any(rule.lr != 0 for rule in rules[tied[path] or path]),
            ends_branch=places[path].ends_branch,
        )
        for path, each in rules.items()
    }


def _weight(rule: Rule) -> float:
    """Root mean square of the forward weight; 1 where only the model knows it."""
    if rule.init_mean is None:
        return 1.0
    return float(abs(rule.multiplier) * math.hypot(rule.init_mean, rule.init_std))
