"""Command lines with one wrong value each: every flag of a config times the kinds of text that its type does not take."""

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equimu import _values
from equimu._values import hints_of
from equimu.runs import RunConfig
from equimu.sweeps import SweepConfig
from equimu.tasks import LanguageModel
from equimu.training import RuntimeConfig

_LONG, _HUGE = "x" * 300, "9" * 30
_NO_COUNT = ("0", "-1", "1.5", "many", _HUGE)
_NO_FLOAT = ("nan", "inf", "x")
_WRONG: dict[Any, tuple[str, ...]] = {
    _values.Size: (*_NO_COUNT, str(2**40)),
    _values.Count: _NO_COUNT,
    _values.Index: ("-1", "1.5", _HUGE),
    _values.Seed: ("-1", str(2**64), "0.5", "x"),
    _values.Positive: (*_NO_FLOAT, "0", "-1"),
    _values.NotNegative: (*_NO_FLOAT, "-1"),
    _values.DecayRate: (*_NO_FLOAT, "-0.1", "1"),
    _values.Share: (*_NO_FLOAT, "-0.1", "1.1"),
    _values.Part: (*_NO_FLOAT, "0", "1"),
    _values.Seconds: (*_NO_FLOAT, "0", "-1"),
    _values.Log2: (*_NO_FLOAT, "200", "5000"),
    _values.PathLike: ("", _LONG),
    bool: ("2", "yes?"),
    str: (),
}


def lines(folder: Path) -> Iterator[list[str]]:
    """The arguments of each. `folder` holds a `text` folder."""
    text, file, new = str(folder / "text"), str(folder / "text" / "00.txt"), str(folder / "new")
    trained = ["train", "--out", new, "--text.corpus", text]
    for flag, wrong in (*_flags(LanguageModel), *_flags(RunConfig), *_sizes()):
        yield [*trained, flag, wrong]
    for flag, wrong in _flags(RuntimeConfig, "runtime."):
        yield [*trained, flag, wrong]
    swept = ["sweep", "--out", new, "--run.text.corpus", text]
    for flag, wrong in _flags(SweepConfig):
        if not flag.startswith("--run."):
            yield [*swept, flag, wrong]
    for flag, wrong in _sizes("over", "base"):
        yield [*swept, flag, wrong]
    for table in (
        "mop",
        "mup(",
        "mup(form=x)",
        "mup.tune(nowhere, lr=2)",
        "completep(alpha=0)",
        "__import__('os')",
        _LONG,
    ):
        yield [*trained, "--parameterization", table]
        yield [*swept, "--panels", table]
    places = (file, f"{file}/below", "/proc/x", "/proc/1/x", "gs://bucket/x", "", _LONG, "/".join(["x" * 200] * 30))
    for out in places:
        yield ["train", "--text.corpus", text, "--out", out]
        yield ["sweep", "--run.text.corpus", text, "--out", out]
        yield ["report", text, "--out", out]
        yield ["coord-check", "--text.corpus", text, "--out", out]
    for place in (
        file,
        f"{file}/below",
        "/proc/x",
        "http://localhost:9/x",
        "https://localhost/x",
        "nope://x",
        "",
        _LONG,
    ):
        yield ["data", place, "--corpus", text]
        yield ["report", place]
        yield [*trained, "--text.store", place]
    for corpus in (new, "", _LONG, "/proc", "/proc/self/mem", "/sys", "http://localhost/x", "~nobody-there/x"):
        yield ["data", new, "--corpus", corpus]
        yield ["train", "--out", new, "--text.corpus", corpus]
    for name in (new, "", _LONG, text, file, "/proc/self/mem", "/dev/zero"):
        yield ["data", new, "--corpus", text, "--tokenizer", name]
        yield ["show", "--text.tokenizer", name]
        yield ["show", "--config", name]
        yield [*trained, "--restore-from", name]
    yield from _plans()
    for flag, wrong in {
        "--model.n-head": ("0", "-1", "1.5", "5"),
        "--over": ("widht", "3", ""),
        "--sizes": ("0", "x", "64 64", "100", "-2", "1.5"),
        "--learning-rate": (*_NO_FLOAT, "0", "-1"),
        "--check-steps": _NO_COUNT,
        "--seeds": _NO_COUNT,
    }.items():
        for value in wrong:
            yield ["coord-check", "--text.corpus", text, "--out", new, flag, *value.split()]
    yield from _config_files(folder, new)


def _plans() -> Iterator[list[str]]:
    for topology in ("", "cpu", "cpu:0", "cpu:-1", f"cpu:{10**12}", "v9:2x2", f"v5p:{10**6}x{10**6}x{10**6}", _LONG):
        yield ["plan", topology]
        yield ["plan", topology, "--sweep", "1"]
    for flag, wrong in {
        "--sweep": ("-1", "0", "x"),
        "--seconds": _WRONG[_values.Seconds],
        "--model.vocab-size": _NO_COUNT,
        "--sweep-rows": ("0", "-1", "x"),
        "--sweep-accumulate": ("0", "-1", "x"),
        "--runtime.fsdp": ("3", "0", "-1"),
    }.items():
        for value in wrong:
            yield ["plan", "cpu:2", flag, value]


def _config_files(folder: Path, new: str) -> Iterator[list[str]]:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("sweep", {name: value})
        for name in ("fit", "seeds", "panels")
        for value in ("64", None, {}, [[]], [10**40], True)
    ]
    wrong += [
        ("sweep", {"over": {name: value}})
        for name in ("width", "depth", "widht")
        for value in (64, "64", None, {}, [[]], [10**40], True)
    ]
    wrong += [
        ("sweep", {"over": value}) for value in (64, "width", None, [[]], True, {"width": [64], "steps": ["many"]})
    ]
    wrong += [
        ("show", {"parameterization": value}) for value in ("mup.tune(output, lr=x)", 4, [4], {}, {"name": "mup"})
    ]
    wrong += [("show", {"task": value}) for value in (4, [4], None, {"name": "nowhere.py:Task"}, {"nmae": "x"})]
    for value in (10**40, -(10**40), [], {}, None, 1e308, "1"):
        wrong += [("show", {name: value}) for name in ("steps", "seed")]
        wrong += [(command, {part: {"width": value}}) for part in ("size", "base") for command in ("show", "plan")]
        wrong += [("show", {"task": {"model": {name: value}}}) for name in ("use_bias", "dtype")]
    for number, (command, values) in enumerate(wrong):
        path = folder / f"wrong-{number}.json"
        path.write_text(json.dumps(values))
        yield [command, "--config", str(path), *(["--out", new] if command == "sweep" else [])]


def _sizes(*parts: str) -> Iterator[tuple[str, str]]:
    for part in parts or ("size", "base"):
        for name in ("width", "depth"):
            for wrong in _WRONG[_values.Size]:
                yield f"--{part}.{name}", wrong
        yield f"--{part}.widht", "8"


def _flags(cls: type, where: str = "") -> Iterator[tuple[str, str]]:
    for name, hint in hints_of(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _flags(typing.cast(type, hint), f"{where}{name}.")
            continue
        for wrong in _wrong_of(hint):
            yield f"--{where}{name}".replace("_", "-"), wrong


def _wrong_of(hint: Any) -> tuple[str, ...]:
    if hint in _WRONG:
        return _WRONG[hint]
    if typing.get_origin(hint) is typing.Literal:
        return ("", "nonsense")
    inner = [option for option in typing.get_args(hint) if option not in (type(None), ...)]
    return _wrong_of(inner[0]) if inner else ()
