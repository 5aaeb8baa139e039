"""The optimizers that look at a whole matrix: Adafactor and Muon. Each layer of a stack is a matrix of its own."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from equimu._errors import EquimuError
from equimu._types import Scalar
from equimu._values import Count, check
from equimu.optim._beta import Rate
from equimu.optim._check_numbers import check_numbers
from equimu.optim._optimizers import adam_direction
from equimu.optim._schedule import Schedule
from equimu.optim._update import check_family, scaled_beta, update_rule
from equimu.parameterization import DecayRule, Rule, Tree, rules_of


def adafactor(
    tree: Tree[Any],
    *,
    learning_rate: Scalar,
    decay_rate: Scalar = 0.8,
    eps: Scalar = 1e-15,
    min_scale: Scalar = 1e-3,
    clipping_threshold: Scalar | None = 1.0,
    momentum: Rate | None = None,
    min_dim_size_to_factor: int = 128,
    weight_decay: Scalar = 0.0,
    decay: DecayRule | None = None,
    schedule: Schedule | None = None,
    clip_norm: Scalar | None = None,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Adafactor (arXiv 1804.04235) under a tree of rules: steps are relative to the root mean square of the weight.

    Args:
        tree: the tree of rules, for `optimizer="adafactor"`.
        learning_rate: base learning rate; a leaf moves by about learning_rate · `rule.lr` of its root mean square.
        decay_rate: power of the step by which the second moment forgets.
        eps: its square, times that of `rule.eps`, is added to squared gradients.
        min_scale: weights are taken to be no smaller than this, as the forward pass sees them: what starts at zero must move.
        clipping_threshold: largest root mean square of a matrix's update before the learning rate; None for none.
        momentum: rate of a running average of the updates; None for none.
        min_dim_size_to_factor: matrices with a smaller side keep a second moment for each entry.
        weight_decay, decay, schedule, clip_norm, mu_dtype: as in `adamw`.

    Returns:
        A transformation of `eqx.filter(model, eqx.is_inexact_array)`.

    Raises:
        EquimuError: the tree is for another family of optimizers or rule of decay, or a number makes no sense.
    """
    check_family("adafactor", tree, "adafactor")
    check_numbers(
        decay_rate=decay_rate, eps=eps, min_scale=min_scale, clipping_threshold=clipping_threshold, momentum=momentum
    )
    check(Count, min_dim_size_to_factor=min_dim_size_to_factor)
    _check_real("adafactor", rules_of(tree))

    def direction(rule: Rule) -> optax.GradientTransformation:
        parts = [
            optax.scale_by_factored_rms(
                decay_rate=decay_rate,
                epsilon=(eps * rule.eps) ** 2,
                min_dim_size_to_factor=min_dim_size_to_factor,
            )
        ]
        if clipping_threshold is not None:
            parts.append(optax.clip_by_block_rms(clipping_threshold))
        parts.append(optax.scale_by_param_block_rms(min_scale / rule.multiplier))
        if momentum is not None:
            parts.append(optax.ema(scaled_beta(momentum, rule), debias=False, accumulator_dtype=mu_dtype))
        return each_of_stack(optax.chain(*parts), rule)

    return update_rule(
        tree,
        direction,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        decay=decay,
        schedule=schedule,
        clip_norm=clip_norm,
    )


def muon(
    tree: Tree[Any],
    *,
    learning_rate: Scalar,
    adam_learning_rate: Scalar | None = None,
    beta: Rate = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    b1: Rate = 0.9,
    b2: Rate = 0.95,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    decay: DecayRule | None = None,
    schedule: Schedule | None = None,
    clip_norm: Scalar | None = None,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon (Jordan et al., 2024) on hidden matrices, Adam on all other leaves, under a tree of rules.

    The momentum of each hidden matrix is orthogonalised, with its axes read off `rule.axes`: all summed axes against all
    outputs, each member of a stack for itself. No factor of the shape is added to it: that is the rule's learning rate.

    Args:
        tree: the tree of rules, for `optimizer="muon"`.
        learning_rate: base learning rate, of hidden matrices and, unless given apart, of all others.
        adam_learning_rate: base learning rate of the leaves that Adam trains.
        beta: rate of the momentum.
        nesterov: Nesterov's form of it.
        ns_steps: Newton-Schulz iterations.
        b1, b2: rates of Adam's moments.
        eps: base epsilon of both; a leaf's is eps · `rule.eps`.
        weight_decay, decay, schedule, clip_norm, mu_dtype: as in `adamw`.

    Returns:
        A transformation of `eqx.filter(model, eqx.is_inexact_array)`.

    Raises:
        EquimuError: the tree is for another family of optimizers or rule of decay, a number makes no sense, or a hidden leaf is
            no matrix.
    """
    check_family("muon", tree, "muon")
    check_numbers(adam_learning_rate=adam_learning_rate, beta=beta, b1=b1, b2=b2, eps=eps)
    check(Count, ns_steps=ns_steps)
    _check_real("muon", [rule for rule in rules_of(tree) if rule.role == "hidden"])

    def direction(rule: Rule) -> optax.GradientTransformation:
        if rule.role != "hidden":
            return adam_direction(rule, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)
        axes = _matrix_axes(rule)
        return scale_by_muon(
            ns_steps=ns_steps,
            beta=scaled_beta(beta, rule),
            eps=eps * rule.eps,
            mu_dtype=mu_dtype,
            nesterov=nesterov,
            weight_dimension_numbers=lambda updates: jax.tree.map(lambda _: axes, updates),
        )

    return update_rule(
        tree,
        direction,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        decay=decay,
        schedule=schedule,
        clip_norm=clip_norm,
        own_learning_rate=lambda rule: None if rule.role == "hidden" else adam_learning_rate,
    )


def each_of_stack(transform: optax.GradientTransformation, rule: Rule) -> optax.GradientTransformation:
    """A transformation of the arrays of a rule, applied to each member of their stacks for itself.

    It works on a dictionary from path to array, as `multi_transform` gives it.
    """
    mapped_init: Any = transform.init
    mapped_update: Any = transform.update
    for word in rule.axes:
        if word == "stack":
            mapped_init, mapped_update = jax.vmap(mapped_init), jax.vmap(mapped_update)
    if mapped_init is transform.init:
        return transform

    def init(params: Any) -> dict[str, Any]:
        return {path: mapped_init(x) for path, x in params.items()}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        made = {path: mapped_update(x, state[path], params[path]) for path, x in updates.items()}
        return {path: new for path, (new, _) in made.items()}, {path: after for path, (_, after) in made.items()}

    return optax.GradientTransformation(init, update)


def _check_real(name: str, rules: list[Rule]) -> None:
    for rule in rules:
        if jnp.issubdtype(rule.dtype, jnp.complexfloating):
            raise EquimuError(
                f"{name} has no rule for complex arrays, and {rule.path} is one; use adamw, lion or sgd, or hold its real and "
                "imaginary parts in two arrays"
            )


def _matrix_axes(rule: Rule) -> MuonDimensionNumbers:
    summed = tuple(i for i, word in enumerate(rule.axes) if word in ("in", "kernel"))
    outputs = tuple(i for i, word in enumerate(rule.axes) if word == "out")
    if not summed or not outputs:
        raise EquimuError(f"{rule.path} is not a matrix to Muon: its axes are {', '.join(rule.axes)}")
    return MuonDimensionNumbers(reduction_axis=summed, output_axis=outputs)
