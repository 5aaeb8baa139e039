"""From the direction of an optimizer to its whole update: clipping, learning rate, decay, schedule.

The order of an update is that of Lingle's reference code (arXiv 2404.05728): the raw gradients are clipped by their global
norm; the optimizer's own direction; decay and learning rate; and the schedule last, on everything.
"""

from collections.abc import Callable
from typing import Any

import optax

from equimu._errors import EquimuError, nearest
from equimu._types import Scalar
from equimu.optim._beta import Rate
from equimu.optim._check_numbers import check_numbers
from equimu.optim._float16 import with_float16_in_float32
from equimu.optim._multi_transform import multi_transform
from equimu.optim._schedule import Schedule
from equimu.parameterization import DECAY_RULES, DecayRule, Family, Rule, Tree, required_rules, rules_of


def update_rule(
    tree: Tree[Any],
    direction: Callable[[Rule], optax.GradientTransformation],
    *,
    learning_rate: Scalar,
    weight_decay: Scalar,
    decay: DecayRule | None,
    schedule: Schedule | None,
    clip_norm: Scalar | None,
    own_learning_rate: Callable[[Rule], Scalar | None] = lambda _: None,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer from what it does with a gradient.

    Args:
        tree: the tree of rules.
        direction: from a rule to the transformation whose result is multiplied by the learning rate and subtracted.
        learning_rate, weight_decay, decay, schedule, clip_norm: as in `adamw`.
        own_learning_rate: a base learning rate for some rules alone; None for the common one.

    Raises:
        EquimuError: a number makes no sense, or the decay is another than the tree's.
    """
    if learning_rate is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise EquimuError("learning_rate must be float, got None")
    check_numbers(learning_rate=learning_rate, weight_decay=weight_decay, clip_norm=clip_norm)
    if schedule is not None and not callable(schedule):
        raise EquimuError(
            f"schedule is a function from the number of updates done to a factor, got {schedule!r}; see warmup_schedule"
        )
    _check_decay(tree, decay)

    def update(rule: Rule) -> optax.GradientTransformation:
        own = own_learning_rate(rule)
        base = learning_rate if own is None else own
        rate = base * rule.lr
        step = [direction(rule), optax.scale(-rate)]
        if any(isinstance(factor, float | int) and factor == 0 for factor in (weight_decay, rule.weight_decay)):
            return optax.chain(*step)
        if rule.decay == "l2":
            return optax.chain(optax.add_decayed_weights(weight_decay * rule.weight_decay), *step)
        step.append(optax.add_decayed_weights(-decay_of(rule, base, weight_decay)))
        return optax.chain(*step)

    parts = [multi_transform(tree, update)]
    if any(rule.dtype == "float16" for rule in rules_of(tree)):
        parts = [with_float16_in_float32(parts[0])]
    if clip_norm is not None:
        parts.insert(0, optax.with_extra_args_support(optax.clip_by_global_norm(clip_norm)))
    if schedule is not None:
        parts.append(optax.with_extra_args_support(optax.scale_by_schedule(schedule)))
    return optax.with_extra_args_support(optax.chain(*parts))


def decay_of(rule: Rule, learning_rate: Scalar, weight_decay: Scalar) -> Scalar:
    """The share by which the leaves of a rule shrink in a step, where the schedule is 1; 0 for decay in the gradient.

    Args:
        rule: of the leaves.
        learning_rate, weight_decay: base values.
    """
    factor = {"standard": learning_rate * rule.lr, "scaled": learning_rate, "independent": 1.0, "l2": 0.0}[rule.decay]
    return factor * weight_decay * rule.weight_decay


def scaled_beta(beta: Rate, rule: Rule) -> Rate:
    """The share β that a running average keeps in a step, for the leaves of a rule.

    Raises:
        EquimuError: 1 − β times `rule.one_minus_beta` is above 1.
    """
    if isinstance(rule.one_minus_beta, float) and rule.one_minus_beta == 1.0:
        return beta
    kept = 1 - (1 - beta) * rule.one_minus_beta
    if isinstance(kept, float) and kept < 0:
        raise EquimuError(
            f"{rule.path}: with one_minus_beta {rule.one_minus_beta:g} a running average of β {beta:g} would keep {kept:g} "
            "of itself; the batch is too large, or the run too short, for this base run's β"
        )
    return kept


def check_family(name: str, tree: Tree[Any], *families: Family) -> None:
    """Raises an `EquimuError` unless the tree's learning rates are for one of these families of optimizers."""
    for rule in required_rules(tree, name):
        if rule.optimizer not in families:
            raise EquimuError(
                f"{name} was given a tree whose learning rates are for optimizer={rule.optimizer!r}; "
                f"make it with optimizer={families[0]!r}, e.g. parameterize(make, mup(optimizer={families[0]!r}), ...)"
            )


def _check_decay(tree: Tree[Any], decay: DecayRule | None) -> None:
    if decay is None:
        return
    if decay not in DECAY_RULES:
        raise EquimuError(f"decay {decay!r} is unknown: {nearest(decay, DECAY_RULES)}")
    for rule in rules_of(tree):
        if rule.decay != decay:
            raise EquimuError(
                f"decay {decay!r} was given for a tree whose decay is {rule.decay!r}; make the tree with decay={decay!r}, "
                f"e.g. parameterize(make, mup(decay={decay!r}), ...)"
            )
