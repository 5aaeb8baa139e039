"""python -m benchmarks.joint_law: does a law over width, length and batch predict the best rate beyond them?

python -m benchmarks.joint_law                      # 200 synthetic grids of each kind
python -m benchmarks.joint_law --write              # and write benchmarks/results/<date>-joint-law.md
python -m benchmarks.joint_law --real               # and 60 real runs, and their truth at 4 × width and 4 × length
python -m benchmarks.joint_law --count 0 --real --quick   # a toy of that: does it run at all?

Each synthetic grid has 60 cells for each seed: widths 32, 64 and 128, lengths 250 and 1000, batches of 8 and 32 rows, five
rates. Its law is known; the target is width 512, length 4000, batch 32. Intervals are of 90 %. "scatter": single optima lie
0.15 octaves (standard deviation) off the law, that at the target too. "forms differ": each valley has a form of its own.
"""

import dataclasses
import datetime
import os
import sys
import time
from pathlib import Path

import tyro

from benchmarks.joint_law._grids import KINDS, judge
from benchmarks.joint_law._real import measure
from benchmarks.joint_law._summary import summary
from equimu._errors import EquimuError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Judges joint laws."""

    count: int = 200
    """synthetic grids of each kind"""
    seed: int = 2028
    """of the grids; the constants of the law were chosen on other ones"""
    real: bool = False
    """train the real grid, too"""
    quick: bool = False
    """cut the real grid down to a toy"""
    out: Path = Path("runs/joint-law")
    """where the real runs are kept"""
    write: bool = False
    """write what is printed to benchmarks/results, too"""


def main(config: Config) -> None:
    """Prints a table, and the real measurement."""
    started = time.perf_counter()
    texts: list[str] = []
    if config.count:
        texts.append(summary({kind: [judge(kind, n, config.seed) for n in range(config.count)] for kind in KINDS}))
    if config.real:
        texts.append(measure(config.out, config.quick))
    options = f" --count {config.count} --seed {config.seed}{' --real' * config.real}{' --quick' * config.quick}"
    seconds = time.perf_counter() - started
    text = f"`python -m benchmarks.joint_law{options}`: {seconds:.0f} seconds on {os.cpu_count()} cores\n\n"
    text += "\n\n".join(texts) + "\n"
    print(text)
    if config.write:
        page = Path(__file__).parents[1] / "results" / f"{datetime.date.today()}-joint-law.md"
        about = (__doc__ or "").split("\n\n")[2].rstrip()
        page.write_text(f"# A law over width, length and batch\n\n{about}\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except EquimuError as error:
        print(f"benchmarks.joint_law: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
