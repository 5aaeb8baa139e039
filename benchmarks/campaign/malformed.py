"""Malformed configs, flags, corpora, stores and checkpoints: one line each, exit code 2, nothing half-made left behind."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.campaign import _calls as _calls_of
from benchmarks.campaign import _lines as _lines_of
from benchmarks.campaign import _runs
from benchmarks.campaign._children import KEPT_PROGRAMS, equimu, isolated
from benchmarks.campaign._result import Result
from equimu._errors import ExitCode

# Flags of `equimu train`, and words that the message must hold.
_FLAGS: tuple[tuple[str, str], ...] = (
    ("--steps 0", "steps must be at least 1"),
    ("--steps -3", "steps must be at least 1"),
    ("--steps many", "steps"),
    ("--steps 1.5", "steps"),
    ("--stepz 5", "--steps"),
    ("--seed x", "seed"),
    ("--accumulate 0", "accumulate must be at least 1"),
    ("--accumulate 3", "3 equal micro-batches"),
    ("--log-every 0", "log_every must be at least 1"),
    ("--size.width 0", "size.width must be at least 1"),
    ("--size.width 17", "17"),
    ("--model.head-dim 0", "model.head_dim must be at least 1"),
    ("--model.activation sine", "activation"),
    ("--model.dtype float8", "dtype"),
    ("--model.attention-backend cudnnn", "cudnn"),
    ("--model.n-kv-head 5", "5 key/value heads"),
    ("--parameterization nup", "nup"),
    ("--base.width 0", "base.width must be at least 1"),
    ("--base.width 32", "base width 32"),
    ("--parameterization mup.tune(nonsense)", "nonsense"),
    ("--parameterization mup.tune(output,multiplier=x)", "multiplier"),
    ("--parameterization mup.tune(nowhere,lr=2)", "nowhere"),
    ("--optimizer.name adamx", "name"),
    ("--optimizer.learning-rate -1", "learning_rate"),
    ("--optimizer.learning-rate inf", "learning_rate"),
    ("--optimizer.learning-rate nan", "learning_rate"),
    ("--optimizer.b1 1.0", "b1"),
    ("--optimizer.b2 -0.1", "b2"),
    ("--optimizer.warmup 2", "warmup"),
    ("--optimizer.weight-decay -1", "weight_decay"),
    ("--optimizer.clip-norm -1", "clip_norm"),
    ("--text.seq 0", "text.seq must be at least 1"),
    ("--text.rows 0", "text.rows must be at least 1"),
    ("--text.corpus {}/nowhere", "does not exist"),
    ("--text.corpus {}/empty", "has no files"),
    ("--text.corpus {}/binary", "no UTF-8 text"),
    ("--text.corpus {}/lone", "one document"),
    ("--text.corpus {}/lines", "not a document"),
    ("--text.tokenizer {}/nowhere.json", "nowhere.json"),
    ("--text.tokenizer {}/text/00.txt", "00.txt"),
    ("--text.store {}/nowhere", "no token store"),
    ("--text.store {}/text", "no token store"),
    ("--text.store nope://x", "nope"),
    ("--text.validation-share 0", "above 0 and below 1"),
    ("--text.validation-share 1.5", "above 0 and below 1"),
    ("--text.seq 10000000", "window"),
    ("--runtime.checkpoint-every 0", "checkpoint_every must be at least 1"),
    ("--runtime.keep 0", "keep must be at least 1"),
    ("--runtime.data 64", "64"),
    ("--restore-from {}/nowhere", "nowhere"),
    ("--restore-from {}/text", "holds no checkpoint"),
    ("--restore-from {}/good-run/checkpoints/step-7", "step-7 is not there"),
    ("--restore-from {}/good-run --size.width 32", "holds other arrays"),
    ("--restore-from {}/good-run --steps 5", "restore_from is of step 20"),
    ("--runtime.heartbeat-seconds 0", "heartbeat_seconds"),
    ("--runtime.processes 2", "go together"),
)
_CONFIGS: tuple[tuple[str, str, str], ...] = (
    ("a.json", "{", "not JSON"),
    ("b.json", "[1, 2]", "must be an object"),
    ("c.json", '{"stepz": 3}', "steps"),
    ("d.json", '{"steps": "3"}', "steps must be int"),
    ("e.json", '{"task": {"model": 3}}', "task.model must be an object"),
    ("f.json", '{"size": {"widht": 3}}', "width"),
    ("g.toml", "steps = ", "not TOML"),
    ("h.toml", "[size]\nwidth = true", "size.width must be int"),
    ("i.json", "\xff\xfe", "not JSON"),
)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# What was done to a token store, words that the message must hold, to which of its files, and how.
_STORES: tuple[tuple[str, str, str, Callable[[Path], object]], ...] = (
    ("a store whose description is cut off", "cannot be read", "equimu-tokens.json", lambda path: _cut(path)),
    (
        "a store of another format",
        "has format|checksum",
        "equimu-tokens.json",
        lambda path: _replace(path, '"format": 2', '"format": 1'),
    ),
    (
        "a store of another tokenizer",
        "checksum",
        "equimu-tokens.json",
        lambda path: _replace(path, '"bytes"', '"bites"'),
    ),
    ("a store without description", "no token store", "equimu-tokens.json", lambda path: path.unlink()),
    ("a store with a flipped bit", "damaged", "train/c/0", _flip),
    ("a store that is cut off", "damaged", "train/c/0", lambda path: _cut(path)),
    ("a store with a file missing", "damaged", "train/c/0", lambda path: path.unlink()),
)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """As many of each, out of command lines and calls with a wrong value each, and of damaged inputs."""
    _inputs(folder)
    return [
        *_with_words(count, seed, folder),
        *_lines(count, seed, folder),
        *isolated(lambda: _calls(count, seed, folder), folder),
    ]


def _calls(count: int, seed: int, folder: Path) -> list[Result]:
    before = _files(folder)
    calls = _some(list(_calls_of.calls(folder)), count, seed)
    outcomes = [(what, _calls_of.outcome(call)) for what, call in calls]
    failures = [f"{what}: {wrong}" for what, wrong in outcomes if wrong is not None]
    if left := _files(folder) - before:
        failures.append(f"leaves {sorted(left)[:5]}")
    outcome = f"an EquimuError of one line within {_calls_of.SECONDS} s, nothing left behind"
    return [
        Result(part="malformed", what="calls of the API", count=len(calls), outcome=outcome, failures=tuple(failures))
    ]


def _lines(count: int, seed: int, folder: Path) -> list[Result]:
    lines = _some(list(_lines_of.lines(folder)), count, seed)
    failures: list[str] = []
    for line in lines:
        before = _files(folder)
        child = equimu(line, folder / "out.txt")
        try:
            code = child.wait(_calls_of.SECONDS)
        except TimeoutError as error:
            failures.append(f"{line}: {error}")
            continue
        message = child.output().strip()
        if code != ExitCode.MISTAKE or "\n" in message or not message.startswith("equimu: "):
            failures.append(f"{line}: code {code}: {message[-300:]}")
        elif left := _files(folder) - before - {"out.txt"}:
            failures.append(f"{line}: leaves {sorted(left)[:5]}")
    outcome = f"one line within {_calls_of.SECONDS} s, exit code 2, nothing left behind"
    return [Result(part="malformed", what="command lines", count=len(lines), outcome=outcome, failures=tuple(failures))]


def _some(values: list[Any], count: int, seed: int) -> list[Any]:
    chosen = np.random.default_rng(seed).permutation(len(values))[:count]
    return [values[number] for number in sorted(chosen)]


def _with_words(count: int, seed: int, folder: Path) -> list[Result]:
    cases = list(_cases(folder))
    chosen = np.random.default_rng(seed).permutation(len(cases))[:count]
    failures = [failure for number in sorted(chosen) for failure in _try(folder, *cases[number])]
    outcome = "one line each, exit code 2, nothing left behind"
    return [
        Result(
            part="malformed",
            what="damaged and wrong inputs, by the words of the message",
            count=len(chosen),
            outcome=outcome,
            failures=tuple(failures),
        )
    ]


def _inputs(folder: Path) -> None:
    _runs.corpus(folder)
    for name in ("empty", "binary", "lone", "lines", "good"):
        (folder / name).mkdir()
    for name in ("one", "two"):
        (folder / "binary" / name).write_bytes(b"\x89PNG\0\0" + name.encode())
    (folder / "lone" / "a.txt").write_text("same")
    (folder / "lines" / "a.jsonl").write_text('{"text": "good"}\n{"txt": "bad"}\n')
    for name, content, _ in _CONFIGS:
        (folder / name).write_text(content, encoding="latin-1")
    _made(folder, ["data", str(folder / "store"), "--corpus", str(folder / "text")])
    _made(folder, _runs.arguments(folder, folder / "good", steps=20))
    run_folder = _runs.run_folder(folder / "good")
    assert run_folder is not None
    (folder / "good-run").symlink_to(run_folder)


def _made(folder: Path, arguments: list[str]) -> None:
    child = equimu(arguments, folder / "out.txt")
    if child.wait(300) != 0:
        raise RuntimeError(child.output())


def _cases(folder: Path) -> Iterator[tuple[str, list[str], str, Callable[[Path], object]]]:
    """What it is, the arguments, the words wanted, and what to do with the folder of runs first."""
    for flags, words in _FLAGS:
        yield flags, flags.format(folder).split(), words, lambda out: None
    for name, content, words in _CONFIGS:
        yield f"config {content!r}", ["--config", str(folder / name)], words, lambda out: None
    for number, (what, words, name, damage) in enumerate(_STORES):
        store = folder / f"store-{number}"
        shutil.copytree(folder / "store", store)
        path = sorted(store.rglob(name))[0]
        damage(path)
        place = next(store.rglob("equimu-tokens.json"), path).parent
        yield what, ["--text.store", str(place)], words, lambda out: None

    def unfinished(out: Path) -> Path:
        shutil.copytree(folder / "good", out)
        (run_folder,) = [path.parent for path in out.glob("*/done")]
        (run_folder / "done").unlink()
        return run_folder

    def damaged_checkpoints(out: Path) -> None:
        for path in unfinished(out).glob("checkpoints/step-*/manifest.json"):
            path.write_text("{}")

    def damaged_arrays(out: Path) -> None:
        for path in unfinished(out).glob("checkpoints/step-*/*/c*"):
            _flip(path)

    def other_config(out: Path) -> None:
        path = unfinished(out) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"config": {}}))

    def no_config(out: Path) -> None:
        (unfinished(out) / "config.json").write_text("nonsense")

    yield "checkpoints that are all damaged", ["--steps", "20"], "is valid", damaged_checkpoints
    yield "checkpoints whose arrays are damaged", ["--steps", "20"], "is valid", damaged_arrays
    yield "a run folder of another config", ["--steps", "20"], "another config", other_config
    yield "a run folder whose config is not JSON", ["--steps", "20"], "is not JSON", no_config


def _try(folder: Path, what: str, flags: list[str], words: str, prepare: Callable[[Path], object]) -> Iterator[str]:
    out = folder / "malformed"
    prepare(out)
    before = _files(out), _files(folder / "cache")
    child = equimu([*_runs.arguments(folder, out, steps=20), *flags], folder / "out.txt")
    code = child.wait(120)
    message = child.output().strip()
    if code != ExitCode.MISTAKE or "\n" in message or not message.startswith("equimu: "):
        yield f"{what}: code {code}: {message[-300:]}"
    elif not any(word in message for word in words.split("|")):
        yield f"{what}: {message!r} does not tell {words!r}"
    elif (after := (_files(out), _files(folder / "cache"))) != before:
        yield f"{what}: leaves {[sorted(a ^ b)[:5] for a, b in zip(before, after, strict=True)]}"
    shutil.rmtree(out, ignore_errors=True)


def _files(out: Path) -> set[str]:
    """What is there, but for the programs that the campaign keeps for itself."""
    paths = (path.relative_to(out) for path in out.rglob("*"))
    return {str(path) for path in paths if path.parts[0] != KEPT_PROGRAMS}
