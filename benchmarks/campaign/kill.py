"""SIGKILL at random instants, in a save, and between any two calls of a commit; then the run goes on to the same bits."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.campaign import _runs
from benchmarks.campaign._children import Child, equimu
from benchmarks.campaign._result import Result
from equimu.checkpoint import _files

_CALLS = ("make_folder", "write", "sync", "rename", "remove")
_PATIENCE = 300.0


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """A quarter before a call of a commit, a quarter in a save, half at any time of a process."""
    rng = np.random.default_rng(seed)
    reference = folder / "reference"
    seconds: list[float] = []
    for _ in range(2):  # the second is as quick as those to come: compiled programs are kept
        shutil.rmtree(reference, ignore_errors=True)
        begin = time.monotonic()
        child = equimu(_runs.arguments(folder, reference), folder / "out.txt")
        if child.wait(_PATIENCE) != 0:
            raise RuntimeError(child.output())
        seconds.append(time.monotonic() - begin)
    campaign = _Campaign(folder, rng, seconds[-1], reference)
    for number in range(count):
        campaign.kill(("call", "save", "time", "time")[number % 4])
    campaign.finish()
    told = [
        Result(
            part="kill",
            what=what,
            count=campaign.counts[kind],
            outcome=f"{campaign.counts[kind]} killed and gone on",
            failures=tuple(campaign.failures.get(kind, ())),
        )
        for kind, what in (
            ("call", "before a call of a commit"),
            ("save", "in a save"),
            ("time", "at any time"),
        )
    ]
    outcome = f"{campaign.runs} runs end in the bits and rows of the one never killed; nothing left over"
    return [
        *told,
        Result(
            part="kill", what="final parameters", count=campaign.runs, outcome=outcome, failures=tuple(campaign.ends)
        ),
    ]


class _Campaign:
    """Runs that are killed again and again until they are done, one after the other."""

    def __init__(self, folder: Path, rng: np.random.Generator, seconds: float, reference: Path):
        self._folder, self._rng, self._seconds = folder, rng, seconds
        self._wanted = (_runs.content(reference, _runs.STEPS), _runs.rows(reference))
        self._out = folder / "killed"
        self._call = 0
        self.runs = 0
        self.counts = {"call": 0, "save": 0, "time": 0}
        self.failures: dict[str, list[str]] = {}
        self.ends: list[str] = []

    def kill(self, kind: str) -> None:
        """Starts the run, or goes on with it, until it is killed once."""
        while True:
            before = max(_runs.committed(self._out), default=0)
            child = self._start(kind)
            if child.code == -signal.SIGKILL:
                self.counts[kind] += 1
                self._check(kind, before)
                return
            self._ended(child)

    def finish(self) -> None:
        """Lets the last run go on to its end."""
        if self._out.exists():
            child = equimu(_runs.arguments(self._folder, self._out), self._folder / "out.txt")
            child.wait(_PATIENCE)
            self._ended(child)

    def _start(self, kind: str) -> Child:
        arguments, output = _runs.arguments(self._folder, self._out), self._folder / "out.txt"
        if kind == "call":
            # In turn any call, most of which bring arrays to the disk, and one of those around them: few, so each is hit often.
            self._call += 1
            names = _CALLS if self._call % 3 == 0 else tuple(name for name in _CALLS if name != "sync")
            number = int(self._rng.integers(400)) if "sync" in names else self._call % 16
            child = equimu(arguments, output, lambda: _die_at_call(names, number))
            child.wait(_PATIENCE)
            return child
        child = equimu(arguments, output)
        end = time.monotonic() + _PATIENCE
        if kind == "time":
            _until(child, end, lambda: False, self._rng.uniform(0, self._seconds))
        else:
            saves = int(self._rng.integers(1, 6))
            for _ in range(saves):
                _until(child, end, lambda: not _saving(self._out))
                _until(child, end, lambda: _saving(self._out))
            time.sleep(self._rng.uniform(0, 0.03))
        child.kill()
        return child

    def _check(self, kind: str, before: int) -> None:
        now = max(_runs.committed(self._out), default=0)
        if now < before:
            self.failures.setdefault(kind, []).append(f"step {before} was committed, now the newest is {now}")

    def _ended(self, child: Child) -> None:
        self.runs += 1
        if child.code != 0:
            self.ends.append(f"a restart ended with {child.code}: {child.output().strip()[-300:]}")
        elif (_runs.content(self._out, _runs.STEPS), _runs.rows(self._out)) != self._wanted:
            self.ends.append("other bits or rows than the run that was never killed")
        elif _runs.left_over(self._out):
            self.ends.append(f"left over: {', '.join(_runs.left_over(self._out))}")
        shutil.rmtree(self._out)


def _die_at_call(names: tuple[str, ...], number: int) -> None:
    """Has this process killed before the call of that number, of those of such names, on the file system."""
    left = [number]

    def wrapped(call: Callable[..., None]) -> Callable[..., None]:
        def dying(*args: object) -> None:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            call(*args)

        return dying

    for name in names:
        setattr(_files, name, wrapped(getattr(_files, name)))


def _saving(out: Path) -> bool:
    return any(out.glob("*/checkpoints/step-*.tmp"))


def _until(child: Child, end: float, reached: Callable[[], bool], seconds: float = _PATIENCE) -> None:
    stop = min(end, time.monotonic() + seconds)
    while time.monotonic() < stop and not child.ended() and not reached():
        time.sleep(0.0005)
