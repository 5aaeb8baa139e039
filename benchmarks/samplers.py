"""Which search finds better numbers in as many trials: quasi-random points alone, or Optuna's sampler after some of them.

python -m benchmarks.samplers --seeds 3 --trials 40 --out runs/samplers

Each search is that of `examples/demo.toml`, of all trials, with a sampler seed of its own. Compared are the loss of the winner
over seeds that the search did not see, and that of the same numbers at width 128.
"""

import argparse
import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import qmc

from equimu.sweeps import RunPool
from equimu.tuning import TuneConfig, Tuned, _runner, tune, tune_config_from_dict

_DEMO = Path(__file__).parent.parent / "examples" / "demo.toml"


class QuasiRandom:
    """A sampler that does not look at losses."""

    def __init__(self, dimensions: int, first: Any, seed: int):
        self._points = [*map(np.array, first), *qmc.Sobol(dimensions, rng=seed).random(256)]
        self._asked = 0

    def ask(self, count: int) -> list[tuple[int, np.ndarray]]:
        """The next points, each with its number."""
        start = self._asked
        self._asked += count
        return list(enumerate(self._points[start : self._asked], start))

    def tell(self, number: int, loss: float) -> None:
        """Nothing comes of it."""


SAMPLERS: dict[str, Any] = {"quasi-random": QuasiRandom, "Optuna's TPE": _runner.Sampler}


def main() -> None:
    """Prints a row per search, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--out", default="runs/samplers")
    given = parser.parse_args()
    fields = tomllib.loads(_DEMO.read_text())
    _runner._LEAST_PER_NUMBER = 10**6  # no search stops early
    print("| sampler | seed | best trial | winner, fresh seeds | at width 128 |\n|---|---:|---:|---:|---:|")
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(given.seeds):
        config = tune_config_from_dict({**fields, "trials": given.trials, "sampler_seed": seed})
        for name, sampler in SAMPLERS.items():
            _runner.Sampler = sampler
            row = _losses(config, given.out)
            found.setdefault(name, []).append(row)
            print(f"| {name} | {seed} | " + " | ".join(f"{loss:.4f}" for loss in row) + " |", flush=True)
    for name, rows in found.items():
        print(f"| {name} | mean | " + " | ".join(f"{loss:.4f}" for loss in np.mean(rows, axis=0)) + " |")


def _losses(config: TuneConfig, out: str) -> tuple[float, float, float]:
    tuned = tune(config, out=out)
    searched = [run.validation_loss for run in tuned.runs if run.seed == 0]
    return float(np.nanmin(searched)), tuned.loss, _wide(tuned, out)


def _wide(tuned: Tuned, out: str) -> float:
    large = tuned.carried(width=128)
    cells = [dataclasses.replace(large, seed=seed, on_nonfinite="record") for seed in (1, 2, 3)]
    runs = RunPool(large, out=out).train(cells)
    return float(np.mean([run.validation_loss for run in runs.values()]))


if __name__ == "__main__":
    main()
