"""Random damage to every file of a run's folder, before it goes on and before it is reported: found, made good or harmless."""

import contextlib
import io
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from benchmarks.campaign import _runs
from benchmarks.campaign._children import isolated
from benchmarks.campaign._result import Result

_SECONDS = 20  # that a try may take before it counts as hung
_STEPS, _EVERY, _CUT = 20, 6, 15
_OUTSIDE = "outside"


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """Half of them before the run goes on, half before it is reported."""
    corpus = _runs.corpus(folder)
    return isolated(lambda: _tried(count, seed, folder, corpus), folder)


class _Cut(Exception):
    """Ends a run as a crash would."""


def _tried(count: int, seed: int, folder: Path, corpus: Path) -> list[Result]:
    from equimu import EquimuError, LanguageModel
    from equimu.runs import RunConfig, read_runs
    from equimu.tasks import ModelConfig, TextConfig
    from equimu.training import RuntimeConfig, train

    os.environ["EQUIMU_CACHE"] = str(folder / "cache")
    config = RunConfig(
        task=LanguageModel(model=ModelConfig(head_dim=8), text=TextConfig(corpus=str(corpus), seq=16, rows=4)),
        size={"width": 16, "depth": 1},
        base={"width": 16},
        steps=_STEPS,
        log_every=2,
        validation_batches=1,
    )
    runtime = RuntimeConfig(checkpoint_every=_EVERY, save_final=True)

    def cut(row: Any) -> None:
        if row["step"] >= _CUT:
            raise _Cut

    done, unfinished = folder / "done", folder / "unfinished"
    whole = train(config, out=done, runtime=runtime)
    other = RunConfig(**{**vars(config), "seed": 1})
    train(other, out=done, runtime=runtime)
    for each in (config, other):
        with contextlib.suppress(_Cut):
            train(each, out=unfinished, runtime=runtime, on_row=cut)
    name = whole.folder.name
    rows, bits = _timeless(whole.rows), _runs.content(done, _STEPS, name)

    def goes_on(copy: Path) -> bool:
        again = train(config, out=copy, runtime=runtime)
        return _timeless(again.rows) == rows and _runs.content(copy, _STEPS, name) == bits

    wanted = [(run.config, run.status, run.validation_loss, run.rows) for run in read_runs(done)]

    def is_reported(copy: Path) -> bool:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            found = [(run.config, run.status, run.validation_loss, run.rows) for run in read_runs(copy)]
        if said.getvalue():  # that a run has not ended: without `done` there is no telling
            raise EquimuError(said.getvalue().strip())
        return found == wanted

    return [
        _campaign("before it goes on", count - count // 2, seed, unfinished, name, goes_on),
        _campaign("before a report", count // 2, seed + 1, done, name, is_reported),
    ]


def _campaign(what: str, count: int, seed: int, place: Path, name: str, right: Callable[[Path], bool]) -> Result:
    """Damages copies of a folder of two runs; `right` uses one, and tells whether what it holds is right."""
    from equimu import EquimuError

    rng = np.random.default_rng(seed)
    ends: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    failures: list[str] = []
    copy, outside = place.with_name("copy"), place.with_name(_OUTSIDE)
    for number in range(count):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(place, copy)
        outside.write_bytes(b'{"step": 1}\n')
        kind = list(_KINDS)[number % len(_KINDS)]
        message = f"{kind} of {_damage(rng, kind, copy / name)}"
        kinds[kind] += 1
        said = io.StringIO()
        try:
            with _watched(), contextlib.redirect_stderr(said):
                fine = right(copy)
            made_good = said.getvalue().count("\n")
            ends["made good and said" if fine and made_good else "harmless by equal rows and bits"] += fine
            if not fine:
                failures.append(f"{message}: silent")
        except EquimuError as error:
            ends["found"] += 1
            if "\n" in str(error):
                failures.append(f"{message}: more than a line: {error}")
        except BaseException as error:
            failures.append(f"{message}: {type(error).__name__}: {error}")
        if outside.read_bytes() != b'{"step": 1}\n':
            failures.append(f"{message}: written through the link")
    outcome = ", ".join(f"{ends[end]} {end}" for end in sorted(ends)) + f"; {len(kinds)} kinds of damage"
    return Result(part="rows", what=what, count=count, outcome=outcome, failures=tuple(failures))


def _timeless(rows: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in rows]


@contextlib.contextmanager
def _watched() -> Generator[None]:
    def hung(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"hung for {_SECONDS} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _damage(rng: np.random.Generator, kind: str, folder: Path) -> str:
    """Every second time it is the rows, else any file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = folder / "metrics.jsonl" if rng.random() < 0.5 else files[int(rng.integers(len(files)))]
    _KINDS[kind](rng, path, folder)
    return str(path.relative_to(folder))


def _flip(rng: np.random.Generator, path: Path, folder: Path) -> None:
    content = bytearray(path.read_bytes())
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def _digit(rng: np.random.Generator, path: Path, folder: Path) -> None:
    content = bytearray(path.read_bytes())
    digits = [at for at, byte in enumerate(content) if byte in b"12345678"]
    content[digits[int(rng.integers(len(digits)))] if digits else 0] += 1
    path.write_bytes(content)


def _truncate(rng: np.random.Generator, path: Path, folder: Path) -> None:
    path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def _drop_line(rng: np.random.Generator, path: Path, folder: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[int(rng.integers(len(lines)))]
    path.write_bytes(b"".join(lines))


def _exchange(rng: np.random.Generator, path: Path, folder: Path) -> None:
    (other,) = (each for each in folder.parent.iterdir() if each != folder)
    there = other / path.relative_to(folder)
    if there.exists():
        mine, others = path.read_bytes(), there.read_bytes()
        path.write_bytes(others)
        there.write_bytes(mine)


def _replace(make: Callable[[Path], object]) -> Callable[[np.random.Generator, Path, Path], None]:
    def damage(rng: np.random.Generator, path: Path, folder: Path) -> None:
        path.unlink()
        make(path)

    return damage


_KINDS: dict[str, Callable[[np.random.Generator, Path, Path], None]] = {
    "flipped bit": _flip,
    "other digit": _digit,
    "truncation": _truncate,
    "line taken out": _drop_line,
    "exchange with another run": _exchange,
    "deletion": _replace(lambda path: None),
    "bytes that are no UTF-8": _replace(lambda path: path.write_bytes(b"\xff\xfe" * 20)),
    "nested JSON": _replace(lambda path: path.write_bytes(b"[" * 100_000)),
    "pipe": _replace(os.mkfifo),
    "link to itself": _replace(lambda path: path.symlink_to(path)),
    "link outside": _replace(lambda path: path.symlink_to(_outside(path))),
    "folder": _replace(lambda path: path.mkdir()),
}


def _outside(path: Path) -> Path:
    (copy,) = (each for each in path.parents if each.name == "copy")
    return copy.with_name(_OUTSIDE)
