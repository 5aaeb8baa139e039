"""What one process saves: a sweep of 5 learning rates × 3 seeds at one width against 15 processes of `equimu train`.

python -m benchmarks.suites.sweep
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXPONENTS, SEEDS = (-8, -7, -6, -5, -4), (0, 1, 2)
WIDTH, STEPS = 64, 100


def measure() -> dict[str, float]:
    """Times both, the sweep first.

    Returns:
        `sweep` and `processes`, seconds; `ratio`; `same`, 1 if both found the same losses to the bit.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, env = Path(folder), {**os.environ, "EQUIMU_CACHE": folder + "/cache"}

        def call(*arguments: str) -> float:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "equimu", *arguments], env=env, check=True, capture_output=True)
            return time.perf_counter() - started

        call("data", folder + "/store")
        shared = ("--text.store", folder + "/store", "--steps", str(STEPS))
        sweep = call(
            *("sweep", "--out", str(root / "sweep"), "--panels", "mup", "--over.width", str(WIDTH)),
            *("--base.width", "32", "--seeds", *map(str, SEEDS)),
            *("--fit.learning-rate", *(f"2**{exponent}" for exponent in EXPONENTS)),
            *(f"--run.{flag[2:]}" if flag.startswith("--") else flag for flag in shared),
        )
        processes = sum(
            call(
                *(
                    "train",
                    "--out",
                    str(root / "train"),
                    "--size.width",
                    str(WIDTH),
                    "--base.width",
                    "32",
                    # As the cells of a sweep have it: it is a part of what a run is.
                    "--on-nonfinite",
                    "record",
                    "--seed",
                    str(seed),
                ),
                *("--optimizer.learning-rate", str(2.0**exponent), *shared),
            )
            for seed in SEEDS
            for exponent in EXPONENTS
        )
        same = _losses(root / "sweep") == _losses(root / "train")
    return {"sweep": sweep, "processes": processes, "ratio": sweep / processes, "same": float(same)}


def _losses(root: Path) -> dict[str, str]:
    """The last row of each run's metrics, the validation loss, by the run's name."""
    return {path.parent.name: path.read_text().splitlines()[-1] for path in root.glob("*/metrics.jsonl")}


if __name__ == "__main__":
    print(measure())
