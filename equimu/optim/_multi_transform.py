"""One optax transformation per group of leaves that share a rule."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu._values import check_function, shown
from equimu.parameterization import Rule, Tree, dotted, required_rules, rules_of

# What tells two leaves apart without telling their rules apart.
_OF_THE_LEAF = {"path", "leaf", "shape", "dtype", "blueprint", "as_drawn", "own_mean", "own_std"}


class MultiTransformState(NamedTuple):
    """The state of each group's transformation, by the group's name. Its parameters are a dictionary from path to array."""

    groups: dict[str, Any]


def multi_transform(
    tree: Tree[Any], factory: Callable[[Rule], optax.GradientTransformation]
) -> optax.GradientTransformationExtraArgs:
    """Any optax optimizer under a tree of rules.

    Leaves whose rules agree in all but path, shape and dtype form a group, and each group has its own transformation. A
    number that is traced makes groups by identity: it is never compared.

    Where `optax.partition` gives every group a copy of the whole model with holes, here each group has only its own arrays,
    by path: modules are taken apart once a step instead of once a group.

    Arrays that are taken out of the model, by `eqx.partition` with a filter for frozen ones, are left alone. Gradients of
    complex arrays are conjugated: `jax.grad` gives the conjugate of the direction of steepest ascent.

    Args:
        tree: the tree of rules.
        factory: from the rule of a group to its transformation, e.g. `lambda rule: optax.sgd(0.1 * rule.lr)`.

    Returns:
        A transformation of `eqx.filter(model, eqx.is_inexact_array)`. Its `init` and `update` raise an `EquimuError` for
        parameters of another model.
    """
    rules = required_rules(tree, "multi_transform")
    groups = groups_of(tree)
    check_function("factory", factory, "from a rule to its transformation, e.g. lambda rule: optax.sgd(0.1 * rule.lr)")
    transforms = {name: as_transformation("factory", factory(members[0])) for name, members in groups.items()}

    def split(by_path: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {
            name: {rule.path: by_path[rule.path] for rule in members if rule.path in by_path}
            for name, members in groups.items()
        }

    def init(params: PyTree) -> MultiTransformState:
        given = split(_by_path(params, rules))
        return MultiTransformState({name: transforms[name].init(given[name]) for name in given})

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[PyTree, MultiTransformState]:
        leaves = _by_path(updates, rules)
        given = split({path: jnp.conj(x) if jnp.iscomplexobj(x) else x for path, x in leaves.items()})
        current = None if params is None else split(_by_path(params, rules))
        states: dict[str, Any] = {}
        made: dict[str, Any] = {}
        for name, transform in transforms.items():
            mine = None if current is None else current[name]
            new: Any
            new, states[name] = transform.update(given[name], state.groups[name], mine, **extra)
            made |= new
        structure = jax.tree.structure(updates)
        return jax.tree.unflatten(structure, [made[path] for path in leaves]), MultiTransformState(states)

    return optax.GradientTransformationExtraArgs(init, update)


def groups_of(tree: Tree[Any]) -> dict[str, list[Rule]]:
    """The rules of a tree in groups of those that agree in all but path, shape and dtype, by the name of the group."""
    groups: dict[Hashable, list[Rule]] = {}
    for rule in rules_of(tree):
        groups.setdefault(_group(rule), []).append(rule)
    return {f"{members[0].role} {index}": members for index, members in enumerate(groups.values())}


def as_transformation(maker: str, made: Any) -> optax.GradientTransformationExtraArgs:
    """What a user's function has made, as an optax transformation.

    Raises:
        EquimuError: it is none; `maker` is what the function is called.
    """
    if not isinstance(made, optax.GradientTransformation):
        raise EquimuError(f"{maker} must make an optax transformation, and made {shown(made)}")
    return optax.with_extra_args_support(made)


def _by_path(params: PyTree, rules: list[Rule]) -> dict[str, Any]:
    """The arrays of a model's trained part, by the path of the rule that each has; in the order of the model's leaves."""
    found = jax.tree_util.tree_flatten_with_path(params)[0]
    shapes = [tuple(leaf.shape) if hasattr(leaf, "shape") else None for _, leaf in found]
    if shapes == [rule.shape for rule in rules]:
        # As they stand, whatever the paths are called: the model may be wrapped.
        return {rule.path: leaf for rule, (_, leaf) in zip(rules, found, strict=True)}
    by_path = {rule.path: rule for rule in rules}
    for (key, leaf), shape in zip(found, shapes, strict=True):
        path = dotted(key)
        if path not in by_path or by_path[path].shape != shape:
            what = f"{list(by_path[path].shape)} in the tree" if path in by_path else "not in the tree"
            here = f"{type(leaf).__name__}" if shape is None else f"an array {list(shape)}"
            raise EquimuError(
                f"these {len(found)} leaves are not the arrays of the {len(rules)} rules of the tree: {path or 'the first'} is "
                f"{here} here and {what}; give eqx.filter(model, eqx.is_inexact_array) of the model that the tree is of"
            )
    return {dotted(key): leaf for key, leaf in found}


def _group(rule: Rule) -> Hashable:
    values = (getattr(rule, f.name) for f in dataclasses.fields(rule) if f.name not in _OF_THE_LEAF)
    # Traced scalars have no hash and no value: a number is the same one if it is the same object.
    return tuple(id(value) if isinstance(value, jax.Array) else value for value in values)
