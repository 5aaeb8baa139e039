"""Malformed configs, flags, corpora, stores and checkpoints: one line each, exit code 2, nothing half-made left behind."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.campaign import _runs
from benchmarks.campaign._children import equimu
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
    ("--accumulate 3", "3 equal parts"),
    ("--log-every 0", "log_every must be at least 1"),
    ("--model.width 0", "model.width must be at least 1"),
    ("--model.width 17", "17"),
    ("--model.head-dim 0", "model.head_dim must be at least 1"),
    ("--model.activation sine", "activation"),
    ("--model.dtype float8", "dtype"),
    ("--model.attention-backend cudnnn", "cudnn"),
    ("--model.n-kv-head 5", "kv"),
    ("--parameterization.name nup", "name"),
    ("--parameterization.base-width 0", "base_width must be at least 1"),
    ("--parameterization.base-width 32", "base d_model 32"),
    ("--parameterization.tune nonsense", "nonsense"),
    ("--parameterization.tune output.multiplier=x", "output.multiplier"),
    ("--parameterization.tune nowhere.lr=2", "nowhere"),
    ("--optimizer.name adamx", "name"),
    ("--optimizer.learning-rate -1", "learning_rate"),
    ("--optimizer.learning-rate inf", "learning_rate"),
    ("--optimizer.learning-rate nan", "learning_rate"),
    ("--optimizer.b1 1.0", "b1"),
    ("--optimizer.b2 -0.1", "b2"),
    ("--optimizer.warmup 2", "warmup"),
    ("--optimizer.weight-decay -1", "weight_decay"),
    ("--optimizer.clip-norm -1", "clip_norm"),
    ("--data.seq 0", "data.seq must be at least 1"),
    ("--data.rows 0", "data.rows must be at least 1"),
    ("--data.corpus {}/nowhere", "does not exist"),
    ("--data.corpus {}/empty", "has no files"),
    ("--data.corpus {}/binary", "no UTF-8 text"),
    ("--data.corpus {}/lone", "one document"),
    ("--data.corpus {}/lines", "not a document"),
    ("--data.tokenizer {}/nowhere.json", "nowhere.json"),
    ("--data.tokenizer {}/text/00.txt", "00.txt"),
    ("--data.store {}/nowhere", "no token store"),
    ("--data.store {}/text", "no token store"),
    ("--data.store nope://x", "nope"),
    ("--data.validation-share 0", "between 0 and 1"),
    ("--data.validation-share 1.5", "between 0 and 1"),
    ("--data.seq 10000000", "window"),
    ("--runtime.checkpoint-every 0", "checkpoint_every must be at least 1"),
    ("--runtime.keep 0", "keep must be at least 1"),
    ("--runtime.data 64", "64"),
    ("--runtime.restore-from {}/nowhere", "nowhere"),
    ("--runtime.heartbeat-seconds 0", "heartbeat_seconds"),
    ("--runtime.processes 2", "go together"),
)
_CONFIGS: tuple[tuple[str, str, str], ...] = (
    ("a.json", "{", "no JSON"),
    ("b.json", "[1, 2]", "must be an object"),
    ("c.json", '{"stepz": 3}', "steps"),
    ("d.json", '{"steps": "3"}', "steps must be int"),
    ("e.json", '{"model": 3}', "model must be an object"),
    ("f.json", '{"model": {"widht": 3}}', "width"),
    ("g.toml", "steps = ", "no TOML"),
    ("h.toml", "[model]\nwidth = true", "model.width must be int"),
    ("i.json", "\xff\xfe", "no JSON"),
)


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """As many of them, each kind at least once from 70 on."""
    _inputs(folder)
    cases = list(_cases(folder))
    chosen = np.random.default_rng(seed).permutation(len(cases))[:count]
    failures = [failure for number in sorted(chosen) for failure in _try(folder, *cases[number])]
    outcome = "one line each, exit code 2, nothing left behind"
    return [Result(part="malformed", what="inputs", count=len(chosen), outcome=outcome, failures=tuple(failures))]


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
    equimu(["data", "--out", str(folder / "store"), "--corpus", str(folder / "text")], folder / "out.txt").wait(120)
    arguments = _runs.arguments(folder, folder / "good", steps=20)
    child = equimu(arguments, folder / "out.txt")
    if child.wait(300) != 0:
        raise RuntimeError(child.output())


def _cases(folder: Path) -> Iterator[tuple[str, list[str], str, Callable[[Path], object]]]:
    """What it is, the arguments, the words wanted, and what to do with the folder of runs first."""
    for flags, words in _FLAGS:
        yield flags, flags.format(folder).split(), words, lambda out: None
    for name, content, words in _CONFIGS:
        yield f"config {content!r}", ["--config", str(folder / name)], words, lambda out: None
    for what, words, damage in (
        ("a token store without its description's end", "cannot be read", lambda text: text[: len(text) // 2]),
        (
            "a token store of another format",
            "has format|checksum",
            lambda text: text.replace('"format": 2', '"format": 1'),
        ),
        ("a token store of another tokenizer", "checksum", lambda text: text.replace('"bytes"', '"bites"')),
    ):
        store = folder / f"store-{len(what)}"
        if (folder / "store").exists():
            shutil.copytree(folder / "store", store, dirs_exist_ok=True)
            path = next(store.rglob("equimu-tokens.json"))
            path.write_text(damage(path.read_text()))
            yield what, ["--data.store", str(path.parent)], words, lambda out: None

    def unfinished(out: Path) -> Path:
        shutil.copytree(folder / "good", out)
        (run_folder,) = [path.parent for path in out.glob("*/done")]
        (run_folder / "done").unlink()
        return run_folder

    def damaged_checkpoints(out: Path) -> None:
        for path in unfinished(out).glob("checkpoints/step-*/manifest.json"):
            path.write_text("{}")

    def other_config(out: Path) -> None:
        path = unfinished(out) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"config": {}}))

    def no_config(out: Path) -> None:
        (unfinished(out) / "config.json").write_text("nonsense")

    yield "checkpoints that are all damaged", ["--steps", "20"], "is sound", damaged_checkpoints
    yield "a run folder of another config", ["--steps", "20"], "another config", other_config
    yield "a run folder whose config is no JSON", ["--steps", "20"], "is no JSON", no_config


def _try(folder: Path, what: str, flags: list[str], words: str, prepare: Callable[[Path], object]) -> Iterator[str]:
    out = folder / "malformed"
    prepare(out)
    before = _files(out)
    child = equimu([*_runs.arguments(folder, out, steps=20), *flags], folder / "out.txt")
    code = child.wait(120)
    lines = [line for line in child.output().splitlines() if line.startswith("equimu: ")]
    told = child.output().strip()
    if code != ExitCode.MISTAKE or len(lines) != 1 or "Traceback" in told:
        yield f"{what}: code {code}: {told[-300:]}"
    elif not any(word in lines[0] for word in words.split("|")):
        yield f"{what}: {lines[0]!r} does not tell {words!r}"
    elif _files(out) != before:
        yield f"{what}: leaves {sorted(_files(out) ^ before)[:5]}"
    shutil.rmtree(out, ignore_errors=True)


def _files(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*")}
