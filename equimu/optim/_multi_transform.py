"""One optax transformation per group of leaves that share a rule."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import optax

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu.parameterization import Rule, rules_of

# What tells two leaves apart without telling their rules apart.
_OF_THE_LEAF = {"path", "shape", "dtype", "blueprint", "as_drawn", "own_mean", "own_std"}


class MultiTransformState(NamedTuple):
    """The state of each group's transformation, by the group's name. Its parameters are a dictionary from path to array."""

    groups: dict[str, Any]


def multi_transform(
    tree: PyTree, factory: Callable[[Rule], optax.GradientTransformation]
) -> optax.GradientTransformationExtraArgs:
    """Any optax optimizer under a tree of rules.

    Leaves whose rules agree in all but path, shape and dtype form a group, and each group has its own transformation. A
    number that is traced makes groups by identity: it is never compared.

    Where `optax.partition` gives every group a copy of the whole model with holes, here each group has only its own arrays,
    by path: modules are taken apart once a step instead of once a group.

    Args:
        tree: the tree of rules.
        factory: from the rule of a group to its transformation, e.g. `lambda rule: optax.sgd(0.1 * rule.lr)`.

    Returns:
        A transformation of `eqx.filter(model, eqx.is_inexact_array)`. Its `init` and `update` raise an `EquimuError` for
        parameters of another model.
    """
    rules = rules_of(tree)
    groups = groups_of(tree)
    transforms = {name: optax.with_extra_args_support(factory(members[0])) for name, members in groups.items()}

    def split(leaves: list[Any]) -> dict[str, dict[str, Any]]:
        by_path = {rule.path: leaf for rule, leaf in zip(rules, leaves, strict=True)}
        return {name: {rule.path: by_path[rule.path] for rule in members} for name, members in groups.items()}

    def init(params: PyTree) -> MultiTransformState:
        given = split(_leaves(params, rules))
        return MultiTransformState({name: transforms[name].init(given[name]) for name in given})

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[PyTree, MultiTransformState]:
        given = split(_leaves(updates, rules))
        current = None if params is None else split(_leaves(params, rules))
        states: dict[str, Any] = {}
        made: dict[str, Any] = {}
        for name, transform in transforms.items():
            mine = None if current is None else current[name]
            new: Any
            new, states[name] = transform.update(given[name], state.groups[name], mine, **extra)
            made |= new
        structure = jax.tree.structure(updates)
        return jax.tree.unflatten(structure, [made[rule.path] for rule in rules]), MultiTransformState(states)

    return optax.GradientTransformationExtraArgs(init, update)


def groups_of(tree: PyTree) -> dict[str, list[Rule]]:
    """The rules of a tree in groups of those that agree in all but path, shape and dtype, by the name of the group."""
    groups: dict[Hashable, list[Rule]] = {}
    for rule in rules_of(tree):
        groups.setdefault(_group(rule), []).append(rule)
    return {f"{members[0].role} {index}": members for index, members in enumerate(groups.values())}


def _leaves(params: PyTree, rules: list[Rule]) -> list[Any]:
    """The arrays of a model's trained part, one for each rule."""
    leaves = jax.tree.leaves(params)
    shapes = [tuple(leaf.shape) for leaf in leaves]
    if shapes != [rule.shape for rule in rules]:
        raise EquimuError(
            f"these {len(leaves)} arrays are not those of the {len(rules)} rules of the tree; "
            "give eqx.filter(model, eqx.is_inexact_array) of the model that the tree is of"
        )
    return leaves


def _group(rule: Rule) -> Hashable:
    values = (getattr(rule, f.name) for f in dataclasses.fields(rule) if f.name not in _OF_THE_LEAF)
    # Traced scalars have no hash and no value: a number is the same one if it is the same object.
    return tuple(id(value) if isinstance(value, jax.Array) else value for value in values)
