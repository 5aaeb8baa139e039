"""Training for a long time, with a save every 20 seconds and a kill every minute: memory flat, no file left over."""

import time
from pathlib import Path

import numpy as np

from benchmarks.campaign import _runs
from benchmarks.campaign._children import equimu
from benchmarks.campaign._result import Result

_SETTLED = 10.0  # seconds after which a process has compiled and filled its caches
_ALLOWED = 0.02


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """For as many minutes."""
    rng = np.random.default_rng(seed)
    out = folder / "soak"
    arguments = _runs.arguments(folder, out, steps=10**7)
    arguments += ["--runtime.checkpoint-every", "None", "--runtime.checkpoint-seconds", "20", "--log-every", "200"]
    growth: list[float] = []
    failures: list[str] = []
    end = time.monotonic() + 60 * count
    kills = newest = 0
    while time.monotonic() < end:
        child = equimu(arguments, folder / "out.txt")
        stop = time.monotonic() + rng.uniform(45, 75)
        memory: list[int] = []
        begin = time.monotonic()
        while time.monotonic() < stop and not child.ended():
            time.sleep(0.5)
            if time.monotonic() - begin > _SETTLED:
                memory.append(_resident(child.pid))
        if child.ended():
            failures.append(f"ended by itself with {child.code}: {child.output()[-300:]}")
            break
        child.kill()
        kills += 1
        if len(memory) > 20:
            half = len(memory) // 2
            growth.append(np.median(memory[half:]) / np.median(memory[:half]) - 1)
            if growth[-1] > _ALLOWED:
                failures.append(f"memory grew by {growth[-1]:.1%}")
        steps = _runs.committed(out)
        if not steps or steps[-1] < newest:
            failures.append(f"step {newest} was committed, now there are {steps}")
        newest = max(steps, default=newest)
    left = [
        name for name in _runs.left_over(out) if not name.endswith(("lock", ".tmp"))
    ]  # those two are the killed one's
    failures += [f"left over: {left}"] * bool(left) + [f"checkpoints {_runs.committed(out)}"] * (
        len(_runs.committed(out)) > 2
    )
    outcome = (
        f"{kills} kills, step {newest}; memory grew by {max(growth, default=0):+.1%} at most in the life of a process"
    )
    return [Result(part="soak", what="minutes", count=count, outcome=outcome, failures=tuple(failures))]


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, IndexError, ProcessLookupError):
        return 0
