"""Which search finds better numbers in as many trials: quasi-random points alone, or Optuna's sampler after some of them.

python -m benchmarks.samplers --seeds 3 --trials 40 --out runs/samplers

Each search is that of `examples/demo.toml`, with a sampler seed of its own. Compared are the loss of the winner over seeds
that the search did not see, and that of the same numbers at a larger width.
"""

import argparse
import dataclasses
import tomllib
from pathlib import Path

import numpy as np

from equimu.sweeps import RunPool
from equimu.tuning import TuneConfig, Tuned, tune, tune_config_from_dict

_DEMO = Path(__file__).parent.parent / "examples" / "demo.toml"


def main() -> None:
    """Prints a row per search, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--out", default="runs/samplers")
    given = parser.parse_args()
    fields = tomllib.loads(_DEMO.read_text())
    print(f"| sampler | seed | best trial | winner, fresh seeds | at width {given.width} |\n|---|---:|---:|---:|---:|")
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(given.seeds):
        for name in ("sobol", "tpe"):
            config = tune_config_from_dict({**fields, "trials": given.trials, "sampler": name, "sampler_seed": seed})
            row = _losses(config, given.width, given.out)
            found.setdefault(name, []).append(row)
            print(f"| {name} | {seed} | " + " | ".join(f"{loss:.4f}" for loss in row) + " |", flush=True)
    for name, rows in found.items():
        print(f"| {name} | mean | " + " | ".join(f"{loss:.4f}" for loss in np.mean(rows, axis=0)) + " |")


def _losses(config: TuneConfig, width: int, out: str) -> tuple[float, float, float]:
    tuned = tune(config, out=out)
    searched = [run.validation_loss for run in tuned.runs if run.seed == 0]
    return float(np.nanmin(searched)), tuned.loss, _wide(tuned, width, out)


def _wide(tuned: Tuned, width: int, out: str) -> float:
    large = tuned.carried(width=width)
    cells = [dataclasses.replace(large, seed=seed, on_nonfinite="record") for seed in (1, 2, 3)]
    runs = RunPool(large, out=out).train(cells)
    return float(np.mean([run.validation_loss for run in runs.values()]))


if __name__ == "__main__":
    main()
