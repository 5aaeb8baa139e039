"""What each leaf of a model does while it trains: four numbers a leaf, in the step that measures its norms."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equimu._types import PyTree
from equimu._values import Real
from equimu.optim import Optimizer, decay_of
from equimu.parameterization import Tree, rules_of

# Of each leaf: root mean square of the weight before the step, of its update and of its raw gradient; and the share of its
# entries whose update Adam's epsilon decides, NaN for optimizers that have no second moment for each entry.
LEAF_NUMBERS = ("weight_rms", "update_rms", "gradient_rms", "epsilon_share")


def measure_leaves(
    tree: Tree[Any], optimizer: Optimizer, params: PyTree, updates: PyTree, grads: PyTree, opt_state: PyTree
) -> Float[Array, "leaves numbers"]:
    """The `LEAF_NUMBERS` of each leaf, in the order of the tree's rules.

    Args:
        tree: the tree of rules.
        optimizer: of the run.
        params, updates, grads: of its leaves.
        opt_state: after the step.
    """
    shares = optimizer.epsilon_shares(tree, opt_state)

    def rms(x: Array) -> Array:
        return jnp.sqrt(jnp.mean(jnp.square(jnp.abs(x)).astype(jnp.float32)))

    rows = [
        jnp.stack([*map(rms, leaf), jnp.float32(shares.get(rule.path, jnp.nan))])
        for rule, *leaf in zip(rules_of(tree), *map(jax.tree.leaves, (params, updates, grads)), strict=True)
    ]
    return jnp.stack(rows)


def leaf_rows(
    tree: Tree[Any], numbers: Float[np.ndarray, "leaves numbers"], *, learning_rate: Real, weight_decay: Real
) -> dict[str, Mapping[str, Any]]:
    """The numbers by path, as a row of metrics holds them.

    With weight decay there is a fifth, `decay_steps`: the steps at the peak learning rate in which a weight that gets no
    update falls by a factor of e, 1/(η·λ) for AdamW.

    Args:
        tree: the tree of rules, its numbers floats.
        numbers: from `measure_leaves`.
        learning_rate, weight_decay: the run's.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    for rule, row in zip(rules_of(tree), numbers.tolist(), strict=True):
        shrink = float(decay_of(rule, learning_rate, weight_decay))
        known = {name: value for name, value in zip(LEAF_NUMBERS, row, strict=True) if math.isfinite(value)}
        rows[rule.path] = known | ({"decay_steps": 1 / shrink} if shrink else {})
    return rows
