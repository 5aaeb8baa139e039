"""Where Adam's epsilon, and not the gradient, decides an update."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from equimu._types import PyTree, Scalar
from equimu.optim._beta import Rate
from equimu.optim._update import scaled_beta
from equimu.parameterization import Tree, rules_of


def epsilon_shares(tree: Tree[Any], opt_state: PyTree, *, eps: Scalar, b2: Rate) -> dict[str, Float[Array, ""]]:
    """The share of each leaf's entries whose second moment's root is below Adam's epsilon: there it decides the update.

    Entries that never had a gradient, rows of tokens that were not seen for example, are not counted.

    Args:
        tree: the tree of rules.
        opt_state: of an optimizer made for it, with optax's Adam for some leaves or all.
        eps, b2: base epsilon and the rate of the second moment.

    Returns:
        By path, for the leaves that Adam trains.
    """
    rules = {rule.path: rule for rule in rules_of(tree)}
    shares: dict[str, Array] = {}
    for state in jax.tree.leaves(opt_state, is_leaf=_is_adam):
        moments: Any = state.nu if _is_adam(state) else {}
        for path, second in moments.items():
            threshold = (eps * rules[path].eps) ** 2 * (1 - scaled_beta(b2, rules[path]) ** state.count)
            decided = (second > 0) & (second < threshold)
            shares[path] = jnp.sum(decided) / jnp.maximum(jnp.sum(second > 0), 1)
    return shares


def _is_adam(node: Any) -> bool:
    return isinstance(node, optax.ScaleByAdamState)
