"""SIGTERM: the step is saved, the process gone within ten seconds. A killed peer: the other one names it and ends."""

import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.campaign import _runs
from benchmarks.campaign._children import Child, equimu, together
from benchmarks.campaign._result import Result
from equimu._errors import ExitCode

_LIMIT = 10.0  # seconds from SIGTERM to the end
_HEARTBEAT = 5.0
# A beat is a second, and two of them may lie between a death and its being noticed; then the process has to end.
_NOTICED = _HEARTBEAT + 3.0
_PATIENCE = 300.0

Start = Callable[[Path, tuple[str, ...]], list[Child]]


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """As often on one process; half as often on two, and with a peer that is killed."""
    rng = np.random.default_rng(seed)

    def alone(out: Path, runtime: tuple[str, ...]) -> list[Child]:
        return [equimu(_runs.arguments(folder, out, runtime=runtime), folder / "out.txt")]

    def in_two(out: Path, runtime: tuple[str, ...]) -> list[Child]:
        mesh = ("--runtime.data", "2", "--runtime.fsdp", "2", "--runtime.heartbeat-seconds", f"{_HEARTBEAT:.0f}")
        return together(2, _runs.arguments(folder, out, runtime=(*mesh, *runtime)), folder, devices=2)

    few = -(-count // 2)
    one, two = _Runs(folder / "one", alone), _Runs(folder / "two", in_two)
    return [
        _terminated("SIGTERM, one process", one, rng, count),
        _terminated("SIGTERM, two processes", two, rng, few),
        _killed_peer("the second of two killed", two, 1, rng, few),
        _killed_peer("the first of two killed", two, 0, rng, few),
    ]


class _Runs:
    """A run, started again and again, and the one to which nothing happened."""

    def __init__(self, folder: Path, start: Start):
        self.out = folder / "out"
        self._reference, self._start = folder / "reference", start
        self._through(self._reference)

    def begin(self, *runtime: str) -> list[Child]:
        """Starts the run anew."""
        shutil.rmtree(self.out, ignore_errors=True)
        return self._start(self.out, runtime)

    def goes_on(self) -> str | None:
        """Lets the run go on; what is wrong with how it ends."""
        self._through(self.out)
        if _runs.content(self.out, _runs.STEPS) != _runs.content(self._reference, _runs.STEPS):
            return "goes on to other bits"
        if _runs.rows(self.out) != _runs.rows(self._reference):
            return "goes on to other rows"
        left = _runs.left_over(self.out)
        return f"leaves {left}" if left else None

    def _through(self, out: Path) -> None:
        for child in self._start(out, ()):
            if child.wait(_PATIENCE) != 0:
                raise RuntimeError(f"ends with {child.code}: {child.output()[-500:]}")


def _terminated(what: str, runs: _Runs, rng: np.random.Generator, count: int) -> Result:
    seconds: list[float] = []
    failures: list[str] = []
    for _ in range(count):
        step = int(rng.integers(2, _runs.STEPS // 2))
        children = runs.begin("--runtime.checkpoint-every", "1000000")  # so that it is the signal that saves
        _until_step(runs.out, step, children)
        children[int(rng.integers(len(children)))].send(signal.SIGTERM)
        begin = time.monotonic()
        codes = [child.wait(_PATIENCE) for child in children]
        seconds.append(time.monotonic() - begin)
        saved = _runs.committed(runs.out)
        if codes != [ExitCode.TERMINATED] * len(codes) or seconds[-1] > _LIMIT or not saved or saved[-1] < step:
            message = " | ".join(child.output()[-200:] for child in children)
            failures.append(f"in step {step}: codes {codes} after {seconds[-1]:.1f} s, saved {saved}: {message}")
        elif wrong := runs.goes_on():
            failures.append(f"stopped in step {step}: {wrong}")
    outcome = f"saved, gone after {np.median(seconds):.2f} s (longest {max(seconds):.2f}), gone on to the same bits"
    return Result(part="stop", what=what, count=count, outcome=outcome, failures=tuple(failures))


def _killed_peer(what: str, runs: _Runs, index: int, rng: np.random.Generator, count: int) -> Result:
    seconds: list[float] = []
    failures: list[str] = []
    for _ in range(count):
        step = int(rng.integers(_runs.EVERY + 2, _runs.STEPS // 2))
        children = runs.begin("--runtime.checkpoint-every", str(_runs.EVERY))
        dead, survivor = children[index], children[1 - index]
        _until_step(runs.out, step, children)
        dead.kill()
        begin = time.monotonic()
        code = survivor.wait(_PATIENCE)
        seconds.append(time.monotonic() - begin)
        message = survivor.output()
        if index == 0:  # with it goes the service at which the others listen, and JAX ends them itself
            named = code == -signal.SIGABRT and "the leader task was preempted/died" in message
        else:
            line = rf"^equimu: process 1 of 2 \(pid {dead.pid} on .*; start all processes again"
            named = code == ExitCode.PEER and re.search(line, message, re.M) and "Traceback" not in message
        if not named or seconds[-1] > _NOTICED:
            failures.append(f"in step {step}: code {code} after {seconds[-1]:.1f} s: {message[-300:]}")
        elif wrong := runs.goes_on():
            failures.append(f"killed in step {step}: {wrong}")
    outcome = (
        f"{'named by' if index else 'the leader, says'} the survivor, gone after {np.median(seconds):.1f} s "
        f"(longest {max(seconds):.1f}) at a heartbeat of {_HEARTBEAT:.0f} s, gone on to the same bits"
    )
    return Result(part="stop", what=what, count=count, outcome=outcome, failures=tuple(failures))


def _until_step(out: Path, step: int, children: list[Child]) -> None:
    while not any(child.ended() for child in children) and _step(out) < step:
        time.sleep(0.002)


def _step(out: Path) -> int:
    folder = _runs.run_folder(out)
    path = out / "none" if folder is None else folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0
