"""`initialize`: every array drawn as its rule says."""

import zlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from equimu._errors import EquimuError
from equimu._types import Key, PyTree
from equimu.parameterization._leaves import is_array_or_shape
from equimu.parameterization._rule import Rule, is_rule
from equimu.parameterization._tree import rules_of


def initialize(tree: PyTree, key: Key, *, rescale: bool = False) -> PyTree:
    """A model whose arrays are drawn as the tree's rules say: normal with mean `init_mean` and deviation `init_std`.

    A leaf's draw depends on the key and on its path alone, so adding a leaf changes no other. Works under `jax.jit`, with
    `out_shardings` for a model that no single device holds.

    Args:
        tree: the tree of rules, from `parameterize`.
        key: a JAX random key.
        rescale: keep the draw of the model's own initialiser (orthogonal, truncated, ...), scaled to the rule's deviation:
            each array is divided by its own root mean square, each member of a stack by its own, so that a stack of layers
            starts as a list of them does.

    Returns:
        The model.

    Raises:
        EquimuError: the tree has no rules.
    """
    rules = rules_of(tree)
    if not rules:
        raise EquimuError("this tree has no rules; make it with parameterize(...)")
    leaves, structure = jax.tree.flatten(tree)
    # Made only where a leaf asks for it; under jit, what no leaf uses of it is never computed.
    wanted = [_made_by_model(leaf) or (rescale and is_rule(leaf)) for leaf in leaves]
    own = [None] * len(leaves)
    if any(wanted):

        def made_by_model(key: Key) -> list[Any]:
            made = jax.tree.leaves(rules[0].blueprint(key))
            return [x if want else None for x, want in zip(made, wanted, strict=True)]

        own = eqx.filter_jit(made_by_model)(key)

    def draw(leaf: Any, made: Any) -> Any:
        if not is_rule(leaf):
            return made if is_array_or_shape(leaf) else leaf
        if leaf.init_mean is None:
            return made / jnp.asarray(leaf.multiplier, leaf.dtype)
        if isinstance(leaf.init_std, float) and leaf.init_std == 0.0:
            return jnp.full(leaf.shape, leaf.init_mean, leaf.dtype)
        unit = _to_unit(leaf, made) if rescale else _normal(leaf, key)
        return (leaf.init_mean + leaf.init_std * unit).astype(leaf.dtype)

    return jax.tree.unflatten(structure, [draw(leaf, made) for leaf, made in zip(leaves, own, strict=True)])


def _made_by_model(leaf: Any) -> bool:
    """Whether only the model's constructor can make this leaf: a table, a mask, an array of integers."""
    return leaf.init_mean is None if is_rule(leaf) else is_array_or_shape(leaf)


def _to_unit(rule: Rule, made: Any) -> Any:
    """The draw over its root mean square; zeros, which get here where a deviation of zero is traced, stay zeros."""
    own = tuple(axis for axis, word in enumerate(rule.axes) if word != "stack")
    rms = jnp.sqrt(jnp.mean(jnp.abs(made) ** 2, axis=own, keepdims=True))
    return made / jnp.where(rms == 0, 1, rms)


def _normal(rule: Rule, key: Key) -> Any:
    return jax.random.normal(jax.random.fold_in(key, zlib.crc32(rule.path.encode())), rule.shape, rule.dtype)
