"""The rule of each array of a model, from its declaration, its growth, its start and the table."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from equimu._errors import EquimuError
from equimu._values import Positive, Real, check
from equimu.declarations import Leaf, is_within
from equimu.parameterization._law import Dimensions
from equimu.parameterization._own_draws import OwnDraw, own_draws
from equimu.parameterization._parameterization import BaseConstants, Parameterization, Row
from equimu.parameterization._rule import NUMBERS, ROLES, Rule
from equimu.parameterization._second_uses import places_of, tied_slot, with_second_uses
from equimu.parameterization._sizes import Geometry, base_dimensions, dimensions, measure, role_of
from equimu.parameterization._starts import Start, starts
from equimu.parameterization._trace import Blueprint, Blueprints
from equimu.parameterization._undeclared import inferred_words, undeclared_error
from equimu.parameterization._uses import uses

_MATRICES = ("input", "hidden", "output")


def rules_by_path(
    blueprints: Blueprints,
    parameterization: Parameterization,
    base: Mapping[str, int],
    target: Mapping[str, int],
    run: Mapping[str, Fraction],
    example: tuple[Any, ...],
) -> dict[str, Rule]:
    """The rules of all arrays, by path, second uses included; arguments are those of `parameterize`."""
    blueprint = blueprints(target)
    geometry = measure(lambda sizes: with_second_uses(blueprints(sizes).shapes()), base, target)
    _check_depth(parameterization, geometry)
    started = starts(blueprint)
    _warn_of_own_seeds(started)
    from_constructor = parameterization.start == "constructor"
    own = own_draws(blueprints, base, target, started, at_base=from_constructor)
    places = places_of(blueprint.shapes())
    started = {path: started[place] for path, place in places.items()}
    own = {path: own[place] for path, place in places.items() if place in own}
    words: dict[str, tuple[str, ...]] = {}
    undeclared: list[Leaf] = []
    for leaf in geometry.leaves:
        if leaf.trainable and leaf.tied_source is None:
            depends_on_axes = started[leaf.path].drawn and not from_constructor
            found = inferred_words(leaf, geometry.wide[leaf.path], drawn=depends_on_axes)
            if found is None:
                undeclared.append(leaf)
            else:
                words[leaf.path] = found
    if undeclared:
        used = uses(example[0], blueprint.shapes(), *example[1:]) if example else {}
        computed = {path for path, start in started.items() if not start.drawn and start.fill is None}
        raise undeclared_error(undeclared, geometry, used, computed)
    rules: dict[str, Rule] = {}
    for leaf in geometry.leaves:
        if leaf.path in words:
            start, draw = started[leaf.path], own.get(leaf.path)
            rules[leaf.path] = _rule(leaf, words[leaf.path], start, draw, geometry, parameterization, blueprint, run)
    _warn_of_fixed_starts(geometry, words, rules, parameterization)
    _check_tied(geometry)
    for leaf in geometry.leaves:
        if leaf.trainable and leaf.tied_source is not None:
            rules[leaf.path] = tied_slot(leaf, rules[leaf.tied_source], geometry, parameterization, blueprint)
    for constants in parameterization.constants:
        rules = _with_constants(rules, constants)
    for leaf in geometry.leaves:
        if leaf.trainable and leaf.norm_of is not None:
            rules[leaf.path] = _norm_gain(rules[leaf.path], rules[leaf.norm_of])
    return rules


def run_ratios(
    parameterization: Parameterization, batch_ratio: Real | Fraction, length_ratio: Real | Fraction
) -> dict[str, Fraction]:
    """The ratios of a run, by the names that laws have for them.

    Raises:
        EquimuError: one is not positive, or the parameterization has no rule for it.
    """
    check(Positive, batch_ratio=batch_ratio, length_ratio=length_ratio)
    ratios = {"batch_ratio": Fraction(batch_ratio), "length_ratio": Fraction(length_ratio)}
    for name, ratio in ratios.items():
        if ratio != 1 and not parameterization.uses(name):
            raise EquimuError(
                f"{name} {float(ratio):g} was given, and {parameterization.name} has no rule for it; use completed_p(), or "
                "leave it out"
            )
    return ratios


def _check_tied(geometry: Geometry) -> None:
    """What is declared to be tied needs an array for the multiplier of its second use."""
    slots = {leaf.tied_source for leaf in geometry.leaves if leaf.trainable}
    for leaf in geometry.leaves:
        if leaf.axes is not None and leaf.axes.tied is not None and leaf.path not in slots:
            raise EquimuError(
                f"{leaf.path} is declared to be used twice, with the multiplier of the second use in "
                f"{type(leaf.owner).__name__}.{leaf.axes.tied_multiplier}, which is not an array; make it jnp.asarray(1.0), "
                "and multiply what the second use makes by it"
            )


def _check_depth(parameterization: Parameterization, geometry: Geometry) -> None:
    """Rules of depth need an array at the end of each residual branch; absolute ones need to know the depth."""
    ends = [leaf.path for leaf in geometry.leaves if leaf.ends_branch and leaf.trainable]
    repeated = [path for path, depth in geometry.depth.items() if depth > 1 or geometry.depth_ratio[path] != 1]
    deep = parameterization.branch.uses("depth", "depth_ratio") and repeated
    for end in sorted(geometry.branch_ends) if deep else ():
        if not any(is_within(path, end) for path in ends):
            raise EquimuError(
                f"{end} is declared to end a residual branch and has no array to put the branch's factor on; declare the last "
                "map or norm in the branch that has one"
            )
    if deep and not ends:
        raise EquimuError(
            f"{parameterization.name} has rules of depth, and no residual branch of this model is declared to end anywhere; "
            "declare it, e.g. equimu.register_residual(MyBlock, 'attention.output_proj', 'mlp.layers[-1]'), or "
            "equimu.register_residual(MyStack) for one that adds nothing to a stream"
        )
    if parameterization.branch.uses("depth", "depth_ratio") and geometry.parts:
        path, name = next(iter(geometry.parts.items()))
        raise EquimuError(
            f"{name} changes both widths and the number of arrays like {path}, so {parameterization.name}, which has rules of "
            "depth, cannot tell whether those are blocks; give `make` one size for each"
        )
    if parameterization.uses("depth") and ends and not repeated:
        raise EquimuError(
            f"{parameterization.name} follows the number of blocks, and none of the sizes given is one; "
            "name it in base and target, e.g. n_layer"
        )


def _rule(
    leaf: Leaf,
    words: tuple[str, ...],
    start: Start,
    own: OwnDraw | None,
    geometry: Geometry,
    parameterization: Parameterization,
    blueprint: Blueprint,
    run: Mapping[str, Fraction],
) -> Rule:
    sizes, wide_in, wide_out = dimensions(leaf, words, geometry)
    sizes = dataclasses.replace(sizes, **run)
    role = role_of(words, wide_in, wide_out)
    if leaf.normalised and role in ("input", "output"):
        raise EquimuError(
            f"{leaf.path} is divided by its spectral norm, and that of an {role} layer is not to stay the same over widths; "
            "wrap hidden layers alone, or take eqx.nn.WeightNorm, whose gain has a rule"
        )
    if leaf.path in geometry.parts and role in ("input", "output"):
        raise EquimuError(
            f"{leaf.describe()} is one of several parts, of which there are more as {geometry.parts[leaf.path]} grows, and one "
            "of its sides does not grow: whether the parts are read side by side or added up is not known; hold them in one "
            "array whose axis of parts is declared as 'in' (added up) or 'out' (side by side)"
        )
    row = parameterization.row(role)
    multiplier = row.multiplier(sizes)
    init_mean, init_std, as_drawn = 0.0, row.init_std(sizes), False
    from_constructor = parameterization.start == "constructor"
    constant = _constant(leaf, start, keep_draws=from_constructor)
    if leaf.axes is not None and leaf.axes.as_model:
        init_mean, init_std = None, 0.0
    elif constant is not None:
        # What the forward pass sees is the constant itself, whatever the multiplier.
        init_mean, init_std = constant / multiplier, 0.0
    elif not start.drawn or (_is_chosen_bias(leaf, start) and not from_constructor):
        init_mean, init_std = None, 0.0
    elif from_constructor:
        assert own is not None
        # In the forward pass, the spread at the base and from there on the law.
        at_base = base_dimensions(leaf, words, geometry)
        growth = _spread(row, sizes) / _spread(row, at_base)
        init_mean, init_std = own.carried(growth)
        init_mean, init_std, as_drawn = init_mean / multiplier, init_std / multiplier, True
    trained = _is_trained(leaf, start)
    if leaf.ends_branch:
        # Behind the start: a gain of 1 at the end of a branch is the branch's factor to the forward pass.
        multiplier *= parameterization.branch(sizes)
    return Rule(
        path=leaf.path,
        shape=leaf.shape,
        dtype=leaf.dtype,
        axes=("stack",) * (len(leaf.shape) - len(words)) + tuple("out" if word == "inner" else word for word in words),
        role=role,
        init_mean=init_mean,
        init_std=init_std,
        as_drawn=as_drawn,
        own_mean=None if own is None else own.mean,
        own_std=None if own is None else own.std,
        multiplier=multiplier,
        lr=row.lr(sizes) if trained else 0.0,
        weight_decay=row.weight_decay(sizes) if trained else 0.0,
        eps=row.eps(sizes),
        one_minus_beta=row.one_minus_beta(sizes),
        optimizer=parameterization.optimizer,
        decay=parameterization.decay,
        dimensions=sizes,
        leaf=leaf,
        blueprint=blueprint,
    )


def _warn_of_own_seeds(started: Mapping[str, Start]) -> None:
    seeded = [path for path, start in started.items() if start.own_seed and start.inexact]
    if seeded:
        more = f" and {len(seeded) - 1} more" if len(seeded) > 1 else ""
        warnings.warn(
            f"the constructor draws {seeded[0]}{more} from a random key of its own, so it draws the same numbers whatever key "
            "it is given; pass the key on",
            stacklevel=4,
        )


def _warn_of_fixed_starts(
    geometry: Geometry,
    words: Mapping[str, tuple[str, ...]],
    rules: Mapping[str, Rule],
    parameterization: Parameterization,
) -> None:
    """A trained matrix that is computed without the key keeps its spread, where a law would change it; nobody said so."""
    fixed = []
    for leaf in geometry.leaves:
        rule = rules.get(leaf.path)
        said = leaf.axes is not None and leaf.axes.as_model
        if rule is not None and rule.init_mean is None and rule.lr != 0.0 and rule.role in _MATRICES and not said:
            row, at_base = parameterization.row(rule.role), base_dimensions(leaf, words[leaf.path], geometry)
            if _spread(row, rule.dimensions) != _spread(row, at_base):
                fixed.append(leaf.path)
    if fixed:
        more = f" and {len(fixed) - 1} more" if len(fixed) > 1 else ""
        warnings.warn(
            f"{fixed[0]}{more} starts from what the constructor computes without the key, at every size, so that no law scales "
            "it; draw it with the key, or declare it with equimu.axes(..., as_model=True)",
            stacklevel=4,
        )


def _spread(row: Row, sizes: Dimensions) -> Real:
    """The standard deviation at the start that the forward pass sees."""
    return row.multiplier(sizes) * row.init_std(sizes)


def _constant(leaf: Leaf, start: Start, *, keep_draws: bool) -> Real | None:
    """The constant that a leaf starts from: what the constructor sets, or what its class declares in place of a plain draw."""
    if start.fill is not None:
        return start.fill
    if leaf.axes is None or not start.drawn or keep_draws or _is_chosen_bias(leaf, start):
        return None
    return leaf.axes.constant


def _is_chosen_bias(leaf: Leaf, start: Start) -> bool:
    """Whether a leaf whose class declares a constant is drawn otherwise than around zero: somebody has set entries of it."""
    declared = leaf.axes is not None and leaf.axes.constant is not None and leaf.norm_of is None
    return declared and start.drawn and start.mean != 0.0


def _is_trained(leaf: Leaf, start: Start) -> bool:
    """What the constructor computes (neither drawn nor a constant) is a table, unless a class declares it as a parameter."""
    if leaf.axes is not None and leaf.axes.trained is not None:
        return leaf.axes.trained
    return leaf.declared or start.drawn or start.fill is not None


def _norm_gain(gain: Rule, weight: Rule) -> Rule:
    """The rule of a gain on an array that is divided by its norm.

    The forward pass sees no standard deviation and no multiplier of such an array. So its gain takes both into its own
    multiplier, with the norm that a draw of standard deviation 1 has: the product starts, and moves, as the array would
    without the division.
    """
    entries = math.prod(weight.shape) // math.prod(gain.shape)
    return dataclasses.replace(gain, multiplier=gain.multiplier * weight.multiplier * weight.init_std * entries**0.5)


def _with_constants(rules: dict[str, Rule], constants: BaseConstants) -> dict[str, Rule]:
    def matches(rule: Rule) -> bool:
        return rule.role == constants.where or is_within(rule.path, constants.where)

    if not any(matches(rule) for rule in rules.values()):
        # A role that this model has no leaf of is not a mistake; a path is.
        if constants.where in ROLES:
            return rules
        raise EquimuError(f"base constants for {constants.where!r}: the model has no such role, module or leaf")
    return {
        path: dataclasses.replace(rule, **{n: getattr(rule, n) * getattr(constants, n) for n in NUMBERS})
        if matches(rule)
        else rule
        for path, rule in rules.items()
    }
