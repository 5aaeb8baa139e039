"""python -m benchmarks.throughput: how fast the parts of equimu are on this machine, in under three minutes.

python -m benchmarks.throughput                        # attention, on the machine at hand
python -m benchmarks.throughput --lengths 1024         # one length: all head_dims, dtypes and groupings
python -m benchmarks.throughput --full                 # all lengths, without a limit of time
python -m benchmarks.throughput --suite step optimizer
python -m benchmarks.throughput --json now.json --compare before.json --markdown table.md --figure figure.png
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

from benchmarks._attention_rows import figure, headline, summaries, table_rows
from benchmarks.suites.attention import LENGTHS, grid, usual_cases
from benchmarks.suites.attention import measure as measure_attention
from equimu._errors import EquimuError
from equimu._terminal import print_rows, wrapped

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Measures the throughput of equimu."""

    suite: tuple[Literal["attention", "step", "optimizer", "loader", "sweep", "checkpoint", "sample"], ...] = (
        "attention",
    )
    """what to measure"""
    lengths: tuple[int, ...] = ()
    """of the attention suite's sequences, all cases of which are measured; by default some telling cases"""
    full: bool = False
    """measure all cases of all lengths, without a limit of time"""
    seconds: float = 140.0
    """how long the attention suite may take, about; each case is measured once at least"""
    json: pathlib.Path | None = None
    """write the rows to this file"""
    markdown: pathlib.Path | None = None
    """write the table to this file"""
    figure: pathlib.Path | None = None
    """draw attention over the length into this file, .png or .svg"""
    compare: pathlib.Path | None = None
    """print what changed since the rows of this file (from --json) by more than the noise"""


def main(config: Config) -> None:
    """Runs the suites and prints the tables.

    Raises:
        EquimuError: a length is not positive, `--compare` is not what `--json` writes, or there is no attention for a figure.
    """
    for seq in config.lengths:
        if seq < 1:
            raise EquimuError(f"--lengths has {seq}; a sequence has one position at least")
    if config.figure is not None and "attention" not in config.suite:
        raise EquimuError("--figure draws attention; add it to --suite")
    before = None if config.compare is None else _rows_of(config.compare)
    print(wrapped(machine()), flush=True)
    rows: list[Row] = []
    for suite in config.suite:
        found = run(suite, config)
        rows += found
        if suite == "attention":
            print(wrapped(headline(found)) + "\n")
            print_rows(*table_rows(found), text=(0, 1, 2), spare=(8, 4))
            print("\n".join(map(wrapped, summaries(found))))
        else:
            print_rows(
                (), [(f"  {name}", cell(value)) for name, value in found[0].items() if name != "suite"], title=suite
            )
    if before is not None:
        print("\n" + "\n".join(changes(before, rows) or ["Nothing changed beyond the noise."]))
    if config.json is not None:
        config.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    if config.markdown is not None:
        # Each suite measures something else, so each has a table of its own.
        tables = [f"## {suite}\n\n{table([row for row in rows if row['suite'] == suite])}" for suite in config.suite]
        command = f"`python -m benchmarks.throughput {' '.join(sys.argv[1:])}`"
        config.markdown.write_text("\n\n".join([machine(), command, *tables]) + "\n")
    if config.figure is not None:
        figure([row for row in rows if row["suite"] == "attention"], config.figure, machine())


def run(suite: str, config: Config) -> list[Row]:
    """The rows of one suite, the name of the suite and of the case in front."""
    if suite != "attention":  # one dictionary of figures
        return [{"suite": suite, **importlib.import_module(f"benchmarks.suites.{suite}").measure()}]
    cases = grid(config.lengths or LENGTHS) if config.lengths or config.full else usual_cases()
    rows: list[Row] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(suite, total=len(cases))
        for row in measure_attention(cases, seconds=None if config.full else config.seconds):
            case = " ".join(str(value) for value in dataclasses.asdict(row["case"]).values())
            progress.update(task, completed=cases.index(row["case"]))
            rows.append({"suite": suite, **row, "case": case})
        progress.update(task, completed=len(cases))
    return rows


def machine() -> str:
    """What the figures hold for."""
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib"))
    devices = f"{jax.local_device_count()} × {jax.devices()[0].device_kind}"
    return f"{devices} on {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {versions}"


def table(rows: list[Row]) -> str:
    """Markdown, a column for each key that any row of a suite has."""
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "suite"]
    lines = [columns, ["---"] * len(columns), *([cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """A value in a table."""
    return f"{value:.3g}" if isinstance(value, float) else str("" if value is None else value)


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


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except EquimuError as error:
        print(f"benchmarks.throughput: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
