"""SIGKILL before a run has begun: in tokenizing, in compiling, before each call that makes its folder; and in `equimu data`."""

import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.campaign import _runs
from benchmarks.campaign._children import Child, equimu
from benchmarks.campaign._result import Result

_PATIENCE = 300.0
_STEPS = 20
_MOST_CALLS = 80  # then a run has begun
# What changes a file system or takes a lock, by Python's own names of audit events.
_CHANGES = {
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "os.utime",
    "fcntl.flock",
    "shutil.rmtree",
}
_WHATS = {
    "folder": "before a call that makes the run's folder",
    "data": "before a call of `equimu data`",
    "tokenizing": "at any time of `equimu data`",
    "compiling": "at any time of a start, programs not yet compiled",
}


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """A quarter each."""
    tried = _Starts(folder, np.random.default_rng(seed))
    for number in range(count):
        tried.kill(list(_WHATS)[number % len(_WHATS)])
    outcome = "the same command went on: same rows, bits and tokens, nothing left over"
    return [
        Result(
            part="start",
            what=what,
            count=tried.counts[kind],
            outcome=outcome + tried.told(kind),
            failures=tuple(tried.failures[kind]),
        )
        for kind, what in _WHATS.items()
    ]


class _Starts:
    """Starts that are killed, and started again."""

    def __init__(self, folder: Path, rng: np.random.Generator):
        self._folder, self._rng = folder, rng
        self._out, self._cache, self._store = (folder / name for name in ("killed", "killed-cache", "killed-store"))
        self.counts: Counter[str] = Counter()
        self.failures: dict[str, list[str]] = {kind: [] for kind in _WHATS}
        self._found: Counter[str] = Counter()
        _runs.corpus(folder)
        self._calls: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._wanted: dict[str, Any] = {}
        counted = folder / "counted"
        for kind in _WHATS:  # the second time programs are kept, but where they are to be compiled
            for _ in range(2):
                self._clear()
                begin = time.monotonic()
                child = self._start(kind, lambda: _before_call(None, self._below(), counted))
                if child.wait(_PATIENCE) != 0:
                    raise RuntimeError(child.output())
                self._seconds[kind] = time.monotonic() - begin
            self._calls[kind] = min(len(counted.read_text().splitlines()), _MOST_CALLS)
            self._wanted |= self._content()

    def told(self, kind: str) -> str:
        """Words on what the kills came upon."""
        if kind in ("folder", "data"):
            return f"; {self._calls[kind]} calls"
        return f"; {self._found[kind]} of them in a process that had begun to write"

    def kill(self, kind: str) -> None:
        """Kills a start and lets the same command go on."""
        self._clear()
        if kind in ("folder", "data"):
            number = int(self._rng.integers(self._calls[kind]))
            child = self._start(kind, lambda: _before_call(number, self._below(), None))
            code = child.wait(_PATIENCE)
            how = f"killed before call {number}"
        else:
            child = self._start(kind, lambda: None)
            seconds = self._rng.uniform(0, self._seconds[kind])
            end = time.monotonic() + seconds
            while time.monotonic() < end and not child.ended():
                time.sleep(0.001)
            child.kill()
            code, how = child.code, f"killed after {seconds:.2f} s"
        self.counts[kind] += 1
        self._found[kind] += any(path.exists() for path in self._below())
        if code not in (-signal.SIGKILL, 0):
            self.failures[kind].append(f"{how}: ended with {code}: {child.output()[-300:]}")
            return
        again = self._start("data" if kind in ("data", "tokenizing") else "folder", lambda: None)
        if again.wait(_PATIENCE) != 0:
            self.failures[kind].append(f"{how}: the same command ended with {again.code}: {again.output()[-300:]}")
        elif (found := self._content()) != {name: self._wanted[name] for name in found}:
            self.failures[kind].append(f"{how}: other rows, bits or tokens")
        elif left := self._left():
            self.failures[kind].append(f"{how}: left {left}")

    def _below(self) -> tuple[Path, ...]:
        return self._out, self._cache, self._store

    def _clear(self) -> None:
        for path in self._below():
            shutil.rmtree(path, ignore_errors=True)

    def _start(self, kind: str, before: Callable[[], object]) -> Child:
        fresh = self._folder / "compiled-anew"
        shutil.rmtree(fresh, ignore_errors=True)

        def begin() -> None:
            os.environ["EQUIMU_CACHE"] = str(self._cache)
            if kind == "compiling":
                import jax

                jax.config.update("jax_compilation_cache_dir", str(fresh))
            before()

        if kind in ("data", "tokenizing"):
            arguments = ["data", str(self._store), "--corpus", str(self._folder / "text")]
        else:
            arguments = _runs.arguments(self._folder, self._out, steps=_STEPS)
        return equimu(arguments, self._folder / "out.txt", before=begin)

    def _content(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._out.exists():
            found |= {"rows": _runs.rows(self._out), "bits": _runs.content(self._out, _STEPS)}
        if self._store.exists():
            found["tokens"] = _tokens(self._store)
        if self._cache.exists():
            (store,) = self._cache.glob("tokens-*")
            found["cached"] = _tokens(store)
        return found

    def _left(self) -> list[str]:
        stores = [store for store in (self._store, *self._cache.glob("tokens-*")) if store.exists()]
        extra = [path for store in stores for path in sorted(store.glob("data-*"))[1:]]
        marks = [path for store in stores for path in store.glob("data-*/writing*")]
        return [*_runs.left_over(self._out), *(str(path.relative_to(self._folder)) for path in [*extra, *marks])]


def _tokens(store: Path) -> dict[str, bytes]:
    """The bytes of the arrays of the one folder that a store names."""

    name = json.loads((store / "equimu-tokens.json").read_text())["folder"]
    return {str(path.relative_to(store / name)): path.read_bytes() for path in sorted((store / name).glob("*/c/*"))}


def _before_call(number: int | None, below: tuple[Path, ...], counted: Path | None) -> None:
    """Has this process killed before the call of that number among those that change something; or lists them all.

    Calls count from the first one on that has to do with one of the places.
    """
    seen = 0
    begun = False
    busy = False
    if counted is not None:
        counted.write_text("")

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen, begun, busy
        if busy or event not in _CHANGES:
            return
        if event == "open" and not (
            len(arguments) > 2 and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            return
        begun = begun or any(str(arguments[0]).startswith(str(path)) for path in below)
        if not begun:
            return
        if counted is not None:
            busy = True
            with open(counted, "a") as file:
                file.write(f"{event} {arguments[0]}\n")
            busy = False
        elif seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    sys.addaudithook(heard)
