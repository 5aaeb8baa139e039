"""The flags of commands that run a task: which there are depends on the task and the optimizer that are named."""

import dataclasses
import re
from typing import Annotated, Any

import tyro

from equimu._errors import EquimuError
from equimu.cli._config_file import read_config
from equimu.cli._flags import Axes, Flat, flags_class, flags_field, flags_of, take_axes
from equimu.optim import AdamW, Optimizer, optimizer_class, optimizer_name
from equimu.presets import PREFIX
from equimu.runs import RunConfig
from equimu.sweeps import SweepConfig, refuse_former
from equimu.tasks import LanguageModel, Task, find_task
from equimu.tuning import TuneConfig

# A task on the command line, and no group of the paper. What follows the colon of a machine, as in cpu:8, is a number.
_TASK = re.compile(rf"(?!{PREFIX})[^-].*:[A-Za-z_]\w*|LanguageModel")


def with_config_flags(command: Any, source: str | None, flags: list[str]) -> tuple[Any, list[str]]:
    """A command with the flags of its config, and what is given for them.

    Args:
        command: its class.
        source: of the values that are not given, as `--config` has it; None without one.
        flags: as they were given.
    """
    task, flags = _take_task(flags)
    config = None if source is None else read_config(source, command.config_class, task, flags)
    optimizer, flags = _take_optimizer(flags)
    if config is not None:
        run = config if isinstance(config, RunConfig) else config.run
        task = type(run.task)
        if optimizer is None:
            optimizer = type(run.optimizer)
        elif optimizer is not type(run.optimizer):
            raise EquimuError(
                f"the config {source} is of {optimizer_name(run.optimizer)}, whose flags are others than those of another "
                "optimizer; change optimizer.name in a copy of it"
            )
    task, optimizer, axes = task or LanguageModel, optimizer or AdamW, Axes()
    if command.config_class is SweepConfig:
        for flag in flags:
            refuse_former(flag.partition("=")[0].removeprefix("--").replace("-", "_"))
    if command.config_class is not RunConfig:
        axes, flags = take_axes(flags, task, optimizer)
    return _with_flags(command, task, optimizer, config, axes), flags


def _take_task(flags: list[str]) -> tuple[type[Task] | None, list[str]]:
    """The task that is named on the command line, as its first word, and the other flags."""
    if flags and _TASK.fullmatch(flags[0]):
        return find_task(flags[0]), flags[1:]
    return None, flags


def with_task_flag(flags: list[str]) -> list[str]:
    """The flags of a command whose task is a flag, which may be named by the first word, too."""
    return ["--task", *flags] if flags and _TASK.fullmatch(flags[0]) else flags


def _take_optimizer(flags: list[str]) -> tuple[type[Optimizer] | None, list[str]]:
    """The optimizer whose name is among the flags, and the other flags."""
    for index, flag in enumerate(flags):
        key, _, value = flag.partition("=")
        if key in ("--optimizer.name", "--run.optimizer.name"):
            if not value and index + 1 == len(flags):
                raise EquimuError(f"{key} needs the name of an optimizer after it, e.g. lion")
            end = index + (1 if value else 2)
            return optimizer_class(value or flags[index + 1]), flags[:index] + flags[end:]
    return None, flags


def _with_flags(command: Any, task: type[Task], optimizer: type[Optimizer], config: Any, axes: Axes) -> Any:
    """The command with the flags of a task and an optimizer, whose defaults are those of a config, if there is one."""
    cls = flags_class(command.config_class, task, optimizer, axes)
    if isinstance(config, SweepConfig | TuneConfig):
        cls = type(flags_of(config, axes))
    field: Any = flags_field(
        "config",
        Annotated[cls, Flat, tyro.conf.FlagConversionOff],
        cls if config is None else lambda: flags_of(config, axes),
    )
    made: Any = dataclasses.make_dataclass(command.__name__, [field], bases=(command,), frozen=True, kw_only=True)
    return made
