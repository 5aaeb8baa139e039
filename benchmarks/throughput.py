"""python -m benchmarks.throughput: how fast the parts of equimu are on this machine, in under three minutes.

python -m benchmarks.throughput                        # attention, on the machine at hand
python -m benchmarks.throughput --lengths 1024         # one length, in more rounds
python -m benchmarks.throughput --suite step optimizer
python -m benchmarks.throughput --json now.json --compare before.json --markdown table.md
"""

import dataclasses
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from collections.abc import Iterable
from typing import Any, Literal

import jax
import tyro
from rich.console import Console
from rich.progress import Progress

from benchmarks.suites.attention import LENGTHS
from equimu._errors import EquimuError

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Measures the throughput of equimu."""

    suite: tuple[Literal["attention", "step", "optimizer", "loader", "sweep", "checkpoint", "sample"], ...] = (
        "attention",
    )
    """what to measure"""
    lengths: tuple[int, ...] = LENGTHS
    """of the attention suite's sequences"""
    seconds: float = 160.0
    """how long the attention suite may take; a row says so where something is left out"""
    json: pathlib.Path | None = None
    """write the rows to this file"""
    markdown: pathlib.Path | None = None
    """write the table to this file"""
    compare: pathlib.Path | None = None
    """print what changed since the rows of this file (from --json) by more than the noise"""


def main(config: Config) -> None:
    """Runs the suites and prints the table.

    Raises:
        EquimuError: a length is not positive, or `--compare` is not what `--json` writes.
    """
    for seq in config.lengths:
        if seq < 1:
            raise EquimuError(f"--lengths has {seq}; a sequence has one position at least")
    before = None if config.compare is None else _rows_of(config.compare)
    console = Console(stderr=True)
    rows: list[Row] = []
    for suite in config.suite:
        rows += run(suite, config, console)
    measured = [row for row in rows if row.get("ms", 0) is not None]
    # Each suite measures something else, so each has a table of its own.
    tables = [f"## {suite}\n\n{table([row for row in rows if row['suite'] == suite])}" for suite in config.suite]
    text = "\n\n".join([machine(), f"`python -m benchmarks.throughput {' '.join(sys.argv[1:])}`", *tables])
    print(text)
    if before is not None:
        print("\n" + "\n".join(changes(before, measured) or ["Nothing changed beyond the noise."]))
    if config.json is not None:
        config.json.write_text(json.dumps({"machine": machine(), "rows": measured}, indent=1))
    if config.markdown is not None:
        config.markdown.write_text(text + "\n")


def run(suite: str, config: Config, console: Console) -> list[Row]:
    """The rows of one suite, the name of the suite and of the case in front."""
    module = importlib.import_module(f"benchmarks.suites.{suite}")
    if suite != "attention":  # one dictionary of figures
        return [{"suite": suite, **module.measure()}]
    rows: list[Row] = []
    with Progress(console=console) as progress:
        task = progress.add_task(suite, total=len(module.cases(config.lengths)))
        for row in module.measure(config.lengths, seconds=config.seconds):
            case = " ".join(str(value) for value in dataclasses.asdict(row["case"]).values())
            if not rows or rows[-1]["case"] != case:
                progress.advance(task)
            rows.append({"suite": suite, **row, "case": case})
    return rows


def machine() -> str:
    """What the figures hold for."""
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib"))
    devices = f"{jax.local_device_count()} × {jax.devices()[0].device_kind}"
    return f"{devices} on {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {versions}"


def table(rows: list[Row]) -> str:
    """Markdown, a column for each key that any row of a suite has."""
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "suite"]
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def changes(before: Iterable[Row], now: Iterable[Row]) -> list[str]:
    """A line for each row whose time changed by more than both spreads together, and by 5 % at least."""
    old = {_key(row): row for row in before}
    lines: list[str] = []
    for row in now:
        was = old.get(_key(row))
        if was is None or "ms" not in row:
            continue
        change = row["ms"] / was["ms"] - 1
        if abs(change) > max(0.05, row.get("spread", 0) + was.get("spread", 0)):
            lines.append(
                f"{' '.join(filter(None, _key(row)))}: {was['ms']:.3g} ms -> {row['ms']:.3g} ms ({change:+.0%})"
            )
    return lines


def _rows_of(file: pathlib.Path) -> list[Row]:
    """The rows that `--json` wrote to the file."""
    try:
        return json.loads(file.read_text())["rows"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EquimuError(
            f"--compare {file}: it is not a file that --json wrote ({type(error).__name__}: {error})"
        ) from error


def _key(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(name, "")) for name in ("suite", "case", "pass", "backend"))


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str("" if value is None else value)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except EquimuError as error:
        print(f"benchmarks.throughput: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
