"""What a parameterization says each leaf and each site should do as the model grows.

Everything is an exponent: the power of the size that is varied. The laws of a leaf of multiplier A, deviation σ and learning-rate
factor c give, for what the forward pass sees,

- the weight: w = A·σ;
- the update: u = A·c times the size of the optimizer's direction, which is 1 for Adam and sign-like optimizers, and the
  gradient for SGD. The gradient of a stored leaf is A times that of the forward weight, hence u = A²·c·g. There g is
  width⁰ for an output leaf (an activation times the slope of the loss), and for every other leaf the slope of the loss with
  respect to an activation, which is of the size of the output layer's forward weights: σ·A at first, later their updates.

With f the exponent of the fan-in, a layer whose input is of size n⁰ puts out w + f/2, since its draws are independent, and an
update changes that by u + f, since updates are aligned with their inputs, or by u + f/2 where they are not. A change of
its input passes through the first weights: as w + f/2 where they have many outputs, and as w + f where they have few,
which can all be aligned. (Tensor Programs V, arXiv 2203.03466, appendix J; Everett et al., arXiv 2407.05872, for alignment.)

The exponents are read off the numbers of the tables' own trees at the sizes of the check, so that a law may be any function.
"""

import dataclasses
import math
from collections.abc import Sequence

from equimu._types import PyTree
from equimu.diagnostics._fit import slope
from equimu.diagnostics._record import WHOLE, module_classes
from equimu.diagnostics._sites import find_derived
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

    - `rules`: its rule in the tables' own tree at each size.
    - `sizes_of_weight`, `sizes_of_update`: root mean square of the forward weight at the start, and of an update of it in
      units that are the same at all sizes; None where the optimizer's direction has no size of its own.
    - `weight`, `update`: their exponents. A weight that is drawn as zero has -inf.
    - `fan_in`: exponent of the fan-in.
    - `is_readout`: whether it has few outputs, each the sum of many inputs. The slot of a tied array, which stands for the
      array's use as an output layer, is one.
    - `drawn`: whether it starts at random; `trained`: whether it has a learning rate.
    """

    rules: tuple[Rule, ...]
    sizes_of_weight: tuple[float, ...]
    sizes_of_update: tuple[float, ...] | None
    weight: float
    update: Interval
    fan_in: float
    is_readout: bool
    drawn: bool
    trained: bool

    @property
    def path(self) -> str:
        return self.rules[0].path

    @property
    def role(self) -> str:
        return self.rules[0].role

    @property
    def contribution(self) -> Interval:
        """By what its updates change its output, aligned with its input."""
        return Interval(self.update.low + self.fan_in, self.update.high + self.fan_in)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiteTheory:
    """What is expected of one site: the exponents of its output at the start and of the change of it by training.

    `leaves` are those of the module itself, if the site is the output of a layer.
    """

    output: Interval
    change: Interval
    leaves: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theory:
    """What a parameterization says of a model.

    - `growth`: exponent of the largest change of features that an update makes, aligned with its input: 0 where training is
      maximal and stable, positive where activations grow, negative where features stay as they were.
    """

    leaves: dict[str, LeafTheory]
    sites: dict[str, SiteTheory]
    growth: float


def theory(trees: Sequence[PyTree], sizes: Sequence[float], shapes: Sequence[dict[str, tuple[int, ...]]]) -> Theory:
    """Predicts.

    Args:
        trees: the parameterization's own trees, one a size.
        sizes: the values of the size that is varied.
        shapes: of each site, by name, one dictionary a size.
    """
    leaves = _leaves(trees, sizes)
    features = [leaf.contribution.high for leaf in leaves.values() if leaf.trained and not leaf.is_readout]
    growth = max(features, default=0.0)
    classes = module_classes(trees[0])
    owned: dict[str, list[LeafTheory]] = {path: [] for path in classes}
    for path, leaf in leaves.items():
        owned[max((p for p in classes if p == "" or is_within(path, p)), key=len, default="")].append(leaf)
    by_width = any(len({(r.dimensions.fan_in, r.dimensions.fan_out) for r in leaf.rules}) > 1 for leaf in leaves.values())
    sites: dict[str, SiteTheory] = {}
    for site in shapes[0]:
        path = _module(site, classes)
        if path is None:
            sites[site] = _derived(growth)
            continue
        grows = len({one[site] for one in shapes}) > 1
        is_layer = not any(p != path and (path == "" or is_within(p, path)) for p in classes)
        own = [leaf for leaf in owned[path] if not by_width or leaf.is_readout != grows] if is_layer else []
        if own:
            sites[site] = _layer(own, growth)
        elif grows or not by_width:
            sites[site] = _features([leaf for leaf in leaves.values() if not leaf.is_readout], growth)
        else:
            sites[site] = _outputs([leaf for leaf in leaves.values() if leaf.is_readout], growth)
    return Theory(leaves=leaves, sites=sites, growth=growth)


# --- sites


def _module(site: str, classes: dict[str, type]) -> str | None:
    """The path of the module that puts a site out; None for a derived site."""
    name = "" if site.startswith(WHOLE) else site.partition("#")[0]
    if name not in classes and name.endswith("]"):
        name = name[: name.rindex("[")]  # one of several outputs
    return name if name in classes else None


def _layer(own: list[LeafTheory], growth: float) -> SiteTheory:
    """The output of a layer: it follows from the layer's own leaves, and from an input of size n⁰ that changes by `growth`."""
    drawn = [leaf.weight + leaf.fan_in / 2 for leaf in own if leaf.drawn]
    constant = [leaf.weight for leaf in own if not leaf.drawn and leaf.weight > -math.inf]
    start = max(drawn or constant, default=None)
    # What comes into an input layer is data, which does not change.
    passed = [
        leaf.weight + (leaf.fan_in if leaf.is_readout else leaf.fan_in / 2) + growth
        for leaf in own
        if leaf.role != "input" and leaf.weight > -math.inf
    ]
    trained = [leaf for leaf in own if leaf.trained]
    high = max([leaf.contribution.high for leaf in trained] + passed, default=-math.inf)
    low = max((leaf.contribution.low for leaf in trained), default=-math.inf)
    if growth > _EXACT and passed:
        # Growth adds up from layer to layer and from step to step, until a norm or a saturated loss ends it.
        low, high = min(low, 0.0), math.inf
    return SiteTheory(
        output=ANY if start is None else Interval(start, start),
        change=Interval(min(low, high), high),
        leaves=tuple(leaf.path for leaf in own),
    )


def _features(leaves: list[LeafTheory], growth: float) -> SiteTheory:
    """The output of a module of several layers: features, of the size of those that one of its layers puts out."""
    starts = [0.0, *(leaf.weight + leaf.fan_in / 2 for leaf in leaves if leaf.drawn)]
    moves = [leaf.contribution.low for leaf in leaves if leaf.trained and leaf.role != "scalar"]
    low = min(moves, default=-math.inf)
    if growth > _EXACT:
        return SiteTheory(output=Interval(min(starts), max(starts)), change=Interval(min(low, 0.0), math.inf))
    return SiteTheory(output=Interval(min(starts), max(starts)), change=Interval(min(low, growth), growth))


def _outputs(readouts: list[LeafTheory], growth: float) -> SiteTheory:
    """Few outputs, made of those of the output layers."""
    if not readouts:
        return SiteTheory(output=ANY, change=ANY)
    each = [_layer([leaf], growth) for leaf in readouts]
    starts = [0.0, *(site.output.low for site in each if site.output != ANY)]
    low, high = min(site.change.low for site in each), max(site.change.high for site in each)
    return SiteTheory(output=Interval(min(starts), max(starts)), change=Interval(low, high))


def _derived(growth: float) -> SiteTheory:
    """Scores of attention: products of two activations over a head.

    With heads of one size they are of size n⁰. With heads that grow and a factor 1/head_dim they vanish as n^-1/2 at the start,
    where queries and keys are independent; their changes are aligned, and stay of size n⁰.
    """
    if growth > _EXACT:
        return SiteTheory(output=Interval(-0.5, math.inf), change=Interval(-0.5, math.inf))
    return SiteTheory(output=Interval(-0.5, 0.0), change=Interval(2 * growth, growth))


# --- leaves


def _leaves(trees: Sequence[PyTree], sizes: Sequence[float]) -> dict[str, LeafTheory]:
    rules = {each[0].path: each for each in zip(*map(rules_of, trees), strict=True)}
    tied = {leaf.path: leaf.tied_source for leaf in locate(next(iter(rules.values()))[0].blueprint.shapes())}

    def exponent(values: Sequence[float]) -> float:
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

    # The slope of the loss with respect to activations has the size of the forward weights that it comes back through.
    backward = [e for path in rules if is_readout(path) for e in (exponent(weight(path)), step(path) + multiplier(path))]
    backward = [e for e in backward if e > -math.inf]

    def update(path: str) -> Interval:
        once = step(path)
        if rules[path][0].optimizer in ("adam", "sign") or once == -math.inf:
            return Interval(once, once)
        if is_readout(path):
            return Interval(once + multiplier(path), once + multiplier(path))
        if rules[path][0].role == "scalar" or not backward:
            return ANY
        return Interval(once + multiplier(path) + min(backward), once + multiplier(path) + max(backward))

    def direction(path: str) -> tuple[float, ...] | None:
        if rules[path][0].optimizer not in ("adam", "sign"):
            return None
        return tuple(float(rule.multiplier * rule.lr) for rule in rules[path])

    return {
        path: LeafTheory(
            rules=each,
            sizes_of_weight=tuple(map(_weight, each)),
            sizes_of_update=direction(path),
            weight=exponent(weight(path)),
            update=update(path),
            fan_in=fan_in(path),
            is_readout=is_readout(path),
            drawn=any(rule.init_mean == 0 and rule.init_std != 0 for rule in rules[tied[path] or path]),
            trained=any(rule.lr != 0 for rule in rules[tied[path] or path]),
        )
        for path, each in rules.items()
    }


def _weight(rule: Rule) -> float:
    """Root mean square of the forward weight; 1 where only the model knows it."""
    if rule.init_mean is None:
        return 1.0
    return float(abs(rule.multiplier) * math.hypot(rule.init_mean, rule.init_std))
