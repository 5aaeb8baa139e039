"""What is lost by carrying: models tuned small, and the rate of the very same numbers tuned again at the large size.

python -m benchmarks.carried                  # all
python -m benchmarks.carried gru --out runs/carried

Each row says by how much the carried loss is above the best one on the grid of rates at the large size, seed by seed with half
of a 90 % interval; by how many octaves the fitted best rate there is above the carried one; and what the search cost, as a
share of the runs of that grid, and of as many runs as the search made.
"""

import argparse
import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import equimu as mu
from equimu._interval import mean_half_width
from equimu.tuning import Comparison

_EXAMPLES = Path(__file__).parent.parent / "examples"
_SEARCH = {"learning_rate": (2**-9, 2**-3), "input.multiplier": (2**-3, 2**3), "output.multiplier": (2**-3, 2**3)}


def example(name: str, task: str) -> Any:
    """A task of a file in `examples/`, as it is by default."""
    spec = importlib.util.spec_from_file_location(name, _EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, task)()


@dataclasses.dataclass(frozen=True)
class Case:
    """A small run, and the size that it is carried to."""

    example: tuple[str, str] | None
    small: Mapping[str, int]
    large: Mapping[str, int]
    table: str
    steps: int


CASES = {
    "gru": Case(("gru", "NextByte"), {"width": 32}, {"width": 256}, "mup", 150),
    "vision": Case(("vision_transformer", "Shapes"), {"width": 32}, {"width": 256}, "mup", 80),
    "depth": Case(None, {"width": 64, "depth": 2}, {"depth": 12}, "completep", 150),
}


def main() -> None:
    """Prints a row per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="all by default")
    parser.add_argument("--out", default="runs/carried")
    given = parser.parse_args()
    print("| case | carried | retuned there | difference | octaves | cost, of the grid | of as many runs |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in given.cases or CASES:
        print(_row(name, _compared(CASES[name], f"{given.out}/{name}")), flush=True)


def _compared(case: Case, out: str) -> Comparison:
    text = mu.LanguageModel(model=mu.tasks.ModelConfig(head_dim=32, unroll=2), text=mu.tasks.TextConfig(rows=8, seq=64))
    run = mu.RunConfig(
        task=text if case.example is None else example(*case.example),
        size=case.small,
        base=case.small,
        parameterization=case.table,
        steps=case.steps,
    )
    config = mu.TuneConfig(run=run, search=_SEARCH, trials=40)
    at = {name: (value,) for name, value in case.large.items()}
    return mu.compare(config, at=at, against=None, rates=mu.octaves(-7, -3), out=out)


def _row(name: str, found: Comparison) -> str:
    mine, retuned = found.carried[-1], found.retuned[-1]
    difference = np.array(mine.losses) - np.array(retuned.losses)
    optimum = found.report.panels[0].fit.optima[-1]
    octaves = "at the edge of the grid"
    if optimum.point is not None:
        octaves = f"{optimum.point - np.log2(mine.learning_rate):+.2f} ± {optimum.plus_minus or np.nan:.2f}"
    small = found.carried[0].flops / mine.flops
    cells = [
        name,
        f"{mine.loss:.4f}",
        f"{retuned.loss:.4f}",
        f"{np.mean(difference):+.4f} ± {mean_half_width(difference):.4f}",
        octaves,
        f"{found.share:.1%}",
        f"{small:.1%}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
