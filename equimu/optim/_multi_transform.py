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
_OF_THE_LEAF = {"path", "shape", "dtype", "blueprint"}


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
    names: dict[Hashable, str] = {}
    members: dict[str, list[int]] = {}
    transforms: dict[str, optax.GradientTransformationExtraArgs] = {}
    for index, rule in enumerate(rules):
        group = _group(rule)
        if group not in names:
            names[group] = f"{rule.role} {len(names)}"
            transforms[names[group]] = optax.with_extra_args_support(factory(rule))
        members.setdefault(names[group], []).append(index)

    def split(leaves: list[Any]) -> dict[str, dict[str, Any]]:
        return {name: {rules[i].path: leaves[i] for i in indices} for name, indices in members.items()}

    def init(params: PyTree) -> MultiTransformState:
        groups = split(_leaves(params, rules))
        return MultiTransformState({name: transforms[name].init(groups[name]) for name in groups})

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
