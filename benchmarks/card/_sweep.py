"""A sweep of nine cells from the command line, start-up and compilation included."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any


def measure(*, quick: bool, end: float) -> Iterator[dict[str, Any]]:
    """One row: seconds of wall time, and how many of the cells are done."""
    widths, rates, steps = (("16",), ("-6",), "3") if quick else (("256", "512", "1024"), ("-8", "-6", "-4"), "100")
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "EQUIMU_CACHE": f"{folder}/cache"}
        left = max(10.0, end - time.monotonic())

        def call(*arguments: str) -> str:
            command = [sys.executable, "-m", "equimu", *arguments]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=left)
            return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it failed"])[-1][:200]

        failed = call("data", f"{folder}/store", *(("--corpus", _text(folder)) if quick else ()))
        begin = time.perf_counter()
        failed = failed or call(
            *("sweep", "--out", f"{folder}/sweep", "--panels", "mup", "--over.width", *widths),
            *(
                "--fit.learning-rate",
                *(f"2**{rate}" for rate in rates),
                "--run.steps",
                steps,
                "--run.text.store",
                f"{folder}/store",
            ),
            *("--run.size.depth", "1" if quick else "4", "--run.model.head-dim", "16" if quick else "64"),
            *(() if quick else ("--run.model.dtype", "bfloat16", "--run.text.rows", "16", "--run.text.seq", "512")),
            *(("--base.width", "16") if quick else ()),
        )
        cells = len(widths) * len(rates)
        yield {"sweep": f"{cells} cells, {steps} steps each", "seconds": time.perf_counter() - begin, "failed": failed}


def _text(folder: str) -> str:
    """A small corpus."""
    with open(f"{folder}/text.txt", "w") as file:
        file.writelines(f"line {i} of a text that is long enough for a few batches\n" for i in range(4000))
    return f"{folder}/text.txt"
