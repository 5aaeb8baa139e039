"""The program `equimu`."""

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import jax
import tyro

from equimu._errors import EquimuError, ExitCode, nearest, printable
from equimu.cli._command import Command
from equimu.cli._compare import Compare
from equimu.cli._config_file import read_config, take_config_file
from equimu.cli._coord_check import CoordCheck
from equimu.cli._data import Data
from equimu.cli._flags import Axes, Flat, flags_class, flags_field, flags_of, take_axes
from equimu.cli._plan import Plan
from equimu.cli._show import Show
from equimu.cli._sweep import Report, Sweep
from equimu.cli._train import Train
from equimu.cli._tune import Tune
from equimu.cli._words import one_line, own_words
from equimu.optim import AdamW, Optimizer, optimizer_class, optimizer_name
from equimu.processes import Interrupted, exit_process, is_process_zero
from equimu.runs import RunConfig
from equimu.storage import one_line as one_line_of_storage
from equimu.sweeps import SweepConfig, refuse_former
from equimu.tasks import LanguageModel, Task, find_task
from equimu.tuning import TuneConfig

_COMMANDS: dict[str, type[Command]] = {
    "show": Show,
    "train": Train,
    "sweep": Sweep,
    "tune": Tune,
    "compare": Compare,
    "report": Report,
    "data": Data,
    "plan": Plan,
    "coord-check": CoordCheck,
}
# A task on the command line. What follows the colon of a machine, as in cpu:8, is a number.
_TASK = re.compile(r"[^-].*:[A-Za-z_]\w*|LanguageModel")
_POWER = re.compile(r"(|--[\w.-]+=)([\d.]+)\*\*(-?[\d.]+)")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The program `equimu`. Exits with an `ExitCode`, and one line on stderr where it is not 0."""
    try:
        _parse(list(sys.argv[1:] if argv is None else argv))()
        sys.stdout.flush()
    except EquimuError as error:
        print(f"equimu: {printable(error)}", file=sys.stderr)
        exit_process(error.exit_code)
        sys.exit(error.exit_code)
    except Interrupted as stop:
        if is_process_zero():
            print(f"equimu: {printable(stop)}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        print("equimu: interrupted; what was finished is kept", file=sys.stderr)
        sys.exit(ExitCode.INTERRUPTED)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print("equimu: there is not enough memory for this; take a smaller model, batch or seq", file=sys.stderr)
        sys.exit(ExitCode.MISTAKE)
    except BrokenPipeError:
        # The reader, `head` for example, has what it wanted; the interpreter must not flush the rest to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # what is not a file of a run, a store or a report, all of which have words of their own
        print(f"equimu: {printable(one_line_of_storage(error))}", file=sys.stderr)
        sys.exit(ExitCode.MISTAKE)
    sys.exit(ExitCode.DONE)


def _parse(arguments: list[str]) -> Any:
    """The command that the arguments ask for, ready to be called."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        sys.exit(ExitCode.DONE)
    name, *flags = arguments[0], *map(_without_power, arguments[1:])
    if name not in _COMMANDS:
        raise EquimuError(f"unknown command {name!r}: {nearest(name, _COMMANDS)}")
    command: Any = _COMMANDS[name]
    path, flags = take_config_file(flags)
    if command.config_class is None:
        if path is not None:
            having = ", ".join(key for key, value in _COMMANDS.items() if value.config_class)
            raise EquimuError(f"{name} takes no --config; {having} do")
        return _flags(name, command, flags)
    task, flags = _take_task(flags)
    config = None if path is None else read_config(path, command.config_class, task, flags)
    optimizer, flags = _take_optimizer(flags)
    if config is not None:
        run = config if isinstance(config, RunConfig) else config.run
        task = type(run.task)
        if optimizer is None:
            optimizer = type(run.optimizer)
        elif optimizer is not type(run.optimizer):
            raise EquimuError(
                f"the config {path} is of {optimizer_name(run.optimizer)}, whose flags are others than those of another "
                "optimizer; change optimizer.name in a copy of it"
            )
    task, optimizer, axes = task or LanguageModel, optimizer or AdamW, Axes()
    if command.config_class is SweepConfig:
        for flag in flags:
            refuse_former(flag.partition("=")[0].removeprefix("--").replace("-", "_"))
    if command.config_class is not RunConfig:
        axes, flags = take_axes(flags, task, optimizer)
    return _flags(name, _with_flags(command, task, optimizer, config, axes), flags)


def _without_power(flag: str) -> str:
    """A flag, or a value, whose power of two or another number is written out, as in `--optimizer.learning-rate 2**-6`."""
    match = _POWER.fullmatch(flag)
    if match is None:
        return flag
    start, base, exponent = match.groups()
    try:
        value = float(base) ** float(exponent)
        return f"{start}{int(value) if value.is_integer() else value!r}"
    except (ValueError, ArithmeticError):  # no numbers, or too large
        return flag


def _take_task(flags: list[str]) -> tuple[type[Task] | None, list[str]]:
    """The task that is named on the command line, as its first word, and the other flags."""
    if flags and _TASK.fullmatch(flags[0]):
        return find_task(flags[0]), flags[1:]
    return None, flags


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
    field: Any = flags_field("config", Annotated[cls, Flat], cls if config is None else lambda: flags_of(config, axes))
    made: Any = dataclasses.make_dataclass(command.__name__, [field], bases=(command,), frozen=True, kw_only=True)
    made.__doc__ = command.__doc__
    return made


def _flags(name: str, command: Any, flags: list[str]) -> Any:
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                command,
                prog=f"equimu {name}",
                args=flags,
                config=(tyro.conf.FlagConversionOff,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise EquimuError(own_words(stop) or one_line(errors.getvalue(), name)) from None


def _overview() -> str:
    longest = max(map(len, _COMMANDS))
    lines = [f"  {name:{longest + 2}}{(command.__doc__ or '').splitlines()[0]}" for name, command in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: equimu COMMAND [FLAGS]",
            "",
            "Hyperparameter transfer (μP) in JAX.",
            "",
            *lines,
            "",
            "equimu COMMAND --help tells the flags; all that train or plan also take them from --config FILE (JSON or TOML).",
        ]
    )
