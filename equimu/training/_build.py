"""From a config to the parameterization and the tree that it speaks of."""

import dataclasses
from fractions import Fraction
from typing import Any

import equinox as eqx
import jax

from equimu._errors import EquimuError
from equimu.parameterization import Parameterization, Tree, is_rule, parameterization_from_text, parameterize
from equimu.runs import RunConfig
from equimu.tasks import Task


def build_parameterization(config: RunConfig) -> Parameterization:
    """The table of laws of a run, for its optimizer.

    Args:
        config: of the run.
    """
    table, optimizer = config.parameterization, config.optimizer
    if isinstance(table, str):
        return parameterization_from_text(table, optimizer=optimizer.family, decay=optimizer.weight_decay_rule)
    return table


def build_tree(config: RunConfig, rows: int) -> Tree[Any]:
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


def _with_frozen_parts(tree: Tree[Any], task: Task) -> Tree[Any]:
    """The tree with a rate and decay of zero where the task's filter spec says that an array is not trained."""
    spec = task.trained(tree)
    if spec is True:
        return tree
    name = type(task).__name__
    try:
        kept, _ = eqx.partition(tree, spec)
    except (TypeError, ValueError) as error:
        message = " ".join(str(error).split())[:200]
        raise EquimuError(
            f"{name}.trained gives a filter spec, True or False in the place of each array or of a part of the model; {message}"
        ) from None
    return jax.tree.map(
        lambda rule, kept: (
            dataclasses.replace(rule, lr=0.0, weight_decay=0.0) if is_rule(rule) and kept is None else rule
        ),
        tree,
        kept,
        is_leaf=lambda x: x is None,
    )
