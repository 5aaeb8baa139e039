"""python -m benchmarks.verdicts: how often a report's verdict is wrong, and how often its intervals hold the truth.

python -m benchmarks.verdicts                            # 1000 synthetic sweeps of each kind
python -m benchmarks.verdicts --count 200 --kind edge divergence
python -m benchmarks.verdicts --write                    # and write benchmarks/results/<date>-verdicts.md

Half of the sweeps have a true slope of 0, the others of ±0.3 octaves per doubling. A false transfer: "transfers", or a drift
called harmless, where the slope is not 0 and the carried rate costs more than the noise of one run. A false drift: "drifts"
where the slope is 0. Intervals are of 90 %.
"""

import concurrent.futures
import dataclasses
import datetime
import os
import sys
import time
from pathlib import Path

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")  # as many sweeps side by side as there are cores, each on one

import tyro  # noqa: E402

from benchmarks.verdicts._judge import Outcome, judge, summary  # noqa: E402
from benchmarks.verdicts._sweeps import KINDS  # noqa: E402
from equimu._errors import EquimuError  # noqa: E402

_CHUNK = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Judges reports of synthetic sweeps."""

    count: int = 1000
    """sweeps of each kind"""
    kind: tuple[str, ...] = KINDS
    """of these kinds"""
    seed: int = 2027
    """of the sweeps; the report's constants were chosen on other ones"""
    write: bool = False
    """write the table to benchmarks/results too"""

    def __post_init__(self):
        unknown = [kind for kind in self.kind if kind not in KINDS]
        if unknown:
            raise EquimuError(f"there is no kind {unknown[0]!r} of sweep; there are {', '.join(KINDS)}")
        if self.count < 4:
            raise EquimuError(f"count must be at least 4, got {self.count}")


def main(config: Config) -> None:
    """Prints the table."""
    started = time.perf_counter()
    with concurrent.futures.ProcessPoolExecutor() as pool:
        jobs = {
            kind: [
                pool.submit(_chunk, kind, range(first, min(first + _CHUNK, config.count)), config.seed)
                for first in range(0, config.count, _CHUNK)
            ]
            for kind in config.kind
        }
        rows = [summary(kind, [outcome for part in parts for outcome in part.result()]) for kind, parts in jobs.items()]
    lines = [tuple(rows[0]), ("---", *["---:"] * (len(rows[0]) - 1)), *(tuple(row.values()) for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    options = "" if config == Config(write=config.write) else f" --count {config.count} --seed {config.seed}"
    seconds = time.perf_counter() - started
    text = f"`python -m benchmarks.verdicts{options}`: {seconds:.0f} seconds on {os.cpu_count()} cores\n\n{table}\n"
    print(text)
    if config.write:
        page = Path(__file__).parents[1] / "results" / f"{datetime.date.today()}-verdicts.md"
        about = (__doc__ or "").split("\n\n")[2]
        page.write_text(f"# Verdicts on synthetic sweeps\n\n{about}\n\n{text}", encoding="utf-8")


def _chunk(kind: str, numbers: range, seed: int) -> list[Outcome]:
    return [judge(kind, number, seed) for number in numbers]


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except EquimuError as error:
        print(f"benchmarks.verdicts: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
