"""python -m benchmarks.faults: what runs, checkpoints and token stores survive, tried at random.

python -m benchmarks.faults                                   # everything, as often as it is claimed (hours)
python -m benchmarks.faults --part corrupt --count 300 --seed 1
python -m benchmarks.faults --part kill stop --json faults.json                       # part after part into one file,
python -m benchmarks.faults --part soak --json faults.json --markdown results.md      # and a page of all
"""

import dataclasses
import importlib
import pathlib
import sys
import tempfile
import time
from typing import Literal

import tyro

from benchmarks.campaign._page import Record, kept, page, table

Part = Literal["kill", "start", "corrupt", "rows", "strangers", "mesh", "stop", "disk", "malformed", "cost", "soak"]
# How often each is tried unless told otherwise; of the cost it is rounds, of the soak minutes.
COUNTS: dict[str, int] = {
    "kill": 200,
    "start": 120,
    "corrupt": 300,
    "rows": 320,
    "strangers": 100,
    "mesh": 12,
    "stop": 10,
    "disk": 5,
    "malformed": 700,
    "cost": 5,
    "soak": 30,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Tries what runs, checkpoints and token stores survive."""

    part: tuple[Part, ...] = tuple(COUNTS)  # pyright: ignore[reportAssignmentType]
    """what to try"""
    count: int | None = None
    """how often; of the soak, for how many minutes; None for as often as is claimed"""
    seed: int = 0
    """of all that is random"""
    folder: pathlib.Path | None = None
    """where to work; None for a temporary folder"""
    json: pathlib.Path | None = None
    """keep the results in this file, beside those of other parts that are there"""
    markdown: pathlib.Path | None = None
    """write a page of the results, and of those that are kept, to this file"""


def status(config: Config) -> int:
    """Runs the parts and prints the table; returns the exit code: 0 where all of it holds, else 1."""
    command = "python -m benchmarks.faults"
    records: list[Record] = []
    for part in config.part:
        begin = time.monotonic()
        count = COUNTS[part] if config.count is None else config.count
        if config.folder is not None:
            config.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=config.folder) as folder:
            module = importlib.import_module(f"benchmarks.campaign.{part}")
            results = tuple(module.run(count, config.seed, pathlib.Path(folder)))
        minutes = (time.monotonic() - begin) / 60
        message = f"{command} --part {part} --count {count} --seed {config.seed}"
        records.append(Record(part=part, command=message, minutes=minutes, results=results))
        everything = kept(config.json, records)
        if config.markdown is not None:
            config.markdown.write_text(page(everything))
        print(f"{part}: {minutes:.1f} min", file=sys.stderr, flush=True)
    found = [result for record in records for result in record.results]
    print(table(found))
    return int(any(result.failures for result in found))


if __name__ == "__main__":
    sys.exit(status(tyro.cli(Config, description=__doc__)))
