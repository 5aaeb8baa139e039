"""`parameterize`: from a constructor and a table of laws to a tree of rules; `scaled`: the tree's multipliers, applied."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import equinox as eqx
import jax

from equimu._axes import AXIS_WORDS
from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu.parameterization._leaves import Leaf, dotted, is_array_or_shape, is_within, locate
from equimu.parameterization._parameterization import BaseConstants, Parameterization
from equimu.parameterization._rule import NUMBERS, ROLES, Rule, is_rule
from equimu.parameterization._sizes import Geometry, dimensions, measure, role_of
from equimu.parameterization._trace import Blueprint, Start, starts
from equimu.parameterization._twice import check_second_uses, tied_slot, with_second_uses


def parameterize(
    make: Callable[..., Any],
    parameterization: Parameterization,
    *,
    base: Mapping[str, int],
    target: Mapping[str, int],
    batch_ratio: float | Fraction = 1,
    length_ratio: float | Fraction = 1,
) -> PyTree:
    """The tree of rules of a model: the model's own pytree with a `Rule` in place of each inexact array.

    `make` is only traced for shapes: a model of any size takes no memory.

    Args:
        make: the model's constructor; called as `make(**sizes, key=key)`.
        parameterization: the table of laws, e.g. `mup()`.
        base: the sizes of the small model, on which hyperparameters are tuned.
        target: the sizes of the model to train; the same names, none smaller than at the base. Which sizes are widths and
            which depths is found by tracing the model with one of them changed.
        batch_ratio, length_ratio: tokens a step, and tokens of the whole training, relative to the run on which
            hyperparameters are tuned; for parameterizations that have rules for them (`completed_p`).

    Returns:
        The tree. `eqx.tree_at` and `jax.tree.map` edit it like any pytree; rules are leaves.

    Raises:
        EquimuError: sizes that do not fit each other, an array whose axes are neither declared nor unambiguous, tied arrays
            that the parameterization cannot serve, base constants for a place that the model does not have, rules of depth
            for a model without residual branches, ratios of batch or length without rules for them.
    """
    blueprint = Blueprint(make, dict(target))
    run = _run_ratios(parameterization, batch_ratio, length_ratio)
    rules = _rules_by_path(with_second_uses(make), parameterization, base, target, blueprint, run)
    model = blueprint.shapes()
    check_second_uses(model, rules, parameterization)
    remaining = iter(locate(model))

    def place(x: Any) -> Any:
        if not is_array_or_shape(x):
            return x
        leaf = next(remaining)
        return rules[leaf.path] if leaf.trainable else x

    return jax.tree.map(place, model)


def _rules_by_path(
    make: Callable[..., Any],
    parameterization: Parameterization,
    base: Mapping[str, int],
    target: Mapping[str, int],
    blueprint: Blueprint,
    run: Mapping[str, Fraction],
) -> dict[str, Rule]:
    geometry = measure(make, base, target)
    _check_depth(parameterization, geometry)
    rules: dict[str, Rule] = {}
    for leaf, start in zip(geometry.leaves, starts(Blueprint(make, dict(target))), strict=True):
        if leaf.trainable and leaf.tied_source is None:
            rules[leaf.path] = _rule(leaf, start, geometry, parameterization, blueprint, run)
    for leaf in geometry.leaves:
        if leaf.trainable and leaf.tied_source is not None:
            rules[leaf.path] = tied_slot(leaf, rules[leaf.tied_source], geometry, parameterization, blueprint)
    for constants in parameterization.constants:
        rules = _with_constants(rules, constants)
    for leaf in geometry.leaves:
        if leaf.trainable and leaf.norm_of is not None:
            rules[leaf.path] = _norm_gain(rules[leaf.path], rules[leaf.norm_of])
    return rules


def scaled(tree: PyTree, model: PyTree) -> PyTree:
    """The model with each array multiplied by its rule's `multiplier`: what the forward pass uses.

    Arrays whose multiplier is exactly 1 are passed through untouched. The result is an ordinary model.

    Raises:
        EquimuError: the tree is not of this model.
    """
    check_same_structure(tree, model)
    return multiplied(tree, model)


def fold(tree: PyTree, model: PyTree) -> PyTree:
    """The model with its multipliers multiplied into its arrays: plain weights, to export or to call without a tree.

    It computes what `scaled(tree, model)` computes, once instead of in every forward pass. It cannot be trained on under the
    same tree; `convert` moves a training.

    Raises:
        EquimuError: the tree is not of this model.
    """
    return eqx.filter_jit(scaled)(tree, model)


def multiplied(tree: PyTree, model: PyTree) -> PyTree:
    """`scaled` without its checks: the arrays may be parts of those that the tree is of, as they are inside `jax.shard_map`."""

    def multiply(rule: Any, leaf: Any) -> Any:
        if not is_rule(rule) or (isinstance(rule.multiplier, float) and rule.multiplier == 1.0):
            return leaf
        return leaf * jax.numpy.asarray(rule.multiplier, leaf.dtype)

    return jax.tree.map(multiply, tree, model)


def check_same_structure(tree: PyTree, model: PyTree) -> None:
    """Raises an `EquimuError` that names the first difference unless the model has the tree's structure and shapes."""
    rules, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves, other = jax.tree_util.tree_flatten_with_path(model)
    for (path, rule), (their_path, leaf) in zip(rules, leaves, strict=False):
        if path != their_path:
            raise EquimuError(
                f"the tree of rules is of another model: it has {dotted(path)} where this has {dotted(their_path)}"
            )
        if is_rule(rule) and getattr(leaf, "shape", None) != rule.shape:
            raise EquimuError(
                f"the tree of rules is of another model: {rule.path} is {list(rule.shape)} there and "
                f"{list(getattr(leaf, 'shape', ()))} here"
            )
    if structure != other:
        raise EquimuError(
            f"the tree of rules is of another model: {len(rules)} leaves there, {len(leaves)} here, "
            "or other static fields; parameterize the constructor that made this model"
        )


def rules_of(tree: PyTree) -> list[Rule]:
    """The rules of a tree, in the order of its leaves."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_rule(leaf)]


def numbers_of(tree: PyTree) -> dict[str, dict[str, Any]]:
    """The numbers of each rule, by path: inputs of a program that is compiled once for many trees of one model.

    A multiplier or forgetting of exactly 1 and the start of what the model itself makes are left out: they are part of the
    program.
    """

    def given(rule: Rule) -> dict[str, Any]:
        values = {name: getattr(rule, name) for name in ("init_mean", *NUMBERS)}
        if values["init_mean"] is None:
            del values["init_mean"], values["init_std"]
        for name in ("multiplier", "forgetting"):
            if isinstance(values[name], float) and values[name] == 1.0:
                del values[name]
        return values

    return {rule.path: given(rule) for rule in rules_of(tree)}


def with_numbers(tree: PyTree, numbers: Mapping[str, Mapping[str, Any]]) -> PyTree:
    """The tree with the numbers of its rules replaced, by path; they may be traced. The inverse of `numbers_of`."""
    return jax.tree.map(lambda leaf: dataclasses.replace(leaf, **numbers[leaf.path]) if is_rule(leaf) else leaf, tree)


def _words(leaf: Leaf, start: Start, geometry: Geometry) -> tuple[str, ...]:
    """The words of a leaf's axes, declared or, where only one reading exists, inferred."""
    if leaf.axes is not None:
        return leaf.axes.words
    wide = geometry.wide[leaf.path]
    if len(leaf.shape) <= 1:
        return ("out",) * len(leaf.shape)
    if not wide and not start.drawn:
        return ("table",) * len(leaf.shape)  # a constant that grows with nothing: no number of its rule depends on axes
    guess = ['"out"' if axis in wide else '"table"' for axis in range(len(leaf.shape))]
    if len(wide) > 1:
        guess[min(wide)] = '"in"'
    owner, first = "MyModule", ""
    if leaf.owner is None:
        first = "give it to a field of an eqx.Module and "
    elif leaf.field is not None:
        owner = type(leaf.owner).__name__
    raise EquimuError(
        f"{leaf.describe()} has no declared axes and more than one reading; {first}declare it, with the words that are right "
        f"({', '.join(sorted(AXIS_WORDS))}): equimu.register_axes({owner}, {leaf.field or 'field'}=({', '.join(guess)}))"
    )


def _run_ratios(
    parameterization: Parameterization, batch_ratio: float | Fraction, length_ratio: float | Fraction
) -> dict[str, Fraction]:
    ratios = {"batch_ratio": Fraction(batch_ratio), "length_ratio": Fraction(length_ratio)}
    for name, ratio in ratios.items():
        if ratio <= 0:
            raise EquimuError(f"{name} must be positive, got {float(ratio):g}")
        if ratio != 1 and not parameterization.uses(name):
            raise EquimuError(
                f"{name} {float(ratio):g} was given, and {parameterization.name} has no rule for it; use completed_p(), or "
                "leave it out"
            )
    return ratios


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
            "declare it, e.g. equimu.register_residual(MyBlock, 'attention.output_proj', 'mlp.layers[-1]')"
        )
    if parameterization.uses("depth") and ends and not repeated:
        raise EquimuError(
            f"{parameterization.name} follows the number of blocks, and none of the sizes given is one; "
            "name it in base and target, e.g. n_layer"
        )


def _rule(
    leaf: Leaf,
    start: Start,
    geometry: Geometry,
    parameterization: Parameterization,
    blueprint: Blueprint,
    run: Mapping[str, Fraction],
) -> Rule:
    words = _words(leaf, start, geometry)
    sizes, wide_in, wide_out = dimensions(leaf, words, geometry)
    sizes = dataclasses.replace(sizes, **run)
    role = role_of(words, wide_in, wide_out)
    if leaf.normalised and role in ("input", "output"):
        raise EquimuError(
            f"{leaf.path} is divided by its spectral norm, and that of an {role} layer is not to stay the same over widths; "
            "wrap hidden layers alone, or take eqx.nn.WeightNorm, whose gain has a rule"
        )
    row = parameterization.row(role)
    multiplier = row.multiplier(sizes)
    constant = leaf.axes.constant if leaf.axes is not None and leaf.axes.constant is not None else start.fill
    if constant is not None:
        # What the forward pass sees is the constant itself, whatever the multiplier.
        init_mean, init_std = constant / multiplier, 0.0
    elif start.drawn:
        init_mean, init_std = 0.0, row.init_std(sizes)
    else:
        init_mean, init_std = None, 0.0
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
        multiplier=multiplier,
        lr=row.lr(sizes),
        weight_decay=row.weight_decay(sizes),
        eps=row.eps(sizes),
        forgetting=row.forgetting(sizes),
        optimizer=parameterization.optimizer,
        decay=parameterization.decay,
        dimensions=sizes,
        blueprint=blueprint,
    )


def _norm_gain(gain: Rule, weight: Rule) -> Rule:
    """The rule of a gain on an array that is divided by its norm.

    The forward pass sees no deviation and no multiplier of such an array. So its gain takes both into its own multiplier, with
    the norm that a draw of deviation 1 has: the product starts, and moves, as the array would without the division.
    """
    entries = math.prod(weight.shape) // math.prod(gain.shape)
    return dataclasses.replace(gain, multiplier=gain.multiplier * weight.multiplier * weight.init_std * entries**0.5)


def _with_constants(rules: dict[str, Rule], constants: BaseConstants) -> dict[str, Rule]:
    def matches(rule: Rule) -> bool:
        return rule.role == constants.where or is_within(rule.path, constants.where)

    if not any(matches(rule) for rule in rules.values()):
        # A role that this model has no leaf of is no mistake; a path is.
        if constants.where in ROLES:
            return rules
        raise EquimuError(f"base constants for {constants.where!r}: the model has no such role, module or leaf")
    return {
        path: dataclasses.replace(rule, **{n: getattr(rule, n) * getattr(constants, n) for n in NUMBERS})
        if matches(rule)
        else rule
        for path, rule in rules.items()
    }
