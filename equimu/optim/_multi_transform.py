"""One optax transformation per group of leaves that share a rule."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import optax

from equimu._types import PyTree
from equimu.parameterization import Rule, is_rule

# What tells two leaves apart without telling their rules apart.
_OF_THE_LEAF = {"path", "shape", "dtype", "blueprint"}


def multi_transform(
    tree: PyTree, factory: Callable[[Rule], optax.GradientTransformation]
) -> optax.GradientTransformationExtraArgs:
    """Any optax optimizer under a tree of rules.

    Leaves whose rules agree in all but path, shape and dtype form a group, and each group has its own transformation. A
    number that is traced makes groups by identity: it is never compared.

    Args:
        tree: the tree of rules.
        factory: from the rule of a group to its transformation, e.g. `lambda rule: optax.sgd(0.1 * rule.lr)`.

    Returns:
        A transformation of `eqx.filter(model, eqx.is_inexact_array)`.
    """
    transforms: dict[Hashable, optax.GradientTransformation] = {}
    names: dict[Hashable, str] = {}

    def label(leaf: Any) -> str | None:
        if not is_rule(leaf):
            return None
        group = _group(leaf)
        if group not in names:
            names[group] = f"{leaf.role} {len(names)}"
            transforms[names[group]] = factory(leaf)
        return names[group]

    labels = jax.tree.map(label, tree)
    # A function of the parameters, because a model may be callable itself, which optax would take for one.
    return optax.partition(transforms, lambda _: labels)


def _group(rule: Rule) -> Hashable:
    values = (getattr(rule, f.name) for f in dataclasses.fields(rule) if f.name not in _OF_THE_LEAF)
    # Traced scalars have no hash and no value: a number is the same one if it is the same object.
    return tuple(id(value) if isinstance(value, jax.Array) else value for value in values)
