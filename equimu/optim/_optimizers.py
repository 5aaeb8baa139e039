"""The optimizers that work entry by entry: AdamW, Lion, SGD."""

from typing import Any

import optax

from equimu._types import Scalar
from equimu.optim._beta import Rate
from equimu.optim._check_numbers import check_numbers
from equimu.optim._schedule import Schedule
from equimu.optim._update import check_family, scaled_beta, update_rule
from equimu.parameterization import DecayRule, Rule, Tree


def adamw(
    tree: Tree[Any],
    *,
    learning_rate: Scalar,
    b1: Rate = 0.9,
    b2: Rate = 0.95,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    decay: DecayRule | None = None,
    schedule: Schedule | None = None,
    clip_norm: Scalar | None = None,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW (arXiv 1711.05101) under a tree of rules.

    Args:
        tree: the tree of rules, for `optimizer="adam"`.
        learning_rate: base learning rate η; a leaf trains at η · `rule.lr`. May be traced, as all scalars here.
        b1, b2: decay rates of the moments.
        eps: base epsilon; a leaf's is eps · `rule.eps`.
        weight_decay: base decay λ, of all leaves.
        decay: by what a leaf p shrinks in a step, with s the schedule. It is the tree's own rule (`"independent"` unless the
            parameterization was made for another), and may be repeated here:
            `"standard"`: s · η · rule.lr · λ · rule.weight_decay · p, as AdamW does;
            `"scaled"`: s · η · λ · rule.weight_decay · p, the same on leaves of all learning rates (λ·m on hidden matrices);
            `"independent"`: s · λ · rule.weight_decay · p, free of the learning rate;
            `"l2"`: none of its own: λ · rule.weight_decay · p is added to the clipped gradient, before the optimizer's rule.
        schedule: a factor on everything, as a function of the number of updates done; see `warmup_schedule`.
        clip_norm: clip the gradients to this global norm, taken over all leaves.
        mu_dtype: dtype of the first moment, e.g. `jnp.bfloat16`.

    Returns:
        A transformation of `eqx.filter(model, eqx.is_inexact_array)`.

    Raises:
        EquimuError: the tree is for another family of optimizers or rule of decay, or a number makes no sense.
    """
    check_family("adamw", tree, "adam")
    check_numbers(b1=b1, b2=b2, eps=eps)
    return update_rule(
        tree,
        lambda rule: adam_direction(rule, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        decay=decay,
        schedule=schedule,
        clip_norm=clip_norm,
    )


def lion(
    tree: Tree[Any],
    *,
    learning_rate: Scalar,
    b1: Rate = 0.9,
    b2: Rate = 0.99,
    weight_decay: Scalar = 0.0,
    decay: DecayRule | None = None,
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
        EquimuError: the tree is for another family of optimizers or rule of decay, or a number makes no sense.
    """
    check_family("lion", tree, "sign", "adam")
    check_numbers(b1=b1, b2=b2)
    return update_rule(
        tree,
        lambda rule: optax.scale_by_lion(b1=scaled_beta(b1, rule), b2=scaled_beta(b2, rule), mu_dtype=mu_dtype),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        decay=decay,
        schedule=schedule,
        clip_norm=clip_norm,
    )


def sgd(
    tree: Tree[Any],
    *,
    learning_rate: Scalar,
    momentum: Rate | None = None,
    nesterov: bool = False,
    weight_decay: Scalar = 0.0,
    decay: DecayRule | None = None,
    schedule: Schedule | None = None,
    clip_norm: Scalar | None = None,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD, with or without momentum, under a tree of rules.

    Args:
        tree: the tree of rules, for `optimizer="sgd"`.
        momentum: decay rate of the momentum; None for none.
        nesterov: Nesterov's form of it (Sutskever et al., 2013).
        learning_rate, weight_decay, decay, schedule, clip_norm, mu_dtype: as in `adamw`.

    Returns:
        A transformation of `eqx.filter(model, eqx.is_inexact_array)`.

    Raises:
        EquimuError: the tree is for another family of optimizers or rule of decay, or a number makes no sense.
    """
    check_family("sgd", tree, "sgd")
    check_numbers(momentum=momentum)

    def direction(rule: Rule) -> optax.GradientTransformation:
        if momentum is None:
            return optax.identity()
        return optax.trace(decay=scaled_beta(momentum, rule), nesterov=nesterov, accumulator_dtype=mu_dtype)

    return update_rule(
        tree,
        direction,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        decay=decay,
        schedule=schedule,
        clip_norm=clip_norm,
    )


def adam_direction(rule: Rule, *, b1: Rate, b2: Rate, eps: Scalar, mu_dtype: Any) -> optax.GradientTransformation:
    """Adam's direction for the leaves of a rule."""
    return optax.scale_by_adam(
        b1=scaled_beta(b1, rule), b2=scaled_beta(b2, rule), eps=eps * rule.eps, mu_dtype=mu_dtype
    )
