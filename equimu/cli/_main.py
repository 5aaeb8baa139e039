"""The program `equimu`."""

import contextlib
import dataclasses
import importlib
import io
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

import tyro

from equimu._errors import EquimuError, ExitCode, Interrupted, nearest, printable
from equimu.cli._help import REGISTRY
from equimu.cli._words import one_line, own_words, show_instead


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A command: where its class is, and one line of help. Commands are imported when they are asked for, as most need JAX."""

    module: str
    name: str
    help: str
    examples: tuple[str, ...] = ()
    has_config: bool = True
    has_task: bool = False  # of one's own, which may be the first word
    has_numbers: bool = True  # which may be written as powers; else texts

    def load(self) -> Any:
        return getattr(importlib.import_module(f"equimu.cli.{self.module}"), self.name)


_COMMANDS: dict[str, _Entry] = {
    "show": _Entry(
        "_show",
        "Show",
        "Print the rule table of a config; or, of groups of the paper, what they change and what it says of them.",
        ("--size.width 1024 --base.width 128", "my.py:NextByte --parameterization 'mup(form=absolute)'", "lion", "all"),
    ),
    "train": _Entry(
        "_train",
        "Train",
        "Train one model. A run that was interrupted goes on; one that was done before is not done again.",
        ("--size.width 256 --steps 500", "my.py:NextByte --size.width 256 --base.width 64 --out runs"),
    ),
    "eval": _Entry(
        "_evaluate",
        "Eval",
        "Evaluate a trained run on all of its validation data. Nothing is written.",
        ("runs/3f0c", "my.py:NextByte runs/71aa/checkpoints/step-4000 --split train"),
        has_config=False,
        has_task=True,
    ),
    "sample": _Entry(
        "_sample",
        "Sample",
        "Let a trained language model continue prompts.",
        ('runs/3f0c "def " --temperature 0', "runs/3f0c --file prompts.txt --top-p 0.9 --json"),
        has_config=False,
        has_task=True,
        has_numbers=False,
    ),
    "sweep": _Entry(
        "_sweep",
        "Sweep",
        "Sweep learning rates, or another number, over a size or others, and report. Interrupted, it goes on where it was.",
        ("--over.width 32 64 128", "--over.depth 2 4 8 --fit.weight-decay 0.1 0.2 0.4 --panels mup"),
    ),
    "tune": _Entry(
        "_tune",
        "Tune",
        "Search the best numbers of a small run, for a large one to take. Interrupted, it goes on where it was.",
        ("--run.size.width 32 --carry width=1024 depth=24",),
    ),
    "compare": _Entry(
        "_compare",
        "Compare",
        "Tune a small run, carry it to larger sizes, and compare with another table carried and retuned at each size.",
        ("--at width=64,128,256",),
    ),
    "reproduce": _Entry(
        "_reproduce",
        "Reproduce",
        "Run experiments of arXiv 2404.05728 at a scale, and put the paper's claims beside what comes out.",
        ("baseline sp", "all --scale cpu"),
        has_config=False,
    ),
    "report": _Entry(
        "_sweep",
        "Report",
        "Report on the finished runs below a folder: table, figure and verdict.",
        ("runs/sweep", "runs/sweep --over width depth --json"),
        has_config=False,
    ),
    "verdict": _Entry(
        "_verdict",
        "Verdict",
        "Report on a sweep of another trainer: a table (CSV, JSON Lines), or a folder of wandb, mlruns or TensorBoard.",
        ("runs.csv", "runs.csv --size d_model --fit lr --loss eval/loss"),
        has_config=False,
    ),
    "data": _Entry(
        "_data",
        "Data",
        "Make a token store from text, for --text.store.",
        ("store --corpus 'books/*.txt'", "c4 --corpus 'hf://allenai/c4?config=en' --tokenizer hf://t5-base"),
        has_config=False,
    ),
    "export": _Entry(
        "_export",
        "Export",
        "Write what a run has learnt as plain weights: a Llama of Hugging Face's where the model is one.",
        ("runs/3f0c --out llama",),
        has_config=False,
        has_task=True,
        has_numbers=False,
    ),
    "import": _Entry(
        "_import",
        "Import",
        "Write the config of a run that begins from a Llama of Hugging Face's, for equimu train --config.",
        ("llama --out llama.json",),
        has_config=False,
        has_numbers=False,
    ),
    "plan": _Entry(
        "_plan",
        "Plan",
        "Tell whether a run fits a machine and what its step takes there, by compiling it. Exits with 1 if it does not fit.",
        (
            "v5p:2x2x2 --size.width 2048 --size.depth 24",
            "v3:8x8 --config paper:baseline --runtime.data 32 --runtime.fsdp 4",
        ),
    ),
    "coord-check": _Entry(
        "_coord_check",
        "CoordCheck",
        "Say whether a config's model behaves, as it grows, as its parameterization says. Exits with 1 if something does not.",
        ("--sizes 64 128 256", "my.py:NextByte --parameterization sp --sizes 32 64 128"),
    ),
    "doctor": _Entry(
        "_doctor",
        "Doctor",
        "Look at this machine: versions, devices, which attention runs here and why others do not, disk.",
        ("",),
        has_config=False,
        has_numbers=False,
    ),
    "completion": _Entry(
        "_completion",
        "Completion",
        "Print what completes commands and flags in a shell.",
        ("bash > ~/.local/share/bash-completion/completions/equimu",),
        has_config=False,
        has_numbers=False,
    ),
}
# What users of other programs try, and what does it here.
_FORMER = {
    "resume": "the same command again goes on where it was: equimu train with the flags of the run",
    "evaluate": "did you mean 'eval'?",
    "generate": "did you mean 'sample'?",
    "fit": "did you mean 'train'?",
    "search": "did you mean 'tune'?",
    "version": "write equimu --version",
}
_EXAMPLES = (
    "equimu sweep --over.width 32 64 128    # does the best learning rate stay?",
    "equimu tune --carry width=1024         # tune small, train large",
    "equimu coord-check my.py:NextByte      # does my model behave as it grows?",
)
_CONFIG = "--config FILE: the flags from a file of JSON or TOML, or from a group of the paper: --config paper:lion."
_COLUMNS = 80
_POWER = re.compile(r"(|--[\w.-]+=)([\d.]+)\*\*(-?[\d.]+)")


def commands() -> dict[str, str]:
    """All commands, with what they do."""
    return {name: entry.help for name, entry in _COMMANDS.items()}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The program `equimu`. Exits with an `ExitCode`, and one line on stderr where it is not 0."""
    try:
        _parse(list(sys.argv[1:] if argv is None else argv))()
        sys.stdout.flush()
    except EquimuError as error:
        print(f"equimu: {printable(error)}", file=sys.stderr)
        if "equimu.processes" in sys.modules:  # else there are no others
            importlib.import_module("equimu.processes").exit_process(error.exit_code)
        sys.exit(error.exit_code)
    except Interrupted as stop:
        from equimu.processes import is_process_zero

        if is_process_zero():
            print(f"equimu: {printable(stop)}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        print("equimu: interrupted", file=sys.stderr)
        sys.exit(ExitCode.INTERRUPTED)
    except (MemoryError, RuntimeError) as error:  # JAX's own is a RuntimeError
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print("equimu: there is not enough memory for this; take a smaller model, batch or seq", file=sys.stderr)
        sys.exit(ExitCode.MISTAKE)
    except BrokenPipeError:
        # The reader, `head` for example, has what it wanted; the interpreter must not flush the rest to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # what is not a file of a run, a store or a report, all of which have words of their own
        from equimu.storage import one_line as one_line_of_storage

        print(f"equimu: {printable(one_line_of_storage(error))}", file=sys.stderr)
        sys.exit(ExitCode.MISTAKE)
    sys.exit(ExitCode.DONE)


def _parse(arguments: list[str]) -> Any:
    """The command that the arguments ask for, ready to be called."""
    if arguments[:1] == ["help"]:  # help, or help COMMAND
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        sys.exit(ExitCode.DONE)
    if arguments[0] == "--version":
        from equimu._version import __version__

        print(f"equimu {__version__}")
        sys.exit(ExitCode.DONE)
    name, *flags = arguments
    if name not in _COMMANDS:
        near = _FORMER.get(name) or nearest(name, _COMMANDS)
        meant = near if near in _FORMER.values() or near.startswith("did you mean") else show_instead(name) or near
        raise EquimuError(f"unknown command {name[:99]!r}: {meant}")
    entry = _COMMANDS[name]
    if entry.has_task:
        from equimu.cli._config_flags import with_task_flag

        flags = with_task_flag(flags)
    if not entry.has_numbers:  # but texts, which stay as they are
        return _flags(name, entry.load(), flags)
    flags = list(map(_without_power, flags))
    path, flags = _take_config_file(flags)
    if not entry.has_config:
        if path is not None:
            having = ", ".join(key for key, value in _COMMANDS.items() if value.has_config)
            raise EquimuError(f"{name} takes no --config; {having} do")
        return _flags(name, entry.load(), flags)
    from equimu.cli._config_flags import with_config_flags

    return _flags(name, *with_config_flags(entry.load(), path, flags))


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


def _take_config_file(flags: list[str]) -> tuple[str | None, list[str]]:
    """The value of --config, and the other flags."""
    for index, flag in enumerate(flags):
        if flag == "--config":
            if index + 1 == len(flags):
                raise EquimuError("--config needs a file after it")
            return flags[index + 1], flags[:index] + flags[index + 2 :]
        if flag.startswith("--config="):
            return flag.removeprefix("--config="), flags[:index] + flags[index + 1 :]
    return None, flags


def _flags(name: str, command: Any, flags: list[str]) -> Any:
    errors = io.StringIO()
    if {"-h", "--help"} & set(flags):
        flags = ["--help"]  # after a value, the parser would leave its argument out
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                command,
                prog=f"equimu {name}",
                description=_description(name),
                args=flags,
                config=(tyro.conf.FlagCreatePairsOff,),
                registry=REGISTRY,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise EquimuError(
            own_words(stop) or one_line(errors.getvalue(), name, has_config=_COMMANDS[name].has_config)
        ) from None


def _description(name: str) -> str:
    entry = _COMMANDS[name]
    examples = [f"  equimu {name} {example}".rstrip() for example in entry.examples]
    config = textwrap.wrap(_CONFIG, _COLUMNS, subsequent_indent="  ") if entry.has_config else []
    # Of lines that are not indented the parser makes one.
    return "\n".join([*textwrap.wrap(entry.help, _COLUMNS, subsequent_indent="  "), *examples, *config])


def _overview() -> str:
    longest = max(map(len, _COMMANDS))
    lines: list[str] = []
    for name, entry in _COMMANDS.items():
        lines += textwrap.wrap(f"  {name:{longest + 2}}{entry.help}", _COLUMNS, subsequent_indent=" " * (longest + 4))
    end = (
        "equimu help COMMAND tells its flags. All that train or plan also take them from --config FILE (JSON or TOML), or from "
        "a group of the paper: --config paper:lion."
    )
    return "\n".join(
        [
            "usage: equimu COMMAND [FLAGS]",
            "",
            "Hyperparameter transfer (μP) in JAX.",
            "",
            *(f"  {example}" for example in _EXAMPLES),
            "",
            *lines,
            "",
            *textwrap.wrap(end, _COLUMNS),
        ]
    )
