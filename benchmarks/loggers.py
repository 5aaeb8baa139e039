"""What loggers cost: `python -m benchmarks.loggers`.

A small run is trained for the time of its steps and for its rows. Then each logger that is installed is sent such rows, at the
pace at which the run writes them. Two costs of a row: what the loop waits for, and what the process computes for it in all
threads, on cores that a step on a GPU or TPU leaves free. As shares of the `log_every` steps that a row stands for.

Services are not connected to: W&B is offline, MLflow and Trackio have files of their own in a temporary folder.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimu import EquimuError, LanguageModel, train
from equimu.runs import LoggerFeed, Run, RunConfig, logger_names


def measured_run(out: Path, width: int, steps: int) -> tuple[Run, float]:
    """A run, and the seconds of one of its steps: the least between two rows, over the steps between them."""
    times: list[tuple[int, float]] = []
    run = train(
        LanguageModel(),
        {"width": width},
        steps=steps,
        validation_batches=1,
        out=out,
        on_row=lambda row: times.append((row["step"], time.perf_counter())),
    )
    seconds = [(b - a) / (n - m) for (m, a), (n, b) in zip(times[1:-2], times[2:-1], strict=True) if n > m]
    return run, min(seconds)


def cost(name: str, rows: Sequence[Mapping[str, Any]], pace: float, folder: Path) -> tuple[float, float]:
    """Seconds of a row that the caller waits for, and that the process computes for it.

    Args:
        name: of the logger.
        rows: to send.
        pace: seconds between them.
        folder: of the run; made.
    """
    folder.mkdir(parents=True)
    feed = LoggerFeed()
    feed.add([name])
    feed.begin({"config": {}, "data": ""}, folder, 0)
    feed.row(rows[0] | {"step": 0})
    time.sleep(15.0 if name == "mlflow" else 5.0)  # it connects, and makes its database
    waits: list[float] = []
    before = time.process_time()
    for number, row in enumerate(rows, start=1):
        begin = time.perf_counter()
        feed.row(row | {"step": number})
        waits.append(time.perf_counter() - begin)
        time.sleep(pace)
    time.sleep(2.0)
    computed = (time.process_time() - before) / len(rows)
    feed.end("finished")
    return statistics.median(waits), computed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128, help="of the small model")
    parser.add_argument("--rows", type=int, default=30, help="that each logger is sent")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.environ |= {
            "WANDB_MODE": "offline",
            "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db",
            "TRACKIO_DIR": str(root / "trackio"),
        }
        run, step = measured_run(root / "runs", arguments.width, 150)
        every = RunConfig().log_every
        usual = [row for row in run.rows if "loss" in row and "leaves" not in row]
        rows = [usual[i % len(usual)] for i in range(arguments.rows)]
        print(f"a step of width {arguments.width} takes {step * 1e6:.0f} µs; a row stands for {every} of them\n")
        print("| logger | waited for a row, µs | share | computed for a row, µs | share |\n|---|---|---|---|---|")
        for name in logger_names():
            try:
                waited, computed = cost(name, rows, every * step, root / "sweep" / f"{name:0<16}")
            except EquimuError as error:
                print(f"| {name} | {error} | | | |")
                continue
            shares = (waited / (every * step), computed / (every * step))
            figures[name] = {"waited": waited, "computed": computed, "step": step, "log_every": every}
            print(f"| {name} | {waited * 1e6:.0f} | {shares[0]:.2%} | {computed * 1e6:.0f} | {shares[1]:.2%} |")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
