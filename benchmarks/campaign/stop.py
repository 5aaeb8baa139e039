"""SIGTERM: the step is finished and saved, the process gone within ten seconds, and the run goes on to the same bits."""

import shutil
import signal
import time
from pathlib import Path

import numpy as np

from benchmarks.campaign import _runs
from benchmarks.campaign._children import equimu
from benchmarks.campaign._result import Result
from equimu._errors import ExitCode

_LIMIT = 10.0


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """Each time a run is stopped in a random step, and started again."""
    rng = np.random.default_rng(seed)
    reference, out = folder / "reference", folder / "stopped"
    equimu(_runs.arguments(folder, reference), folder / "out.txt").wait(300)
    wanted = (_runs.content(reference, _runs.STEPS), _runs.rows(reference))
    seconds: list[float] = []
    failures: list[str] = []
    for _ in range(count):
        shutil.rmtree(out, ignore_errors=True)
        child = equimu(
            _runs.arguments(folder, out, runtime=("--runtime.checkpoint-every", "1000000")), folder / "out.txt"
        )
        step = int(rng.integers(2, _runs.STEPS // 2))
        while not child.ended() and _step(out) < step:
            time.sleep(0.001)
        child.send(signal.SIGTERM)
        begin = time.monotonic()
        code = child.wait(60)
        seconds.append(time.monotonic() - begin)
        saved = _runs.committed(out)
        if code != ExitCode.TERMINATED or seconds[-1] > _LIMIT or not saved or saved[-1] < step:
            failures.append(
                f"in step {step}: code {code} after {seconds[-1]:.1f} s, saved {saved}: {child.output()[-200:]}"
            )
            continue
        child = equimu(_runs.arguments(folder, out), folder / "out.txt")
        if child.wait(300) != 0 or (_runs.content(out, _runs.STEPS), _runs.rows(out)) != wanted:
            failures.append(f"stopped in step {step}, went on to something else: {child.output()[-200:]}")
    outcome = f"saved, gone after {np.median(seconds):.2f} s (longest {max(seconds):.2f}), gone on to the same bits"
    return [Result(part="stop", what="SIGTERM, one process", count=count, outcome=outcome, failures=tuple(failures))]


def _step(out: Path) -> int:
    folder = _runs.run_folder(out)
    path = out / "none" if folder is None else folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0
