"""The campaign's results, kept from part to part, and as a page."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.campaign._result import Result

_PACKAGES = ("equimu", "jax", "jaxlib", "tensorstore", "grain", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A part that was tried.

    - `part`: its name.
    - `command`: that tried it.
    - `minutes`: that it took.
    - `results`: its lines of the table.
    """

    part: str
    command: str
    minutes: float
    results: tuple[Result, ...]


def kept(path: Path | None, records: Iterable[Record]) -> list[Record]:
    """These records, and those of other parts in a file, which then holds all; None for no file."""
    by_part: dict[str, Record] = {}
    if path is not None and path.exists():
        by_part = {record["part"]: _record(record) for record in json.loads(path.read_text())}
    by_part |= {record.part: record for record in records}
    if path is not None:
        path.write_text(json.dumps([dataclasses.asdict(record) for record in by_part.values()], indent=1))
    return list(by_part.values())


def page(records: Iterable[Record]) -> str:
    """Markdown."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    records = list(records)
    commands = [f"- `{record.command}` ({record.minutes:.0f} minutes)" for record in records]
    return "\n".join(
        [
            f"# Faults, {datetime.date.today()}",
            "",
            f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {versions}.",
            "",
            table(result for record in records for result in record.results),
            "",
            "Measured by",
            "",
            *commands,
            "",
        ]
    )


def table(results: Iterable[Result]) -> str:
    """Markdown, with what failed below."""
    results = list(results)
    lines = ["| part | what | N | outcome | failed |", "|---|---|---|---|---|"]
    lines += [f"| {r.part} | {r.what} | {r.count} | {r.outcome} | {len(r.failures)} |" for r in results]
    failed = [f"- {r.part}, {r.what}: {' '.join(failure.split())}" for r in results for failure in r.failures]
    return "\n".join([*lines, *(["", "Failed:", "", *failed] if failed else [])])


def _record(stored: dict[str, Any]) -> Record:
    results = tuple(Result(**{**each, "failures": tuple(each["failures"])}) for each in stored["results"])
    return Record(**{**stored, "results": results})
