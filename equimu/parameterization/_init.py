"""`initialize`: every array drawn as its rule says."""

import warnings
import zlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from equimu._errors import EquimuError
from equimu._types import Key, is_array_or_shape
from equimu._values import Real, check_key
from equimu.parameterization._own_draws import TOLERANCE, is_level
from equimu.parameterization._rule import Model, Rule, Tree, is_rule
from equimu.parameterization._table import spread
from equimu.parameterization._tree import required_rules


def initialize(tree: Tree[Model], key: Key, *, rescale: bool = False) -> Model:
    """A model whose arrays are drawn as the tree's rules say: normal with mean `init_mean` and standard deviation `init_std`.

    A tree of a parameterization with `start="constructor"` keeps the draws of the model's own constructor, moved to these.
    Constants, and what the constructor computes, are the constructor's in any case.

    A leaf's draw depends on the key and on its path alone, so adding a leaf changes no other. Works under `jax.jit`, with
    `out_shardings` for a model that no single device holds.

    Args:
        tree: the tree of rules, from `parameterize`.
        key: a JAX random key.
        rescale: keep the draw of the model's own initialiser (orthogonal, truncated, ...), scaled to the rule's
            standard deviation: each array is divided by its own root mean square, each member of a stack by its own, so that a
            stack of layers starts as a list of them does.

    Returns:
        The model.

    Raises:
        EquimuError: the tree has no rules.

    Warns:
        UserWarning: a draw is replaced that the constructor seems to have chosen: one around another mean than zero, or of over
            four times or under a quarter of the rule's spread, which is not near 1/√fan_in either.
    """
    rules = required_rules(tree, "initialize")
    check_key("key", key)
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape:
        raise EquimuError(f"key must be one random key, got {key.size} keys; use jax.vmap for several models")
    _warn_of_replaced_draws(rules)
    leaves, structure = jax.tree.flatten(tree)
    # Made only where a leaf asks for it; under jit, what no leaf uses of it is never computed.
    wanted = [_made_by_model(leaf) or (rescale and is_rule(leaf)) for leaf in leaves]
    own = [None] * len(leaves)
    if any(wanted):

        def made_by_model(key: Key) -> list[Any]:
            made = jax.tree.leaves(rules[0].blueprint(key))
            return [x if want else None for x, want in zip(made, wanted, strict=True)]

        # A draw that is kept is the constructor's to the bit, so it is made as the constructor alone would make it.
        kept = any(
            is_rule(leaf) and leaf.own_std is not None for leaf, want in zip(leaves, wanted, strict=True) if want
        )
        own = (made_by_model if kept and not rescale else eqx.filter_jit(made_by_model))(key)

    def draw(leaf: Any, made: Any) -> Any:
        if not is_rule(leaf):
            return made if is_array_or_shape(leaf) else leaf
        if leaf.init_mean is None:
            return made if _is(leaf.multiplier, 1.0) else made / jnp.asarray(leaf.multiplier, leaf.dtype)
        if leaf.as_drawn:
            return _moved(leaf, made)
        if isinstance(leaf.init_std, float) and leaf.init_std == 0.0:
            return jnp.full(leaf.shape, leaf.init_mean, leaf.dtype)
        unit = _to_unit(leaf, made) if rescale else _normal(leaf, key)
        return (leaf.init_mean + leaf.init_std * unit).astype(leaf.dtype)

    return jax.tree.unflatten(structure, [draw(leaf, made) for leaf, made in zip(leaves, own, strict=True)])


def _made_by_model(leaf: Any) -> bool:
    """Whether the model's constructor makes this leaf: a table, a mask, an array of integers, a draw that is kept."""
    return leaf.init_mean is None or leaf.as_drawn if is_rule(leaf) else is_array_or_shape(leaf)


def _moved(rule: Rule, made: Any) -> Any:
    """The constructor's draw with the rule's mean and standard deviation; untouched where it has them."""
    mean, std = rule.own_mean, rule.own_std
    if mean is None or std is None:  # too large to be measured before
        mean, std = jnp.real(jnp.mean(made)), jnp.std(made)
        factor = rule.init_std / std
        factor = jnp.where(jnp.abs(factor - 1) < TOLERANCE, 1.0, factor)
        around_zero = _is(rule.init_mean, 0.0)
    else:
        factor = rule.init_std / std
        around_zero = not is_level(mean, std)
    moved = made * factor if around_zero else rule.init_mean + (made - mean) * factor
    same = factor == 1.0 if around_zero else (factor == 1.0) & (rule.init_mean == mean)
    if isinstance(same, bool):
        return made if same else moved.astype(rule.dtype)
    return jnp.where(same, made, moved.astype(rule.dtype))


def _is(number: Any, value: Real) -> bool:
    """Whether a number is this one; a traced one is not known to be."""
    return isinstance(number, float | int) and number == value


def _warn_of_replaced_draws(rules: list[Rule]) -> None:
    replaced = [rule for rule in rules if _is_chosen(rule)]
    if not replaced:
        return
    shown = [
        f"{rule.path}, which the constructor draws {spread(rule.own_mean, rule.own_std)}, "
        f"{spread(0.0, rule.multiplier * rule.init_std)}"
        for rule in replaced[:3]
    ]
    more = f" (and {len(replaced) - 3} more)" if len(replaced) > 3 else ""
    warnings.warn(
        f"initialize draws {'; '.join(shown)}{more}. To keep a constructor's draws, parameterize with "
        'mup().with_start("constructor"), or declare the array with equimu.axes(..., as_model=True)',
        stacklevel=3,
    )


def _is_chosen(rule: Rule) -> bool:
    """Whether a rule replaces a draw that somebody seems to have chosen.

    What lies near 1/√fan_in is what every library draws, and is there to be replaced.
    """
    forward = rule.multiplier * rule.init_std
    if rule.as_drawn or rule.own_std is None or not isinstance(forward, float | int) or forward == 0:
        return False
    if not _is(rule.init_mean, 0.0):
        return False
    generic = _within(rule.own_std, rule.dimensions.fan_in**-0.5)
    return is_level(rule.own_mean or 0.0, rule.own_std) or not (generic or _within(rule.own_std, forward))


def _within(std: Real, other: Real) -> bool:
    return 1 / 4 <= std / other <= 4


def _to_unit(rule: Rule, made: Any) -> Any:
    """The draw over its root mean square; zeros, which get here where a standard deviation of zero is traced, stay zeros."""
    own = tuple(axis for axis, word in enumerate(rule.axes) if word != "stack")
    rms = jnp.sqrt(jnp.mean(jnp.abs(made) ** 2, axis=own, keepdims=True))
    return made / jnp.where(rms == 0, 1, rms)


def _normal(rule: Rule, key: Key) -> Any:
    return jax.random.normal(jax.random.fold_in(key, zlib.crc32(rule.path.encode())), rule.shape, rule.dtype)
