"""Training for a long time, with a save every 20 seconds and a kill every minute: memory flat, no file left over."""

import mmap
import signal
import time
from pathlib import Path

import numpy as np

from benchmarks.campaign import _runs
from benchmarks.campaign._children import Child, equimu
from benchmarks.campaign._result import Result
from equimu._errors import ExitCode

_SAVE_SECONDS = 20
_LIFE = (45.0, 75.0)  # seconds after which a process is killed
_FEWEST = 20  # looks at the memory of a process, from which its growth is told
_ALLOWED = 0.02
_FILES = {"checkpoints", "config.json", "metrics.jsonl", "rules.json"}
_KEPT = 2


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """For as many minutes."""
    rng = np.random.default_rng(seed)
    out = folder / "soak"
    arguments = _runs.arguments(folder, out, steps=10**7)
    arguments += ["--runtime.checkpoint-every", "None", "--runtime.checkpoint-seconds", f"{_SAVE_SECONDS}"]
    arguments += ["--log-every", "200"]
    growth: list[float] = []
    sizes: list[float] = []
    failures: list[str] = []
    end = time.monotonic() + 60 * count
    kills = newest = 0
    while time.monotonic() < end and not failures:
        child = equimu(arguments, folder / "out.txt")
        memory = _resident(child, rng.uniform(*_LIFE), out, newest)
        if child.ended():
            failures.append(f"ended by itself with {child.code}: {child.output()[-300:]}")
            break
        child.kill()
        kills += 1
        if len(memory) >= _FEWEST:
            half = len(memory) // 2
            growth.append(float(np.median(memory[half:]) / np.median(memory[:half]) - 1))
            sizes.append(float(np.median(memory)))
            if abs(growth[-1]) > _ALLOWED:
                failures.append(f"the memory of process {kills} went from {memory[0]:.0f} MiB to {memory[-1]:.0f} MiB")
        steps = _runs.committed(out)
        if max(steps, default=0) < newest:
            failures.append(f"step {newest} was committed, a process later there are {steps}")
        newest = max(steps, default=newest)
    child = equimu(arguments, folder / "out.txt")
    # Before its first step a process has nothing to save, and ends at once.
    while not child.ended() and max(_runs.committed(out), default=0) <= newest:
        time.sleep(0.1)
    child.send(signal.SIGTERM)
    if child.wait(60) != ExitCode.TERMINATED:
        failures.append(f"SIGTERM at the end: code {child.code}: {child.output()[-300:]}")
    run_folder = _runs.run_folder(out)
    assert run_folder is not None
    files = {path.name for path in run_folder.iterdir()}
    checkpoints = sorted(path.name for path in (run_folder / "checkpoints").iterdir())
    if files != _FILES or len(checkpoints) != _KEPT or len(_runs.committed(out)) != _KEPT:
        failures.append(f"left over: {sorted(files - _FILES)}, {checkpoints}")
    if not growth:
        failures.append("no process lived long enough behind its first save for its memory to be told")
    outcome = (
        f"{kills} kills, {_runs.committed(out)[-1]} steps; memory {min(sizes, default=0):.0f} to "
        f"{max(sizes, default=0):.0f} MiB, changed by {max(map(abs, growth), default=0):.1%} at most in the lives of "
        f"{len(growth)} processes; no file left over"
    )
    return [Result(part="soak", what="minutes", count=count, outcome=outcome, failures=tuple(failures))]


def _resident(child: Child, seconds: float, out: Path, newest: int) -> list[float]:
    """Lets a process live; its memory in MiB, every half second once it has saved, and so has filled its caches."""
    memory: list[float] = []
    begin = time.monotonic()
    while time.monotonic() < begin + seconds and not child.ended():
        time.sleep(0.5)
        if (memory or max(_runs.committed(out), default=0) > newest) and not child.ended():
            pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
            memory.append(pages * mmap.PAGESIZE / 2**20)
    return memory
