"""The coordinate check of a run: its model, parameterization, optimizer and data, at several widths or depths."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from equimu._errors import EquimuError, ExitCode
from equimu._values import Count, Positive, Real, Size, check, checked
from equimu.diagnostics._check import CoordinateProbe
from equimu.diagnostics._result import CoordinateCheck
from equimu.parameterization import Tree
from equimu.runs import RunConfig
from equimu.tasks import mean_loss
from equimu.training import build_parameterization, data_of


class CheckFailedError(EquimuError):
    """The check ran, and something is not as the parameterization says."""

    exit_code = ExitCode.NO


def check_run(
    config: RunConfig,
    *,
    over: str | None = None,
    sizes: Sequence[int] = (64, 128, 256),
    learning_rate: Real = 2**-9,
    steps: int = 3,
    seeds: int = 6,
    on_size: Callable[[int, int], None] = lambda done, size: None,
) -> CoordinateCheck:
    """The coordinate check of what a config describes.

    Args:
        config: task, parameterization and optimizer; not used are its learning rate and schedule.
        over: the name of the size that varies; the task's first by default.
        sizes: its values, ascending.
        learning_rate: base learning rate, constant; so small that a few steps are far from the end of training.
        steps: updates, each on the next batch of the data.
        seeds: how many.
        on_size: called after each size with how many are done, and the size.

    Returns:
        Rows and verdict.

    Raises:
        EquimuError: as `coord_check`; a size that the task does not have.
    """
    check(RunConfig, config=config)
    check(str | None, over=over)
    over = next(iter(config.task.sizes)) if over is None else over
    sizes = checked("sizes", sizes, tuple[Size, ...])
    if not sizes:
        raise EquimuError("sizes has no value; give at least two")
    check(Positive, learning_rate=learning_rate)
    check(Count, steps=steps, seeds=seeds)
    config.task.complete({over: 1}, "over")
    batches = data_of(config.task).training(config.seed)

    def optimizer(tree: Tree[Any]) -> Any:
        still = dataclasses.replace(config.optimizer, schedule="constant")
        decay = config.optimizer.weight_decay
        return still.build(tree, learning_rate=learning_rate, weight_decay=decay, steps=steps, warmup=0)

    def loss(model: Any, batch: Any) -> Any:
        return mean_loss(config.task, model, batch)

    def loss_with_state(model: Any, batch: Any, state: Any) -> Any:
        return mean_loss(config.task, model, batch, state=state)

    probe = CoordinateProbe(
        config.task.make,
        base={**config.base, over: min(config.base[over], *sizes)},
        sizes=[{**config.size, over: size} for size in sizes],
        loss=loss_with_state if "state" in config.task.loss_takes else loss,
        batches=[batches.batch(step) for step in range(steps)],
        optimizer=optimizer,
        steps=steps,
    )
    return probe(build_parameterization(config), seeds=range(seeds), on_size=on_size)
