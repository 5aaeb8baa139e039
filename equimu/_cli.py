"""The command line: flags to configs, results to text. A mistake is one line on stderr and exit code 2."""

import abc
import contextlib
import dataclasses
import io
import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jax
import tyro

from equimu._errors import EquimuError, ExitCode, nearest, printable
from equimu._folder import expanded, local_folder, read_regular
from equimu._json import loads
from equimu._progress import progress
from equimu._storage import local_path, one_line
from equimu._values import Count, Part, PathLike, Positive, Seconds, Size, check_fields, path_text
from equimu.data import read_corpus, tokenizer_from_name, write_store
from equimu.diagnostics import OffError, check_run, print_check, write_check
from equimu.parameterization import table, to_json
from equimu.plan import (
    Candidate,
    NotFittingError,
    advice,
    candidates_to_json,
    plan,
    plan_to_json,
    print_candidates,
    print_plan,
    sweep_plans,
)
from equimu.report import Cell, cells_of, print_table, read_cells, report, write_report
from equimu.sweep import SweepConfig, cores, parameterization_name, sweep
from equimu.train import (
    DataConfig,
    Interrupted,
    Run,
    RunConfig,
    RuntimeConfig,
    build_parameterization,
    build_tree,
    config_from_dict,
    is_first,
    leave,
    train,
)

_MOST_CONFIG_BYTES = 2**26
_Flat = tyro.conf.arg(name="")
_Place = tyro.conf.Positional[PathLike]


class _Command(abc.ABC):
    """A command as its flags, checked."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abc.abstractmethod
    def __call__(self) -> None:
        """Runs it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Show(_Command):
    """Print the rule table of a config: how each array is drawn, multiplied and trained."""

    config: Annotated[RunConfig, _Flat] = RunConfig()
    format: Annotated[str, tyro.conf.arg(metavar="{text,markdown,json}")] = "text"

    def __call__(self) -> None:
        """Prints."""
        if self.format not in ("text", "markdown", "json"):
            raise EquimuError(
                f"format {self.format!r} is unknown: {nearest(self.format, ('text', 'markdown', 'json'))}"
            )
        tree = build_tree(self.config, tokenizer_from_name(self.config.data.tokenizer).vocab_size)
        if self.format == "json":
            print(to_json(tree))
            return
        rules, optimizer = self.config.parameterization, self.config.optimizer
        name = build_parameterization(rules, optimizer).name
        print(f"{name} with {optimizer.name}, width {self.config.model.width} over base {rules.base_width}\n")
        print(table(tree, markdown=self.format == "markdown"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(_Command):
    """Train one model. A run that was interrupted goes on; one that was done before is not done again."""

    config: Annotated[RunConfig, _Flat] = RunConfig()
    out: PathLike = "runs"
    """Root of the run folders."""
    runtime: RuntimeConfig = RuntimeConfig()

    def __call__(self) -> None:
        """Trains, and prints the loss and the folder."""
        with progress("training", self.config.steps) as bar:
            run = train(
                self.config,
                out=self.out,
                runtime=self.runtime,
                on_row=lambda row: bar.update(row["step"], _row(row)),
            )
        if is_first():
            print(f"validation {_loss(run)}")
            print(run.folder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(_Command):
    """Sweep learning rates over widths and parameterizations, and report. Interrupted, it goes on where it was."""

    config: Annotated[SweepConfig, _Flat] = SweepConfig()
    out: PathLike = "runs/sweep"
    """Root of the run folders; the report is written there too."""
    workers: Size | None = None
    """Runs trained at the same time; by default one for each core on a CPU, 1 on an accelerator."""
    runtime: RuntimeConfig = RuntimeConfig()

    def __call__(self) -> None:
        """Trains what is not done yet, and writes and prints the report."""
        if self.workers is None or self.workers >= cores():
            # As many steps side by side as there are cores, each on one. XLA reads this when its backend starts, later.
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
        with progress("sweeping", 1) as bar:
            runs = sweep(
                self.config,
                out=self.out,
                workers=self.workers,
                runtime=self.runtime,
                on_cell=lambda run, done, total: bar.update(done, _cell(run), total),
            )
        _report(cells_of(runs), self.out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(_Command):
    """Report on the finished runs below a folder: table, figure and verdict."""

    runs: _Place
    """Root of the run folders."""
    out: PathLike | None = None
    """Folder for the report; the root itself by default."""

    def __call__(self) -> None:
        """Writes and prints the report."""
        out = self.runs if self.out is None else self.out
        local_folder(out, "--out")
        _report(read_cells(self.runs), out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(_Command):
    """Make a token store from text, for --data.store."""

    store: _Place
    """Folder or URL of the store."""
    corpus: PathLike = "stdlib"
    """"stdlib", or a file, folder or glob of text."""
    tokenizer: PathLike = "bytes"
    """"bytes", or the path of a Hugging Face tokenizers JSON file."""
    validation_share: Part = 0.05
    """Share of the documents held out."""
    dtype: str | None = None
    """uint8, uint16 or uint32; the smallest that holds the vocabulary by default."""

    def __call__(self) -> None:
        """Writes the store and prints what it holds."""
        made = write_store(
            self.store,
            read_corpus(self.corpus),
            tokenizer_from_name(self.tokenizer),
            validation=self.validation_share,
            dtype=self.dtype,
        )
        for split, count in made.info.tokens.items():
            print(f"{split}: {count} tokens in {made.info.documents[split]} documents")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(_Command):
    """Tell whether a run fits a machine and what its step takes there, by compiling it. Exits with 1 if it does not fit."""

    topology: tyro.conf.Positional[str] = ""
    """The machine: v3:16x8, v4:4x4x8, v5e:16x16, v5p:4x4x8, v6e:16x16 or another size, or cpu:8."""
    config: Annotated[RunConfig, _Flat] = RunConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    """Its data, fsdp and tensor are the mesh; fsdp takes all devices where all three are 1."""
    vocab_size: Size | None = None
    """Of the model; by default that of the tokenizer."""
    sweep: Size | None = None
    """Instead, try all meshes that divide the run, and compile so many of the best."""
    sweep_rows: tuple[Size, ...] = ()
    """Sizes of a batch that the sweep tries; --data.rows by default."""
    sweep_accumulate: tuple[Count, ...] = ()
    """Numbers of parts that the sweep tries to work a batch off in; 1, 2, 4, 8 and 16 by default."""
    seconds: Seconds = 600.0
    """After which compiling is given up."""
    format: Annotated[str, tyro.conf.arg(metavar="{text,json}")] = "text"

    def __call__(self) -> None:
        """Compiles and prints."""
        if self.format not in ("text", "json"):
            raise EquimuError(f"format {self.format!r} is unknown: {nearest(self.format, ('text', 'json'))}")
        text = self.format == "text"
        if self.sweep is not None:
            found = self._sweep(self.sweep)
            print_candidates(found) if text else print(candidates_to_json(found))
            if not found:
                raise NotFittingError(
                    f"no mesh that was tried fits {self.topology}; take more devices or a smaller model"
                )
            return
        made = plan(
            self.config,
            self.topology,
            data=self.runtime.data,
            fsdp=self.runtime.fsdp,
            tensor=self.runtime.tensor,
            vocab_size=self.vocab_size,
            seconds=self.seconds,
        )
        print_plan(made) if text else print(plan_to_json(made))
        if not made.fits:
            raise NotFittingError(advice(made))

    def _sweep(self, compiled: int) -> Sequence[Candidate]:
        with progress("planning", compiled) as bar:
            return sweep_plans(
                self.config,
                self.topology,
                rows=self.sweep_rows,
                accumulate=self.sweep_accumulate,
                vocab_size=self.vocab_size,
                compiled=compiled,
                seconds=self.seconds,
                on_plan=lambda made, done, total: bar.update(done, f"mesh {made.mesh}", total),
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordCheck(_Command):
    """Tell whether a config's model behaves, as it grows, as its parameterization says. Exits with 1 if something is off."""

    config: Annotated[RunConfig, _Flat] = RunConfig()
    """Its width (or depth), learning rate, schedule and steps are not used."""
    widths: tuple[Size, ...] = (64, 128, 256)
    """Values of d_model, multiples of --model.head-dim."""
    depths: tuple[Size, ...] = ()
    """Values of n_layer to check instead of widths, at --model.width."""
    heads: Size | None = None
    """Number of heads at every width, so that head_dim grows; by default --model.head-dim stays."""
    learning_rate: Positive = 2**-9
    """So small that a few steps are far from the end of training."""
    check_steps: Count = 3
    """Updates."""
    seeds: Count = 6
    """How many initial weights; the intervals come from their spread."""
    out: PathLike = "runs/coord-check"
    """Folder for the table, the figure and the data."""

    def __call__(self) -> None:
        """Trains, prints, writes."""
        if self.depths and self.widths != CoordCheck.widths:
            raise EquimuError(
                "a coordinate check is over widths or over depths; with --depths, the width is --model.width"
            )
        local_folder(self.out, "--out")
        sizes = self.depths or self.widths
        with progress("checking", len(sizes)) as bar:
            check = check_run(
                self.config,
                widths=self.widths,
                depths=self.depths,
                heads=self.heads,
                learning_rate=self.learning_rate,
                steps=self.check_steps,
                seeds=self.seeds,
                on_size=lambda done, size: bar.update(done, f"{'depth' if self.depths else 'width'} {size}"),
            )
        print_check(check)
        for path in write_check(check, self.out):
            print(path)
        if not check.passed:
            raise OffError(check.verdict)


_COMMANDS: dict[str, type] = {
    "show": Show,
    "train": Train,
    "sweep": Sweep,
    "report": Report,
    "data": Data,
    "plan": Plan,
    "coord-check": CoordCheck,
}
# The configs that `--config FILE` fills.
_CONFIGS: dict[str, type] = {
    "show": RunConfig,
    "train": RunConfig,
    "sweep": SweepConfig,
    "plan": RunConfig,
    "coord-check": RunConfig,
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The program `equimu`. Exits with an `ExitCode`, and one line on stderr where it is not 0."""
    try:
        _parse(list(sys.argv[1:] if argv is None else argv))()
        sys.stdout.flush()
    except EquimuError as error:
        print(f"equimu: {printable(error)}", file=sys.stderr)
        leave(error.exit_code)
        sys.exit(error.exit_code)
    except Interrupted as stop:
        if is_first():
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
    except OSError as error:  # what is no file of a run, a store or a report, all of which have words of their own
        print(f"equimu: {printable(one_line(error))}", file=sys.stderr)
        sys.exit(ExitCode.MISTAKE)
    sys.exit(ExitCode.DONE)


def _parse(arguments: list[str]) -> Any:
    """The command that the arguments ask for, ready to be called."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        sys.exit(ExitCode.DONE)
    name, *flags = arguments
    if name not in _COMMANDS:
        raise EquimuError(f"unknown command {name!r}: {nearest(name, _COMMANDS)}")
    command = _COMMANDS[name]
    path, flags = _take_config_file(flags)
    default: Any = tyro.MISSING_NONPROP
    if path is not None:
        if name not in _CONFIGS:
            raise EquimuError(f"{name} takes no --config; {', '.join(_CONFIGS)} do")
        config = config_from_dict(_CONFIGS[name], _read_config_file(path))
        _refuse_address(config.run.data if isinstance(config, SweepConfig) else config.data, path, flags)
        default = command(config=config)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                command,
                prog=f"equimu {name}",
                args=flags,
                default=default,
                config=(tyro.conf.FlagConversionOff,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise EquimuError(_own_words(stop) or _one_line(errors.getvalue())) from None


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


def _take_config_file(flags: list[str]) -> tuple[Path | None, list[str]]:
    """The value of --config, and the other flags."""
    for index, flag in enumerate(flags):
        if flag == "--config":
            if index + 1 == len(flags):
                raise EquimuError("--config needs a file behind it")
            return _config_path(flags[index + 1]), flags[:index] + flags[index + 2 :]
        if flag.startswith("--config="):
            return _config_path(flag.removeprefix("--config=")), flags[:index] + flags[index + 1 :]
    return None, flags


def _config_path(text: str) -> Path:
    return expanded(path_text("--config", text), "--config")


def _read_config_file(path: Path) -> Mapping[str, Any]:
    try:
        text = read_regular(path, _MOST_CONFIG_BYTES).decode()
        values = tomllib.loads(text) if path.suffix == ".toml" else loads(text)
    except OSError as error:
        raise EquimuError(f"cannot read the config {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON (or TOML in a .toml file)"
        raise EquimuError(f"the config {path} is no {kind}: {error}") from None
    if not isinstance(values, dict):
        raise EquimuError(f"the config {path} must be an object of keys and values")
    # The config.json of a run folder holds more than the config.
    return values["config"] if {"config", "data"} <= set(values) and isinstance(values["data"], str) else values


def _refuse_address(data: DataConfig, path: Path, flags: Sequence[str]) -> None:
    """A config file may be anyone's: what it names is on this machine, or the user names it too."""
    store = data.store
    if store is None or local_path(store) is not None or any("data.store" in flag for flag in flags):
        return
    raise EquimuError(
        f"the config {path} has data.store={store!r}, which is not on this machine; give --data.store, too"
    )


def _own_words(stop: BaseException) -> str | None:
    """What a config said, of which tyro made an exit; None where tyro itself has something to say."""
    behind = stop
    while behind is not None:
        if isinstance(behind, EquimuError):
            return str(behind)
        behind = behind.__cause__ or behind.__context__
    return None


def _one_line(message: str) -> str:
    """tyro's boxed message as one line: what is wrong and, where it knows, the nearest flag."""
    paragraphs: list[list[str]] = [[]]
    for line in message.splitlines():
        text = line.strip("│╭╮╰╯ ").strip()
        if re.fullmatch(r"[─\s]*", text) or line.startswith("╭"):
            paragraphs.append([])
        else:
            paragraphs[-1].append(text)
    told = [" ".join(paragraph) for paragraph in paragraphs if paragraph]
    near = re.search(r"Perhaps you meant.*?(--[\w.-]+)", " ".join(told))
    first = told[0] if told else "these flags make no sense"
    return first.rstrip(".") + (f"; did you mean {near.group(1)}?" if near else "; --help tells the flags")


def _row(row: Mapping[str, Any]) -> str:
    return f"loss {row['loss']:.4f}  {row['tokens_per_second']:.0f} tokens/s" if "loss" in row else ""


def _loss(run: Run) -> str:
    return "diverged" if run.status == "diverged" else f"loss {run.validation_loss:.4f}"


def _cell(run: Run) -> str:
    config = run.config
    name, rate = parameterization_name(config.parameterization), config.optimizer.learning_rate
    size = f"width {config.model.width} depth {config.model.n_layer}"
    return f"{name} {size} learning rate {rate:.3g} seed {config.seed}: {_loss(run)}"


def _report(cells: list[Cell], folder: str) -> None:
    made = report(cells)
    print_table(made)
    for path in write_report(made, folder):
        print(path)
