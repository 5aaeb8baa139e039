"""python -m benchmarks.faults: what runs, checkpoints and token stores survive, tried at random.

python -m benchmarks.faults                                   # everything, as often as it is claimed (hours)
python -m benchmarks.faults --part corrupt --count 300 --seed 1
python -m benchmarks.faults --part kill stop --count 20 --json faults.json
"""

import dataclasses
import importlib
import json
import pathlib
import sys
import tempfile
import time
from typing import Literal

import tyro

from benchmarks.campaign._result import Result

Part = Literal["corrupt", "kill", "mesh", "stop", "disk", "malformed", "soak"]
# How often each is tried unless told otherwise; the soak's are minutes.
COUNTS: dict[str, int] = {"corrupt": 300, "kill": 200, "mesh": 12, "stop": 10, "disk": 5, "malformed": 60, "soak": 30}


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
    """write the results to this file"""


def main(config: Config) -> int:
    """Runs the parts and prints the table; returns how many lines of it failed."""
    results: list[Result] = []
    for part in config.part:
        begin = time.monotonic()
        count = COUNTS[part] if config.count is None else config.count
        with tempfile.TemporaryDirectory(dir=config.folder) as folder:
            module = importlib.import_module(f"benchmarks.campaign.{part}")
            found = module.run(count, config.seed, pathlib.Path(folder))
        results += found
        print(f"{part}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    print(table(results))
    for result in results:
        for failure in result.failures:
            print(f"FAILED {result.part} {result.what}: {failure}")
    if config.json is not None:
        config.json.write_text(json.dumps([dataclasses.asdict(result) for result in results], indent=1))
    return sum(bool(result.failures) for result in results)


def table(results: list[Result]) -> str:
    """Markdown."""
    lines = ["| part | what | N | outcome | failed |", "|---|---|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {r.part} | {r.what} | {r.count} | {r.outcome} | {len(r.failures)} |" for r in results)]
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)) != 0)
