"""`parameterize`: from a constructor and a table of laws to a tree of rules; `scaled`: the tree's multipliers, applied."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, SupportsIndex

import equinox as eqx
import jax

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu._values import Real, check_function, shown
from equimu.declarations import dotted
from equimu.parameterization._array_rules import rules_by_path, run_ratios
from equimu.parameterization._parameterization import Parameterization
from equimu.parameterization._rule import NUMBERS, Model, Rule, Tree, is_rule
from equimu.parameterization._second_uses import check_second_uses
from equimu.parameterization._sizes import checked_sizes
from equimu.parameterization._trace import Blueprints


def parameterize(
    make: Callable[..., Model],
    parameterization: Parameterization,
    *,
    base: Mapping[str, SupportsIndex],
    target: Mapping[str, SupportsIndex],
    batch_ratio: Real | Fraction = 1,
    length_ratio: Real | Fraction = 1,
    example: tuple[Any, ...] = (),
) -> Tree[Model]:
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
        example: a function of a model, and what else it takes, or its shapes: `(loss, batch)`. It is traced only where arrays
            have no declaration: the lines that the error gives to write are then read off how it uses them.

    Returns:
        The tree. `eqx.tree_at` and `jax.tree.map` edit it like any pytree; rules are leaves, among others that the model has
        (activation functions): `is_rule` tells them apart.

    Raises:
        EquimuError: sizes that do not fit each other, an array whose axes are neither declared nor unambiguous, tied arrays
            that the parameterization cannot serve, base constants for a place that the model does not have, rules of depth
            for a model without residual branches, ratios of batch or length without rules for them.
    """
    if not isinstance(parameterization, Parameterization):  # pyright: ignore[reportUnnecessaryIsInstance]
        called = " (without the call: write mup(), with parentheses)" if inspect.isfunction(parameterization) else ""
        raise EquimuError(
            f"parameterize takes a Parameterization, e.g. mup(), as its second argument, got "
            f"{getattr(parameterization, '__name__', type(parameterization).__name__)}{called}"
        )
    small, large = checked_sizes(base, target)
    _check_call(make, large)
    blueprints = Blueprints(make)
    run = run_ratios(parameterization, batch_ratio, length_ratio)
    rules = rules_by_path(blueprints, parameterization, small, large, run, example)
    model = blueprints(large).shapes()
    check_second_uses(model, rules, parameterization)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: rules.get(dotted(path), leaf), model)


def _check_call(make: Callable[..., Any], sizes: Mapping[str, int]) -> None:
    """Raises an `EquimuError` unless a constructor takes these sizes and a key."""
    check_function("make", make, "the model's constructor")
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):
        return  # of what is not written in Python
    try:
        signature.bind(**sizes, key=None)
    except TypeError as error:
        call = ", ".join([*(f"{name}=..." for name in sizes), "key=key"])
        raise EquimuError(f"make cannot be called as make({call}): {error}; base and target name its sizes") from None


def scaled(tree: Tree[Model], model: Model) -> Model:
    """The model with each array multiplied by its rule's `multiplier`: what the forward pass uses.

    Arrays whose multiplier is exactly 1 are passed through untouched. The result is an ordinary model.

    Raises:
        EquimuError: the tree is not of this model.
    """
    check_same_structure(tree, model)
    return multiplied(tree, model)


def fold(tree: Tree[Model], model: Model) -> Model:
    """The model with its multipliers multiplied into its arrays: plain weights, to export or to call without a tree.

    It computes what `scaled(tree, model)` computes, once instead of in every forward pass. It cannot be trained on under the
    same tree; `convert` moves a training.

    Raises:
        EquimuError: the tree is not of this model.
    """
    return eqx.filter_jit(scaled)(tree, model)


def multiplied(tree: Tree[Model], model: Model) -> Model:
    """`scaled` without its checks: the arrays may be parts of those that the tree is of, as they are inside `jax.shard_map`.

    Args:
        tree: of rules.
        model: of the tree's structure.
    """

    def multiply(rule: Any, leaf: Any) -> Any:
        if not is_rule(rule) or leaf is None or (isinstance(rule.multiplier, float) and rule.multiplier == 1.0):
            return leaf
        return leaf * jax.numpy.asarray(rule.multiplier, leaf.dtype)

    return jax.tree.map(multiply, tree, model)


def check_same_structure(tree: PyTree, model: PyTree) -> None:
    """Raises an `EquimuError` that names the first difference unless the model has the tree's structure and shapes.

    Of a model that is partitioned or filtered, the arrays that were taken out (None) are not looked at.
    """
    if not rules_of(tree) and rules_of(model):
        raise EquimuError("the tree of rules is the first argument and the model the second: exchange them")
    if rules_of(model):
        raise EquimuError(
            "a tree of rules was given in place of the model; give the model that initialize(tree, key) makes"
        )
    if not rules_of(tree):
        raise EquimuError(
            f"this is not a tree of rules but {type(tree).__name__}; make the tree with parameterize(...)"
        )
    # Where the model has None, the tree has a rule or None itself.
    rules, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
    leaves, other = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_none)
    for (path, rule), (their_path, leaf) in zip(rules, leaves, strict=False):
        if path != their_path:
            raise EquimuError(
                f"the tree of rules is of another model: it has {dotted(path)} where this has "
                f"{dotted(their_path) or shown(leaf)}"
            )
        if is_rule(rule):
            _check_shape(rule, leaf)
        elif rule is None and leaf is not None:
            raise EquimuError(f"the tree of rules is of another model: {dotted(path)} is None there and an array here")
    if structure != other:
        raise EquimuError(
            f"the tree of rules is of another model: {len(rules)} leaves there, {len(leaves)} here, "
            "or other static fields; parameterize the constructor that made this model"
        )


def _check_shape(rule: Rule, leaf: Any) -> None:
    if leaf is not None and getattr(leaf, "shape", None) != rule.shape:
        raise EquimuError(
            f"the tree of rules is of another model: {rule.path} is {list(rule.shape)} there and "
            f"{list(getattr(leaf, 'shape', ()))} here"
        )


def _is_none(node: Any) -> bool:
    return node is None


def rules_of(tree: PyTree) -> list[Rule]:
    """The rules of a tree, in the order of its leaves."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_rule(leaf)]


def required_rules(tree: PyTree, function: str) -> list[Rule]:
    """The rules of a tree that a function was given.

    Raises:
        EquimuError: it has none; says what was given in its place.
    """
    rules = rules_of(tree)
    if not rules:
        given = "None" if tree is None else f"{type(tree).__name__}"
        raise EquimuError(
            f"{function} takes the tree of rules from parameterize(...) as its first argument, got {given}, which has no rules"
        )
    return rules


def numbers_of(tree: Tree[Any]) -> dict[str, dict[str, Any]]:
    """The numbers of each rule, by path: inputs of a program that is compiled once for many trees of one model.

    A multiplier or one_minus_beta of exactly 1 and the start of what the model itself makes are left out: they are part of the
    program.

    Args:
        tree: of rules.
    """

    def given(rule: Rule) -> dict[str, Any]:
        values = {name: getattr(rule, name) for name in ("init_mean", *NUMBERS)}
        if values["init_mean"] is None:
            del values["init_mean"], values["init_std"]
        for name in ("multiplier", "one_minus_beta"):
            if isinstance(values[name], float) and values[name] == 1.0:
                del values[name]
        return values

    return {rule.path: given(rule) for rule in rules_of(tree)}


def with_numbers(tree: Tree[Model], numbers: Mapping[str, Mapping[str, Any]]) -> Tree[Model]:
    """The tree with the numbers of its rules replaced, by path; they may be traced. The inverse of `numbers_of`."""
    return jax.tree.map(lambda leaf: dataclasses.replace(leaf, **numbers[leaf.path]) if is_rule(leaf) else leaf, tree)


def initial_state(tree: Tree[Any], key: Any) -> Any:
    """The `eqx.nn.State` that a tree's model starts with, as `eqx.nn.make_with_state` gives it; None where it has none.

    Args:
        tree: the tree of rules.
        key: for constructors that draw a state.
    """
    return required_rules(tree, "initial_state")[0].blueprint.state(key)
