"""SIGKILL at random instants, in a save, and before every kind of call of a commit; then the run goes on to the same bits."""

import contextlib
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.campaign import _runs
from benchmarks.campaign._children import Child, equimu
from benchmarks.campaign._result import Result
from equimu.runs import CHECKPOINTS
from equimu.storage import MANIFEST, commits

# What a save calls on the file system, in this order, by `_kind_of`.
_KINDS = (
    "make_folder",
    "sync array",
    "write manifest",
    "sync manifest",
    "sync draft",
    "rename to commit",
    "sync folder",
    "rename to retire",
    "remove",
)
_ARRAY_SYNCS = 150  # in two saves, about: most calls are
_PATIENCE = 300.0


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """Half of the kills for the decoder, the others for other tasks."""
    others = len(_runs.SUBJECTS) - 1
    counts = {subject: count // 2 if subject == "decoder" else count // 2 // others for subject in _runs.SUBJECTS}
    return [each for subject, n in counts.items() for each in _run(subject, n, seed, folder / subject)]


def _run(subject: str, count: int, seed: int, folder: Path) -> list[Result]:
    """A quarter before a call of a commit, a quarter in a save, half at any time of a process."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    reference = folder / "reference"
    seconds: list[float] = []
    for _ in range(2):  # the second is as quick as those to come: compiled programs are kept
        shutil.rmtree(reference, ignore_errors=True)
        begin = time.monotonic()
        child = equimu(_runs.arguments(folder, reference, subject=subject), folder / "out.txt")
        if child.wait(_PATIENCE) != 0:
            raise RuntimeError(child.output())
        seconds.append(time.monotonic() - begin)
    campaign = _Campaign(subject, folder, rng, seconds[-1], reference)
    for number in range(count):
        campaign.kill(("call", "save", "time", "time")[number % 4])
    campaign.finish()
    before = campaign.before_call
    least = min(before.values(), default=0)
    outcomes = {
        "call": f"no committed step lost; before each of {len(before)} kinds of call, {least} times or more",
        "save": "no committed step lost",
        "time": f"no committed step lost; {campaign.drafts} in a save",
    }
    whats = {"call": "before a call of a save", "save": "in a save", "time": "at any time"}
    message = [
        Result(
            part="kill",
            what=f"{subject}: {what}",
            count=campaign.counts[kind],
            outcome=outcomes[kind],
            failures=tuple(campaign.failures[kind]),
        )
        for kind, what in whats.items()
    ]
    outcome = "in the bits and rows of the run that was never killed, nothing left over"
    final = Result(
        part="kill",
        what=f"{subject}: ends of runs",
        count=campaign.runs,
        outcome=outcome,
        failures=tuple(campaign.ends),
    )
    return [*message, final]


class _Campaign:
    """Runs that are killed again and again until they are done, one after the other."""

    def __init__(self, subject: str, folder: Path, rng: np.random.Generator, seconds: float, reference: Path):
        self._subject, self._folder, self._rng, self._seconds = subject, folder, rng, seconds
        self._reference = reference
        self._out = folder / "killed"
        self.runs = self.drafts = 0
        self.counts = Counter[str]()
        self.before_call = Counter[str]()
        self.failures: dict[str, list[str]] = {"call": [], "save": [], "time": []}
        self.ends: list[str] = []

    def kill(self, kind: str) -> None:
        """Starts the run, or goes on with it, until it is killed once."""
        while True:
            child, before = self._start(kind)
            if child.code != -signal.SIGKILL:
                self._ended(child)
                continue
            now = max(_runs.committed(self._out), default=0)
            if now < before:
                self.failures[kind].append(f"step {before} was committed, now the newest is {now}")
            draft = _drafts(self._out, child.born)
            if kind == "save" and not draft:  # the save was over: try again
                continue
            self.drafts += kind == "time" and draft
            self.counts[kind] += 1
            return

    def finish(self) -> None:
        """Lets the last run go on to its end."""
        if self._out.exists():
            child = equimu(_runs.arguments(self._folder, self._out, subject=self._subject), self._folder / "out.txt")
            child.wait(_PATIENCE)
            self._ended(child)

    def _start(self, kind: str) -> tuple[Child, int]:
        """A process that has been killed or has come to its end, and the newest checkpoint that it was seen with."""
        arguments, output = _runs.arguments(self._folder, self._out, subject=self._subject), self._folder / "out.txt"
        before = max(_runs.committed(self._out), default=0)
        if kind == "call":
            name = _KINDS[self.before_call.total() % len(_KINDS)]
            number = int(self._rng.integers(_ARRAY_SYNCS if name == "sync array" else 3))
            child = equimu(arguments, output, before=lambda: _die_before(name, number))
            if child.wait(_PATIENCE) == -signal.SIGKILL:
                self.before_call[name] += 1
            return child, before
        child = equimu(arguments, output)
        end = time.monotonic() + _PATIENCE
        if kind == "time":
            _until(child, end, lambda: False, self._rng.uniform(0, self._seconds))
        else:
            for _ in range(int(self._rng.integers(1, 6))):
                _until(child, end, lambda: not _drafts(self._out, child.born))
                _until(child, end, lambda: _drafts(self._out, child.born))
            time.sleep(self._rng.uniform(0, 0.02))
        before = max(_runs.committed(self._out), default=0)
        child.kill()
        return child, before

    def _ended(self, child: Child) -> None:
        self.runs += 1
        wanted, found = self._reference, self._out
        if child.code != 0:
            self.ends.append(f"a restart ended with {child.code}: {child.output().strip()[-300:]}")
        elif _runs.content(found, _runs.STEPS) != _runs.content(wanted, _runs.STEPS):
            self.ends.append("other bits than the run that was never killed")
        elif _runs.rows(found) != _runs.rows(wanted):
            self.ends.append("other rows than the run that was never killed")
        elif _runs.left_over(found) or _runs.committed(found) != _runs.committed(wanted):
            self.ends.append(f"left over: {_runs.left_over(found)}, checkpoints {_runs.committed(found)}")
        shutil.rmtree(found)


def _die_before(kind: str, number: int) -> None:
    """Has this process killed before the call of that number among those of a kind."""
    left = [number]

    def dying(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def called(path: Path, *args: object) -> None:
            if _kind_of(name, path) == kind:
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
            call(path, *args)

        return called

    for name in ("make_folder", "write", "sync", "rename", "remove"):
        setattr(commits, name, dying(name, getattr(commits, name)))


def _kind_of(name: str, path: Path) -> str:
    if name == "write":
        return "write manifest"
    if name == "rename":
        return "rename to commit" if path.suffix == ".tmp" else "rename to retire"
    if name == "sync":
        named = {MANIFEST: "manifest", CHECKPOINTS: "folder"}
        return f"sync {named.get(path.name, 'draft' if path.suffix == '.tmp' else 'array')}"
    return name


def _drafts(out: Path, since: float) -> bool:
    """Whether a save is on its way, and not only what was left by a process before this time."""
    times: list[float] = []
    for path in out.glob("*/checkpoints/step-*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # it has just been committed
            times.append(path.stat().st_ctime)
    return max(times, default=0.0) >= since


def _until(child: Child, end: float, reached: Callable[[], bool], seconds: float = _PATIENCE) -> None:
    stop = min(end, time.monotonic() + seconds)
    while time.monotonic() < stop and not child.ended() and not reached():
        time.sleep(0.001)
