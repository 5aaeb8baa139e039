"""From a config to the objects it speaks of: parameterization, tree, optimizer."""

import dataclasses
from fractions import Fraction
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from equimu._errors import EquimuError
from equimu._types import PyTree, Scalar
from equimu.optim import adafactor, adamw, lion, muon, sgd, warmup_schedule
from equimu.parameterization import (
    Family,
    Parameterization,
    is_rule,
    parameterization_from_text,
    parameterize,
)
from equimu.tasks import Task
from equimu.training._config import OptimizerConfig, RunConfig

_FAMILIES: dict[str, Family] = {
    "adamw": "adam",
    "lion": "sign",
    "sgd": "sgd",
    "adafactor": "adafactor",
    "muon": "muon",
}


def build_parameterization(config: RunConfig) -> Parameterization:
    """The table of laws of a run, for its optimizer."""
    table, optimizer = config.parameterization, config.optimizer
    if isinstance(table, str):
        return parameterization_from_text(table, optimizer=_FAMILIES[optimizer.name], decay=optimizer.weight_decay_rule)
    return table


def build_tree(config: RunConfig, rows: int) -> PyTree:
    """The tree of rules of a run's model.

    Args:
        config: the run.
        rows: of a batch.

    Raises:
        EquimuError: as `parameterize`; a filter spec that does not fit the model.
    """
    base_rows, base_steps = config.base_rows or rows, config.base_steps or config.steps
    tree = parameterize(
        config.task.make,
        build_parameterization(config),
        base=config.base,
        target=config.size,
        batch_ratio=Fraction(rows, base_rows),
        length_ratio=Fraction(rows * config.steps, base_rows * base_steps),
    )
    return _with_frozen_parts(tree, config.task)


def _with_frozen_parts(tree: PyTree, task: Task) -> PyTree:
    """The tree with a rate and decay of zero where the task's filter spec says that an array is not trained."""
    spec = task.trained(tree)
    if spec is True:
        return tree
    name = type(task).__name__
    try:
        kept, _ = eqx.partition(tree, spec)
    except (TypeError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise EquimuError(
            f"{name}.trained gives a filter spec, True or False in the place of each array or of a part of the model; {told}"
        ) from None
    return jax.tree.map(
        lambda rule, kept: (
            dataclasses.replace(rule, lr=0.0, weight_decay=0.0) if is_rule(rule) and kept is None else rule
        ),
        tree,
        kept,
        is_leaf=lambda x: x is None,
    )


def build_optimizer(
    config: OptimizerConfig,
    tree: PyTree,
    *,
    learning_rate: Scalar,
    weight_decay: Scalar,
    steps: Any,
    warmup: Any,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer; what a sweep varies is given apart from the config, so that it can be traced."""
    common: dict[str, Any] = dict(
        learning_rate=learning_rate,
        # a decay of zero is left out of the program
        weight_decay=weight_decay if config.weight_decay else 0.0,
        schedule=warmup_schedule(total=steps, warmup=warmup, decay=config.decay, floor=config.floor),
        clip_norm=config.clip_norm,
        mu_dtype=jnp.dtype(config.first_moment_dtype),
    )
    if config.name == "adamw":
        return adamw(tree, b1=config.b1, b2=config.b2, eps=config.eps, **common)
    if config.name == "lion":
        return lion(tree, b1=config.b1, b2=config.b2, **common)
    if config.name == "adafactor":
        return adafactor(tree, **common)
    if config.name == "muon":
        return muon(tree, beta=config.momentum, b1=config.b1, b2=config.b2, eps=config.eps, **common)
    return sgd(tree, momentum=config.momentum or None, **common)
