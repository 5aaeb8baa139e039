"""Folders, stores, configs, tokenizers, locks from strangers: nothing outside is read or written, nothing run, all in time."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import equimu as package
from benchmarks.campaign import _runs
from benchmarks.campaign._children import equimu, free_address
from benchmarks.campaign._result import Result
from equimu._errors import ExitCode
from equimu.runs import FolderLock

_LIMIT = 10.0  # seconds until a refusal; what is done right takes the time that it takes
_STEPS = 20
_SECRET = "what nobody may read"
_TERMINAL = "\x1b[2J\x1b]0;owned\x07"
# Time and again a file that a reader of the folder opens by its name.
_OF_A_RUN = ("metrics.jsonl", "config.json", "rules.json", "source", "done", "lock", "checkpoints")
# Of a plan, so that it is quick.
_TINY = "--size.width 16 --model.head-dim 8 --size.depth 1 --base.width 16 --text.seq 16 --text.rows 4"
_GZIP = {"name": "gzip", "configuration": {"level": 9}}

# What it is, the arguments of `equimu`, and what is done to the place of that name first.
Case = tuple[str, list[str], Callable[[Path], object]]


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """As many of them; from 80 on, all."""
    made = _Strangers(folder)
    cases = list(made.cases())
    chosen = sorted(np.random.default_rng(seed).permutation(len(cases))[:count])
    seconds: list[float] = []
    failures = [failure for number in chosen for failure in made.tried(seconds, *cases[number])]
    outcome = (
        f"{made.refused} refused in a line, after {max(seconds):.1f} s at most, the others done right; "
        "nothing outside read or written, nothing run"
    )
    return [Result(part="strangers", what="inputs", count=len(chosen), outcome=outcome, failures=tuple(failures))]


class _Strangers:
    """Places that are good, copies of which are made hostile."""

    def __init__(self, folder: Path):
        self.refused = 0
        self._folder, self._place, self._outside = folder, folder / "place", folder / "outside"
        self._listener = socket.socket()
        host, _, port = free_address().rpartition(":")
        self._listener.bind((host, int(port)))
        self._listener.listen()
        self._listener.setblocking(False)
        self._address = f"http://{host}:{port}/store"
        _runs.corpus(folder)
        for arguments in (
            ["data", str(folder / "store"), "--corpus", str(folder / "text")],
            _runs.arguments(folder, folder / "runs", steps=_STEPS),
        ):
            child = equimu(arguments, folder / "out.txt")
            if child.wait(300) != 0:
                raise RuntimeError(child.output())

    def cases(self) -> Iterator[Case]:
        """All of them."""
        train, report = _runs.arguments(self._folder, self._place, steps=_STEPS), ["report", str(self._place)]
        store = [*_runs.arguments(self._folder, self._folder / "elsewhere"), "--text.store", str(self._place)]
        for name in _OF_A_RUN:
            for what, damage in self._specials():
                yield f"a run to go on with, whose {name} is {what}", train, _at(f"runs/*/{name}", damage)
        for name in ("metrics.jsonl", "config.json", "done"):
            for what, damage in self._specials():
                yield f"a run to report, whose {name} is {what}", report, _at(f"runs/*/{name}", damage)
        for what, name, text in (
            ("config.json nests", "config.json", "[" * 100_000),
            ("config.json holds a huge number", "config.json", '{"config": {"steps": ' + "9" * 5000 + "}}"),
            ("metrics.jsonl nests", "metrics.jsonl", "[" * 100_000 + "\n"),
            ("done is an escape", "done", json.dumps({"status": _TERMINAL})),
            ("status is another", "done", json.dumps({"status": "ended"})),
        ):
            yield f"a run to report, whose {what}", report, _at(f"runs/*/{name}", _text(text))
        yield "a folder of runs that is a link", report, _at("runs/*", self._link)
        for what, change in self._manifests():
            yield f"a checkpoint with {what}", train, _at("runs/*/checkpoints/step-*/manifest.json", _forged(change))
        yield "checkpoints with a link", train, _at("runs/*/checkpoints/step-*/0*/c*", self._link)
        for what, pattern, damage in self._stores():
            yield f"a store with {what}", store, _at(f"store/{pattern}", damage)
        for what, content in self._tokenizers():
            arguments = ["data", str(self._folder / "made"), "--corpus", str(self._folder / "text"), "--tokenizer"]
            yield f"a tokenizer {what}", [*arguments, str(self._place / "t.json")], _at("t.json", _text(content))
        yield "a tokenizer that is a pipe", [*arguments, str(self._place / "t.json")], _at("t.json", os.mkfifo)
        for what, content in (
            ("nests", "[" * 100_000),
            ("holds a huge number", '{"steps": ' + "9" * 5000 + "}"),
            ("names an address", json.dumps({"task": {"text": {"store": self._address}}})),
            ("is an escape", json.dumps({_TERMINAL: 1})),
        ):
            yield (
                f"a config that {what}",
                ["train", "--config", str(self._place / "c.json")],
                _at("c.json", _text(content)),
            )
        for what, content, ahead in self._locks():
            yield f"a lock {what}", train, _at("runs/*/lock", _lock_of(content, ahead))
        for command in (["plan", "cpu:2", *_TINY.split()], ["show", "--stepz", "1"], report):
            yield f"code beside `{command[0]}`", command, self._code

    def tried(
        self, seconds: list[float], what: str, arguments: list[str], prepare: Callable[[Path], object]
    ) -> Iterator[str]:
        """What is wrong with how a case ends."""
        self._outside.mkdir()
        secret = self._outside / "secret"
        secret.write_text(_SECRET)
        shutil.rmtree(self._place, ignore_errors=True)
        source = next((name for name in ("store", "runs") if getattr(prepare, "pattern", "").startswith(name)), None)
        if source is None:
            self._place.mkdir()
        else:
            shutil.copytree(self._folder / source, self._place)
        prepare(self._place)
        before = _state(self._outside)
        os.utime(secret, ns=(0, secret.stat().st_mtime_ns))

        def enter() -> None:
            os.chdir(self._place)
            # Absolute, for the process that `plan` starts: a path such as `.` would be this very folder.
            os.environ["PYTHONPATH"] = str(Path(package.__file__).parents[1])
            FolderLock.stale_seconds = 4.0  # of a minute: a silent owner of another machine is waited for so long

        begin = time.monotonic()
        child = equimu(arguments, self._folder / "out.txt", before=enter)
        try:
            child.wait(60)
        except TimeoutError:
            yield f"{what}: hangs"
        passed = time.monotonic() - begin
        message = child.output().strip()
        code = child.code
        if code != ExitCode.DONE:
            seconds.append(passed)
            if passed > _LIMIT:
                yield f"{what}: took {passed:.1f} s"
        if "Traceback" in message or any(ord(c) < 32 and c not in "\n\r" for c in message):
            yield f"{what}: says {message[-300:]!r}"
        # What was made good ends well: a lock without owner, a damaged checkpoint, code that is not run.
        lines = message.splitlines()
        in_lines = len(lines) <= 2 and all(line.startswith("equimu: ") for line in lines)
        self.refused += code == ExitCode.MISTAKE
        if code not in (ExitCode.DONE, ExitCode.MISTAKE) or (code == ExitCode.MISTAKE and not in_lines):
            yield f"{what}: code {code}: {message[-300:]!r}"
        if _state(self._outside) != before or secret.stat().st_atime_ns != 0 or _SECRET in message:
            yield f"{what}: something outside was read or written"
        if (self._place / "ran").exists():
            yield f"{what}: code was run"
        with contextlib.suppress(BlockingIOError):
            self._listener.accept()
            yield f"{what}: an address was reached"
        shutil.rmtree(self._outside)
        for left in ("made", "elsewhere"):
            shutil.rmtree(self._folder / left, ignore_errors=True)

    def _link(self, path: Path) -> None:
        target = self._outside / path.name
        path.rename(target) if os.path.lexists(path) else target.write_text("{}")
        path.symlink_to(target)

    def _specials(self) -> Iterator[tuple[str, Callable[[Path], object]]]:
        def gone(path: Path) -> Path:
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            return path

        yield "a link outside", self._link
        yield "a link to a secret", lambda path: gone(path).symlink_to(self._outside / "secret")
        yield "a pipe", lambda path: os.mkfifo(gone(path))

    def _manifests(self) -> Iterator[tuple[str, Callable[[Any], object]]]:
        yield "an array outside", lambda found: found["arrays"][0].update(folder="../../../../outside")
        yield (
            "a file outside",
            lambda found: found["arrays"][0].update(files={"../../../../../outside/secret": "00000000"}),
        )
        yield "an array of 2^40", lambda found: found["arrays"][0].update(stored_shape=[2**40], chunk=[2**40])
        yield "rows that are none", lambda found: found["manifest"].update(rows={"bytes": 1, "sha256": "", "text": "x"})
        yield "a record that is none", lambda found: found["manifest"].update(record={"mean": _TERMINAL})

    def _stores(self) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
        described = "equimu-tokens.json"
        yield "a folder outside", described, _forged(lambda found: found.update(folder="../outside"))
        yield "an absolute folder", described, _forged(lambda found: found.update(folder=str(self._outside)))
        yield "an address for a folder", described, _forged(lambda found: found.update(folder=self._address))
        yield "counts of 2^40", described, _forged(lambda found: found.update(tokens={"train": 2**40, "validation": 9}))
        yield "an escape for a name", described, _forged(lambda found: found.update(tokenizer=_TERMINAL, format=1))
        yield "a description that nests", described, _text("[" * 100_000)
        for name in (described, "data-*", "data-*/train", "data-*/train/c/0"):
            yield f"a link for {name}", name, self._link
        for name in (described, "data-*/train/zarr.json", "data-*/train/c/0"):
            yield f"a pipe for {name}", name, lambda path: (path.unlink(), os.mkfifo(path))
        metadata = "data-*/train/zarr.json"
        yield (
            "packed chunks",
            metadata,
            _edited(lambda found: found["codecs"][0]["configuration"]["codecs"].append(_GZIP)),
        )
        yield "packed files", metadata, _edited(lambda found: found["codecs"].append(_GZIP))
        yield "a shape of 2^40", metadata, _edited(lambda found: found.update(shape=[2**40]))

    def _tokenizers(self) -> Iterator[tuple[str, str]]:
        yield "that nests", "[" * 100_000
        yield "with a huge number", '{"version": ' + "9" * 5000 + "}"
        yield "that is an escape", json.dumps({"version": _TERMINAL})
        for pattern in (r"(\w+\s?)+$", r"((\w|\s)+)+!!", r"(.|\s)*\d{9}"):
            yield f"with the pattern {pattern}", json.dumps(_split_by(pattern))

    def _locks(self) -> Iterator[tuple[str, str, float]]:
        owner = {"host": f"far{_TERMINAL}away\n", "pid": 1, "start": "1", "machine": "another", "since": _TERMINAL}
        yield "of the future", json.dumps(owner), 3600.0
        yield "of the far future", json.dumps(owner), 1e9
        yield "of a silent owner", json.dumps(owner), -1e6
        yield "that nests", "[" * 100_000, 0.0
        yield "with a huge number", '{"pid": ' + "9" * 5000 + "}", 0.0
        yield "of no process", json.dumps({**owner, "pid": "x", "machine": 3}), -1e6

    def _code(self, place: Path) -> None:
        for name in ("jax", "numpy", "json", "equimu", "equinox", "sitecustomize", "matplotlib"):
            (place / f"{name}.py").write_text(f"open({str(place / 'ran')!r}, 'w')\n")


class _at:
    """Does something to the one path of a pattern; of patterns that begin with the name of a good place, in a copy of it."""

    def __init__(self, pattern: str, work: Callable[[Path], object]):
        self.pattern, self._work = pattern, work

    def __call__(self, place: Path) -> None:
        pattern = self.pattern.partition("/")[2] if self.pattern.startswith(("runs/", "store/")) else self.pattern
        parent, _, name = pattern.rpartition("/")
        parents = sorted(place.glob(parent)) if parent else [place]
        if (
            self.pattern.startswith("runs/")
            and "checkpoints/" in self.pattern
            or self.pattern.endswith(("lock", "checkpoints"))
        ):
            for done in place.glob("*/done"):
                done.unlink()
        paths = [path for folder in parents for path in (sorted(folder.glob(name)) or [folder / name])]
        self._work(paths[-1])


def _text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def _edited(change: Callable[[Any], object]) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))

    return edit


def _forged(change: Callable[[Any], object]) -> Callable[[Path], object]:
    """Changes a file that holds a checksum of itself, and gives it the right one."""

    def forge(found: Any) -> None:
        del found["checksum"]
        change(found)
        found["checksum"] = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()

    return _edited(forge)


def _lock_of(content: str, ahead: float) -> Callable[[Path], object]:
    def lock(path: Path) -> None:
        path.write_text(content)
        os.utime(path, (time.time() + ahead,) * 2)

    return lock


def _split_by(pattern: str) -> dict[str, Any]:
    """A tokenizer file, as the package `tokenizers` writes it, that splits text by a pattern."""
    special = {"id": 2, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**special, "normalized": False, "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "?": 1, "</s>": 2}, "unk_token": "?"},
    }


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    found = {path: path.lstat() for path in [folder, *folder.rglob("*")]}
    return {str(path): (stat.st_mtime_ns, stat.st_size) for path, stat in found.items()}
