"""The optimizers: each rule's factors on learning rate, decay and epsilon, in optax's terms.

The order of an update is that of Lingle's reference code (arXiv 2404.05728): the raw gradients are clipped by their global
norm; the optimizer's own direction; decay and learning rate; and the schedule last, on everything.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import optax

from equimu._errors import EquimuError, nearest
from equimu._types import PyTree, Scalar
from equimu.optim._multi_transform import multi_transform
from equimu.optim._schedule import Schedule
from equimu.parameterization import Family, Rule, rules_of

DecayRule: TypeAlias = Literal["standard", "independent", "scaled"]


def adamw(
    tree: PyTree,
    *,
    learning_rate: Scalar,
    b1: Scalar = 0.9,
    b2: Scalar = 0.95,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    decay: DecayRule = "independent",
    schedule: Schedule | None = None,
    clip_norm: Scalar | None = None,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW under a tree of rules.

    Args:
        tree: the tree of rules, for `optimizer="adam"`.
        learning_rate: base learning rate η; a leaf trains at η · `rule.lr`. May be traced, as all scalars here.
        b1, b2: decay rates of the moments.
        eps: base epsilon; a leaf's is eps · `rule.eps`.
        weight_decay: base decay λ, of all leaves.
        decay: by what a leaf p shrinks in a step, with s the schedule:
            `"standard"`: s · η · rule.lr · λ · rule.weight_decay · p, as AdamW does;
            `"scaled"`: s · η · λ · rule.weight_decay · p, the same on leaves of all learning rates (λ·m on hidden matrices);
            `"independent"`: s · λ · rule.weight_decay · p, free of the learning rate.
        schedule: a factor on everything, as a function of the number of updates done; see `warmup_schedule`.
        clip_norm: clip the gradients to this global norm, taken over all leaves.
        mu_dtype: dtype of the first moment, e.g. `jnp.bfloat16`.

    Returns:
        A transformation of `eqx.filter(model, eqx.is_inexact_array)`.

    Raises:
        EquimuError: the tree is for another family of optimizers, or a number makes no sense.
    """
    _check_family("adamw", tree, "adam")
    return _optimizer(
        tree,
        lambda rule: optax.scale_by_adam(b1=b1, b2=b2, eps=eps * rule.eps, mu_dtype=mu_dtype),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        decay=decay,
        schedule=schedule,
        clip_norm=clip_norm,
    )


def lion(
    tree: PyTree,
    *,
    learning_rate: Scalar,
    b1: Scalar = 0.9,
    b2: Scalar = 0.99,
    weight_decay: Scalar = 0.0,
    decay: DecayRule = "independent",
    schedule: Schedule | None = None,
    clip_norm: Scalar | None = None,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Lion (arXiv 2302.06675) under a tree of rules: sign(b1·m + (1 − b1)·g), then m with b2.

    Args:
        tree: the tree of rules, for `optimizer="sign"` (or `"adam"`, whose learning rates are the same).
        b1, b2: rates of the interpolation and of the moment.
        learning_rate, weight_decay, decay, schedule, clip_norm, mu_dtype: as in `adamw`.

    Returns:
        A transformation of `eqx.filter(model, eqx.is_inexact_array)`.

    Raises:
        EquimuError: the tree is for another family of optimizers, or a number makes no sense.
    """
    _check_family("lion", tree, "sign", "adam")
    return _optimizer(
        tree,
        lambda rule: optax.scale_by_lion(b1=b1, b2=b2, mu_dtype=mu_dtype),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        decay=decay,
        schedule=schedule,
        clip_norm=clip_norm,
    )


def sgd(
    tree: PyTree,
    *,
    learning_rate: Scalar,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    weight_decay: Scalar = 0.0,
    decay: DecayRule = "independent",
    schedule: Schedule | None = None,
    clip_norm: Scalar | None = None,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD, with or without momentum, under a tree of rules.

    Args:
        tree: the tree of rules, for `optimizer="sgd"`.
        momentum: decay rate of the momentum; None for none.
        nesterov: Nesterov's form of it.
        learning_rate, weight_decay, decay, schedule, clip_norm, mu_dtype: as in `adamw`.

    Returns:
        A transformation of `eqx.filter(model, eqx.is_inexact_array)`.

    Raises:
        EquimuError: the tree is for another family of optimizers, or a number makes no sense.
    """
    _check_family("sgd", tree, "sgd")

    def direction(_: Rule) -> optax.GradientTransformation:
        if momentum is None:
            return optax.identity()
        return optax.trace(decay=momentum, nesterov=nesterov, accumulator_dtype=mu_dtype)

    return _optimizer(
        tree,
        direction,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        decay=decay,
        schedule=schedule,
        clip_norm=clip_norm,
    )


def _optimizer(
    tree: PyTree,
    direction: Callable[[Rule], optax.GradientTransformation],
    *,
    learning_rate: Scalar,
    weight_decay: Scalar,
    decay: DecayRule,
    schedule: Schedule | None,
    clip_norm: Scalar | None,
) -> optax.GradientTransformationExtraArgs:
    _check_numbers(learning_rate=learning_rate, weight_decay=weight_decay, clip_norm=clip_norm)
    if decay not in get_args(DecayRule):
        raise EquimuError(f"decay {decay!r} is unknown: {nearest(decay, get_args(DecayRule))}")

    def update(rule: Rule) -> optax.GradientTransformation:
        rate = learning_rate * rule.lr
        step = [direction(rule), optax.scale(-rate)]
        if any(isinstance(factor, float | int) and factor == 0 for factor in (weight_decay, rule.weight_decay)):
            return optax.chain(*step)
        shrink = weight_decay * rule.weight_decay
        # Where the decay stands decides what it is multiplied by: in front of the learning rate, the leaf's own.
        if decay == "standard":
            step.insert(1, optax.add_decayed_weights(shrink))
        else:
            step.append(optax.add_decayed_weights(-shrink * (learning_rate if decay == "scaled" else 1.0)))
        return optax.chain(*step)

    parts = [multi_transform(tree, update)]
    if clip_norm is not None:
        parts.insert(0, optax.with_extra_args_support(optax.clip_by_global_norm(clip_norm)))
    if schedule is not None:
        parts.append(optax.with_extra_args_support(optax.scale_by_schedule(schedule)))
    return optax.with_extra_args_support(optax.chain(*parts))


def _check_family(name: str, tree: PyTree, *families: Family) -> None:
    for rule in rules_of(tree):
        if rule.optimizer not in families:
            raise EquimuError(
                f"{name} was given a tree whose learning rates are for optimizer={rule.optimizer!r}; "
                f"make it with optimizer={families[0]!r}, e.g. parameterize(make, mup(optimizer={families[0]!r}), ...)"
            )


def _check_numbers(**numbers: Scalar | None) -> None:
    for name, value in numbers.items():
        if isinstance(value, float | int) and not 0 <= value < float("inf"):
            raise EquimuError(f"{name} must be finite and not negative, got {value}")
