"""What a parameterization says of each site: the powers with which activations and their changes go.

With w the exponent of a leaf's weight, u that of its update (see `_laws`) and f that of its fan-in, a layer with an input of
size n⁰ puts out w + f/2, since its draws are independent, and updates, which are aligned with inputs, change that by u + f. A
change of its input passes through the first weights as w + f/2 where they have many outputs, and as w + f where they have few,
which can all be aligned. (Tensor Programs V, arXiv 2203.03466, appendix J; for alignment Everett et al., arXiv 2407.05872.)

Over the depth L nothing has a fan-in that grows, but the stream adds up the outputs of the branches: independent ones as L^1/2,
and updates, which all pull the same way, as L. (CompleteP, arXiv 2505.01618.)
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from equimu._values import Real
from equimu.diagnostics._about import About
from equimu.diagnostics._fit import slope
from equimu.diagnostics._laws import ANY, EXACT, Interval, LeafTheory, is_by_width, leaf_theories
from equimu.diagnostics._pool import first_of_pool
from equimu.diagnostics._record import WHOLE, module_classes
from equimu.parameterization import Tree, is_within


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiteTheory:
    """What is expected of one site: the exponents of its output at the start and of the change of it by training.

    - `leaves`: those of the module itself, if the site is the output of a layer.
    - `misdeclared`: a leaf of that layer whose axes say that it has many outputs, where the layer has few, or few where many.
    - `derived`: whether the site is a product of two activations, see `register_sites`.
    - `sums`: whether it is a sum over features in the model's own code, without any array.
    """

    output: Interval
    change: Interval
    leaves: tuple[str, ...] = ()
    misdeclared: str | None = None
    derived: bool = False
    sums: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theory:
    """What a parameterization says of a model.

    - `growth`: exponent of the largest change of features that an update makes, aligned with its input: 0 where training is
      maximal and stable, positive where activations grow, negative where features stay as they were. Matrices with few outputs
      are left out.
    """

    leaves: dict[str, LeafTheory]
    sites: dict[str, SiteTheory]
    growth: Real


def theory(
    trees: Sequence[Tree[Any]],
    sizes: Sequence[Real],
    paths: Sequence[str],
    shapes: Sequence[dict[str, tuple[int, ...]]],
    *,
    about: Sequence[Mapping[str, About]] = (),
    last: frozenset[str] = frozenset(),
    decays: bool = False,
) -> Theory:
    """Predicts.

    Args:
        trees: the parameterization's own trees, one a size.
        sizes: the values of the size that is varied.
        paths: the leaves; one that stands for the same leaf of each block has `[*]` for an index.
        shapes: of each site, by name, one dictionary a size.
        about: what is known of each site, one dictionary a size.
        last: the arrays that make what the loss reads.
        decays: whether the optimizer has weight decay.
    """
    leaves = leaf_theories(trees, sizes, paths, decays=decays, last=last)
    growth = _growth(leaves, by_width=is_by_width(trees))
    classes = module_classes(trees[0])
    owned: dict[str, list[LeafTheory]] = {path: [] for path in ("", *classes)}
    for leaf in leaves.values():
        owned[max((p for p in owned if p == "" or is_within(leaf.rules[0].path, p)), key=len)].append(leaf)
    sites: dict[str, SiteTheory] = {}
    known = about[0] if about else {}
    for site in shapes[0]:
        what = known.get(site, About())
        if what.layer_of:
            sites[site] = sites[what.layer_of]
            continue
        if what.kind != "module":
            is_wide = len({one[site] for one in shapes}) > 1
            spans = slope(sizes, [one[site].span for one in about])
            sites[site] = _found(what, leaves, growth, is_wide=is_wide, spans=spans)
            continue
        path = _module(site, classes)
        grows = len({one[site] for one in shapes}) > 1 or not is_by_width(trees)
        if path is None:
            sites[site] = _derived(leaves, growth, _head_growth(site, sizes, shapes, classes, owned))
            continue
        is_layer = not any(p != path and (path == "" or is_within(p, path)) for p in classes)
        all_own = owned[path] if is_layer else []
        # Keys and values of few heads put out little, and are not output layers.
        own = [leaf for leaf in all_own if (leaf.is_readout or leaf.narrowing > 0) != grows]
        if own:
            sites[site] = _layer(own, growth)
        else:
            only_scalars = bool(all_own) and all(leaf.role == "scalar" for leaf in all_own)
            finite = SiteTheory(output=ANY, change=ANY) if only_scalars else _outputs(leaves, growth)
            sites[site] = _features(leaves, growth) if grows else finite
        if not any(leaf.drawn for leaf in own):
            odd = [leaf.path for leaf in all_own if leaf.drawn and leaf.role != "scalar"]
            sites[site] = dataclasses.replace(sites[site], misdeclared=odd[0] if odd else None)
    return Theory(leaves=leaves, sites=sites, growth=growth.change.low)


@dataclasses.dataclass(frozen=True)
class _Growth:
    """Exponents of features.

    - `change`: of the largest change that updates make; its lower end leaves out matrices with few outputs, whose updates
      may grow without being much of the whole.
    - `start`: of their size at the start, at most.
    - `narrow`: of the smallest at the start, which come out of matrices with few outputs.
    - `vanishing`: of the part of a change that updates of such matrices make. Where the slopes that they gather are
      independent, as at first, it falls with the size, but at small sizes it may be the larger part.
    """

    change: Interval
    start: Real
    narrow: Real = 0.0
    vanishing: Real = 0.0


def _growth(leaves: dict[str, LeafTheory], *, by_width: bool) -> _Growth:
    features = [leaf for leaf in leaves.values() if not leaf.is_readout and leaf.role != "scalar"]
    reaching = [*features, *(leaf for leaf in leaves.values() if leaf.is_inside)]
    largest = max((leaf.contribution.high for leaf in reaching if leaf.trained), default=0.0)
    if by_width:
        wide = max((leaf.contribution.high for leaf in features if leaf.trained and not leaf.narrowing), default=0.0)
        narrow = [leaf.passes for leaf in features if leaf.narrowing and leaf.drawn]
        few = [leaf.contribution.low for leaf in features if leaf.narrowing and leaf.trained]
        return _Growth(Interval(wide, max(wide, largest)), 0.0, min([0.0, *narrow]), min([0.0, *few]))
    ends = [leaf for leaf in features if leaf.ends_branch]
    if not ends:
        return _Growth(Interval(math.inf, math.inf), math.inf)  # nobody knows what is added up
    start = max(0.0, *(leaf.weight + 0.5 for leaf in ends))
    largest = max(largest, start, *(leaf.contribution.high + 1 for leaf in ends))
    return _Growth(Interval(largest, largest), start)


def _module(site: str, classes: dict[str, type]) -> str | None:
    """The path of the module that puts a site out; None for a derived site."""
    name = "" if site.startswith(WHOLE) else first_of_pool(site.partition("#")[0])
    if name not in classes and name.endswith("]"):
        name = name[: name.rindex("[")]  # one of several outputs
    return name if name in classes else None


def _layer(own: list[LeafTheory], growth: _Growth) -> SiteTheory:
    """The output of a layer: it follows from the layer's own leaves, and from an input of size n⁰ that changes by `growth`."""
    drawn = [leaf.passes for leaf in own if leaf.drawn]
    constant = [leaf.weight for leaf in own if not leaf.drawn and leaf.weight > -math.inf]
    start = max(drawn or constant, default=None)
    # A tied readout is aligned with its input from the start.
    aligned = [leaf.passes_aligned for leaf in own if leaf.is_tied]
    # What comes into an input layer is data, which does not change.
    passing = [leaf for leaf in own if leaf.role != "input" and leaf.weight > -math.inf]
    passed = [leaf.passes_aligned if leaf.is_readout or leaf.narrowing > 0 else leaf.passes for leaf in passing]
    trained = [leaf.contribution for leaf in own if leaf.trained]
    # Of a weight and a bias, whichever has the larger part at these sizes.
    low = min((contribution.low for contribution in trained), default=-math.inf)
    high = max([contribution.high for contribution in trained] + [e + growth.change.high for e in passed], default=low)
    # The first weights of few outputs also pass a part of the change that is not aligned with them. It vanishes, slowly.
    low = min([low] + [leaf.passes + growth.change.low for leaf in passing if leaf.is_readout])
    low = min([low] + [leaf.passes + growth.vanishing for leaf in passing])
    # Decay changes what a layer puts out, too; where updates shrink with the size, it is what is left of a change.
    high = max([high] + [leaf.passes + leaf.decay for leaf in own if leaf.drawn and leaf.trained])
    if growth.change.high > EXACT and passed:
        # Growth adds up from layer to layer and from step to step, until a norm or a saturated loss ends it. Where it has not
        # begun, features move by n⁰, and the first weights of few outputs pass the part of that which is not aligned.
        unaligned = (leaf.passes for leaf in passing if leaf.is_readout)
        low, high = min([low, 0.0, growth.change.low, *unaligned]), math.inf
    grown, shrunk = (growth.start, growth.narrow) if passed else (0.0, 0.0)  # with what comes in
    return SiteTheory(
        output=ANY if start is None else Interval(start + shrunk, max([start, *aligned]) + grown),
        change=Interval(min(low, high) + shrunk, high),
        leaves=tuple(leaf.path for leaf in own),
    )


def _features(leaves: dict[str, LeafTheory], growth: _Growth) -> SiteTheory:
    """The output of a module of several layers: features, of the size of those that one of its layers puts out."""
    starts = [0.0, *(e.passes for e in leaves.values() if e.drawn and not e.is_readout)]
    return SiteTheory(output=Interval(min(starts), max(starts) + growth.start), change=_moves(leaves, growth))


def _moves(leaves: dict[str, LeafTheory], growth: _Growth) -> Interval:
    """By what features change, in one layer or another."""
    lows = [e.contribution.low for e in leaves.values() if e.trained and not e.is_readout and e.role != "scalar"]
    if growth.change.high > EXACT:
        return Interval(min([0.0, growth.change.low, *lows]), math.inf)
    return Interval(min([growth.change.low, *lows]), growth.change.high)


def _outputs(leaves: dict[str, LeafTheory], growth: _Growth) -> SiteTheory:
    """Few outputs, made of those of the output layers.

    Where no array is an output layer, they may vanish at the start, as features that cancel do; whatever makes them, they do
    not grow, and training moves them by at least the part of a change that is not aligned, n^-1/2, and by no more than n⁰.
    """
    each = [_layer([leaf], growth) for leaf in leaves.values() if leaf.is_readout]
    if not each:
        grows = growth.change.high > EXACT
        change = Interval(min(0.0, growth.change.low) - 0.5, math.inf if grows else 0.0)
        return SiteTheory(output=Interval(-math.inf, growth.start), change=change)
    starts = [0.0, *(end for site in each if site.output != ANY for end in (site.output.low, site.output.high))]
    low, high = min(site.change.low for site in each), max(site.change.high for site in each)
    return SiteTheory(output=Interval(min(starts), max(starts)), change=Interval(low, high))


def _found(what: About, leaves: dict[str, LeafTheory], growth: _Growth, *, is_wide: bool, spans: Real) -> SiteTheory:
    """A site that is found in the program, see `About`."""
    own = [leaf for leaf in leaves.values() if leaf.path in what.of or first_of_pool(leaf.path) in what.of]
    if what.kind == "rows":
        right = [leaf for leaf in own if leaf.role in ("input", "vector")]
        features = _layer(right, growth) if right else _features(leaves, growth)
        read = features if is_wide else SiteTheory(output=ANY, change=ANY)
        return dataclasses.replace(read, leaves=tuple(leaf.path for leaf in own))
    if what.kind == "scores":
        # Features that vanish make products that do so twice.
        few = [leaf.passes for leaf in own if leaf.drawn and (leaf.is_readout or leaf.narrowing)]
        return _derived(leaves, growth, spans, 2 * min([0.0, *few]))
    if is_wide:
        return _features(leaves, growth)
    outputs = _outputs(leaves, growth)
    # They may be products of outputs.
    return dataclasses.replace(outputs, output=Interval(-math.inf, outputs.output.high), sums=what.is_sum)


def _head_growth(
    site: str,
    sizes: Sequence[Real],
    shapes: Sequence[dict[str, tuple[int, ...]]],
    classes: dict[str, type],
    owned: dict[str, list[LeafTheory]],
) -> Real:
    """The exponent of head_dim: queries that grow are spread over heads, and where the number of scores does not grow with
    them, the heads do."""
    module = max((path for path in classes if path == "" or is_within(first_of_pool(site), path)), key=len, default="")
    inside = [leaf for path, held in owned.items() if path == module or is_within(path, module) for leaf in held]
    outs = [slope(sizes, [rule.dimensions.fan_out for rule in leaf.rules]) for leaf in inside]
    return max(0.0, max(outs, default=0.0) - slope(sizes, [math.prod(one[site]) for one in shapes]))


def _derived(leaves: dict[str, LeafTheory], growth: _Growth, head_growth: Real, vanishing: Real = 0.0) -> SiteTheory:
    """Scores of attention: products of two activations over a head.

    With heads of one size they are of size n⁰. With heads that grow and a factor 1/head_dim they vanish as n^-1/2 at the start,
    where queries and keys are independent, which tells it from 1/√head_dim. Their changes are aligned, and stay of size n⁰ but
    for a part that is not.
    """
    moves = _moves(leaves, growth)
    start = -head_growth / 2
    if growth.change.high > EXACT:
        output = Interval(start + vanishing, math.inf)
    else:
        high = 2 * growth.start + (0.0 if growth.change.high < -EXACT else start)
        output = Interval(start + vanishing, high)
    return SiteTheory(output=output, change=Interval(moves.low - 0.5, moves.high), derived=True)
