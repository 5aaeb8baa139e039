"""Runs small enough for the tests."""

import dataclasses
from pathlib import Path
from typing import Any

from equimu import LanguageModel
from equimu.optim import AdamW
from equimu.runs import RunConfig, Sizes
from equimu.tasks import ModelConfig, TextConfig, find_task

LINES = f"{Path(__file__).parent / 'launched' / 'lines.py'}:Lines"
"""A task that compiles at once, as the command line names it."""


def small_run(
    corpus: str,
    *,
    width: int = 16,
    learning_rate: float = 2**-5,
    name: str = "mup",
    seed: int = 0,
    steps: int = 12,
    clip_norm: float | None = 1.0,
) -> RunConfig:
    """A run of a few steps of a tiny model on a few rows."""
    return RunConfig(
        task=LanguageModel(model=ModelConfig(head_dim=8), text=TextConfig(corpus=corpus, seq=16, rows=4)),
        size=Sizes(width=width, depth=2),
        base=Sizes(width=16),
        parameterization=name,
        optimizer=AdamW(learning_rate=learning_rate, clip_norm=clip_norm),
        steps=steps,
        seed=seed,
        log_every=5,
        validation_batches=3,
    )


def lines_run(**options: Any) -> RunConfig:
    """The same of a task that compiles at once, for tests in which the model does not matter."""
    run = small_run("none", **options)
    size, base = (Sizes(width=sizes["width"]) for sizes in (run.size, run.base))
    return dataclasses.replace(run, task=find_task(LINES)(), size=size, base=base)


def with_model(config: RunConfig, **fields: Any) -> RunConfig:
    """The run with other fields of its model."""
    model = dataclasses.replace(config.task.model, **fields)
    return dataclasses.replace(config, task=dataclasses.replace(config.task, model=model))


def with_text(config: RunConfig, **fields: Any) -> RunConfig:
    """The run with other fields of its text."""
    text = dataclasses.replace(config.task.text, **fields)
    return dataclasses.replace(config, task=dataclasses.replace(config.task, text=text))


def in_grid(run: RunConfig) -> RunConfig:
    """The run less what a sweep over width takes from its grid."""
    fresh = RunConfig()
    optimizer = dataclasses.replace(run.optimizer, learning_rate=fresh.optimizer.learning_rate)
    size = {name: size for name, size in run.size.items() if name != "width"}
    return dataclasses.replace(run, size=Sizes(**size), parameterization=fresh.parameterization, optimizer=optimizer)
