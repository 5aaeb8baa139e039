"""Calls of the Python API with one wrong value each: per function, each argument times the kinds of value that it is not."""

import dataclasses
import functools
import math
import signal
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import equimu as mu
from equimu import EquimuError
from equimu.data import Loader, OrderedLoader, open_store, prepare, read_corpus, tokenizer_from_name, write_store
from equimu.diagnostics import check_run
from equimu.optim import AdamW
from equimu.plans import sweep_plans
from equimu.reports import read_cells
from equimu.runs import RunConfig
from equimu.sharding import make_mesh
from equimu.storage import Checkpoints
from equimu.sweeps import SweepConfig, sweep
from equimu.tasks import LanguageModel, ModelConfig, TextConfig
from equimu.training import RuntimeConfig, train

_NO_COUNT = (0, -1, 2.5, math.nan, "3", True, 2**70)
_NO_SIZE = (0, -1, 2.5, "8", 2**40)
_NO_NUMBER = (math.nan, math.inf, "1", 1j, [1.0])
_NO_RATE = (-0.1, 1.0, math.nan, "0.9")
_NO_SHARE = (-0.1, 1.5, math.nan, "half")
_NO_TIME = (0, -1, math.nan, math.inf, "soon")
_NO_SEED = (-1, 2**64, 1.5, "0", True)
_NO_PATH = ("", "a\0b", 3, None, "x" * 300)
_NO_TEXT = (3, None, b"x", ["x"])
_NO_LIST = (64, "64", 3.5, {}, [2.5], ["x"], [0])
_NO_FUNCTION = (3, "f", [])
_NO_OBJECT = (3, "config", None, {}, RunConfig)

SECONDS = 10

# (what, function, right arguments, argument -> wrong values)
_Case = tuple[str, Callable[..., Any], Mapping[str, Any], Mapping[str, tuple[Any, ...]]]


def calls(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """What each is, and the call. `folder` holds a `text` folder and a token store `store`."""
    for what, function, right, wrong in _cases(folder):
        for argument, values in wrong.items():
            for value in values:
                yield f"{what}({argument}={_short(value)})", functools.partial(function, **{**right, argument: value})


def outcome(call: Callable[[], object]) -> str | None:
    """What is wrong with how a wrong call ended; None if its message is one line."""
    before = signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        call()
    except EquimuError as error:
        return f"a message of several lines: {error}" if "\n" in str(error) else None
    except _LateError:
        return f"not over after {SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "accepted"


class _LateError(BaseException):
    """A call has had its time."""


def _late(number: int, frame: Any) -> None:
    raise _LateError


def _short(value: Any) -> str:
    text = f"array{value.shape}" if hasattr(value, "shape") and value.shape else repr(value)
    return text if len(text) < 40 else f"{text[:40]}..."


def _cases(folder: Path) -> Iterator[_Case]:
    yield from _configs()
    yield from _attention()
    yield from _layers()
    yield from _axes()
    yield from _data(folder)
    yield from _runs(folder)


def _configs() -> Iterator[_Case]:
    yield (
        "ModelConfig",
        ModelConfig,
        {},
        {
            "head_dim": _NO_SIZE,
            "n_head": _NO_SIZE,
            "n_kv_head": _NO_SIZE,
            "d_ff_multiple": (*_NO_NUMBER, 0, -1.0),
            "activation": (3, "sine", ["relu"]),
            "rotary_base": (*_NO_NUMBER, 0.0),
            "attention_scale": ("1/2", math.nan, []),
            "norm_eps": (-1.0, math.nan),
            "use_bias": (1, "yes", None),
            "unroll": _NO_COUNT,
            "attention_backend": _NO_TEXT,
        },
    )
    yield (
        "AdamW",
        AdamW,
        {},
        {
            "learning_rate": (*_NO_NUMBER, -1.0, lambda step: 1.0),
            "b1": _NO_RATE,
            "clip_norm": (0, -1.0, math.nan),
            "warmup": _NO_SHARE,
        },
    )
    yield (
        "TextConfig",
        TextConfig,
        {},
        {
            "corpus": _NO_PATH,
            "seq": _NO_SIZE,
            "rows": _NO_SIZE,
            "validation_share": (0, 1, *_NO_SHARE),
        },
    )
    yield (
        "LanguageModel",
        LanguageModel,
        {},
        {
            "model": (3, None, {}, AdamW()),
            "text": (3, None, {}, ModelConfig()),
            "z_loss": (-1.0, math.nan),
            "loss_denominator": (3, "rows"),
            "loss_chunk": (0, 1.5),
        },
    )
    sizes = (3, None, "width", {3: 8}, {"widht": 8}, *({"width": size} for size in _NO_SIZE))
    yield (
        "RunConfig",
        RunConfig,
        {},
        {
            "task": (3, None, {}, LanguageModel, AdamW()),
            "size": sizes,
            "base": sizes,
            "base_rows": (0, 1.5),
            "parameterization": ("mop", 3, None, {}, "mup(", "mup(x=1)", "mup.tuned(output)"),
            "steps": _NO_COUNT,
            "seed": _NO_SEED,
            "accumulate": (0, 1.0),
            "validation_batches": (0, -1, 1.5),
            "restore_from": ("", 3),
        },
    )
    yield (
        "RuntimeConfig",
        RuntimeConfig,
        {},
        {
            "fsdp": _NO_SIZE,
            "checkpoint_seconds": _NO_TIME,
            "heartbeat_seconds": _NO_TIME,
        },
    )
    yield (
        "SweepConfig",
        SweepConfig,
        {},
        {
            "over": (
                *(64, "64", [64], {"widht": (64,)}, {"width": (8, 16), "steps": (1.5,)}),
                *({name: values} for name in ("width", "depth") for values in _NO_LIST),
            ),
            "fit": (
                {"learning_rate": 0.1},
                {"learning_rate": [math.nan]},
                {"learning_rate": ["x"]},
                {},
                {"b1": (0.9,), "b2": (0.9,)},
            ),
            "seeds": (0, -1, [-1], [2**64], [0.5]),
            "panels": ("mup", [3], ["mop"]),
            "base": sizes,
        },
    )


def _attention() -> Iterator[_Case]:
    q = jnp.ones((4, 2, 8))
    wrong = {
        "q": (3, None, [[1.0]], jnp.ones((4, 8)), jnp.ones((4, 2, 8), int), jnp.ones((4, 3, 4))),
        "k": (None, "k", jnp.ones((4, 2, 4)), jnp.ones((1, 4, 2, 8))),
        "v": (None, jnp.ones((5, 2, 8))),
        "scale": (None, "1", 1j, [1.0], jnp.ones(2), math.nan, True),
        "window": (0, -1, 2.5, "3", True, jnp.ones(())),
        "backend": (3, None, "cudnnn"),
    }
    more = {
        "causal": (None, "yes", 1),
        "segment_ids": (3, [1, 1, 2, 2], jnp.ones(4), jnp.ones(3, int), (jnp.ones(4, int),), "ab"),
        "q_offset": (0.5, "1", None, jnp.ones(2, int), True),
    }
    yield "dot_product_attention", mu.attention.dot_product_attention, dict(q=q, k=q, v=q, scale=0.1), {**wrong, **more}
    cached = {"q": wrong["q"][:4], "scale": wrong["scale"], "window": wrong["window"]}
    lengths = (0, 5, -1, 2.5, "4", None, True, np.int64(9), jnp.asarray(9), jnp.ones(2, int))
    newest = dict(q=q[:1], k_cache=q, v_cache=q, scale=0.1, length=4)
    yield "decode_attention", mu.attention.decode_attention, newest, {**cached, "length": lengths}
    asked = {"platform": (3, "abacus"), "window": (2.5,), "q": (None,)}
    yield "explain", mu.attention.explain, dict(q=q, k=q, v=q, scale=0.1), asked


def _layers() -> Iterator[_Case]:
    key = jax.random.key(0)
    no_key = (0, None, "key", jnp.ones(3))
    right: dict[str, Any] = dict(vocab_size=11, d_model=8, n_layer=1, head_dim=8, key=key)
    wrong = {
        "vocab_size": _NO_SIZE,
        "d_model": _NO_SIZE,
        "n_layer": _NO_SIZE,
        "head_dim": (*_NO_SIZE, 3),
        "n_kv_head": (0, 2, 1.5),
        "d_ff_multiple": (0, -1, math.nan, "4"),
        "rotary_base": (0, -1.0, math.nan, "10"),
        "norm_eps": (-1.0, math.nan, "x"),
        "attention_scale": (math.nan, "1", []),
        "unroll": (0, 1.5),
        "use_bias": ("no", 3),
        "key": no_key,
    }
    yield "Transformer", mu.nn.Transformer, right, wrong
    yield "Linear", mu.nn.Linear, dict(d_in=2, d_out=3, key=key), {"d_in": _NO_SIZE, "d_out": _NO_SIZE, "key": no_key}
    yield (
        "Embedding",
        mu.nn.Embedding,
        dict(vocab_size=4, d_model=2, key=key),
        {
            "vocab_size": _NO_SIZE,
            "d_model": _NO_SIZE,
        },
    )
    yield "RMSNorm", mu.nn.RMSNorm, dict(d_model=4), {"d_model": _NO_SIZE, "gain": (3, "vectors"), "eps": (-1.0, "x")}
    yield "MLP", mu.nn.MLP, dict(d_model=4, d_ff=8, key=key), {"d_model": _NO_SIZE, "d_ff": _NO_SIZE}
    yield (
        "warmup_schedule",
        mu.warmup_schedule,
        dict(total=10, warmup=1),
        {
            "total": (0, -1, "9", None),
            "warmup": (-1, "1", None),
            "decay": (3, "linaer"),
            "floor": (-1.0, math.nan, "0", None),
        },
    )


def _axes() -> Iterator[_Case]:
    def registered(cls: Any = mu.nn.Linear, **fields: Any) -> None:
        mu.register_axes(cls, **fields)

    def residual(cls: Any = mu.nn.Block, part: Any = "mlp.down") -> None:
        mu.register_residual(cls, part)

    def sites(cls: Any = mu.nn.Block, sites: Any = None) -> None:
        mu.register_sites(cls, sites)

    def axes(words: Any = ("out", "in"), **more: Any) -> None:
        mu.axes(*words, **more)

    no_class = (3, "Linear", None, mu.nn.Linear(2, 2, key=jax.random.key(0)))
    declarations = (3, math.nan, "out", None, ["out", "in"], ("out", math.nan), ("oot",), (3,))
    yield (
        "register_axes",
        registered,
        {"weight": ("in", "out")},
        {"cls": no_class, "weight": declarations, "weigth": (("in",),)},
    )
    yield "register_residual", residual, {}, {"cls": no_class, "part": (3, "mlp down", None)}
    yield (
        "axes",
        axes,
        {},
        {
            "words": ((3, "in"), (math.nan,), ("oot",)),
            "constant": (math.nan, math.inf, "0", [0.0]),
            "tied": (("in",), 3),
            "bias_of": (3,),
            "norm_of": (3,),
            "split": (3, (0,), (5, 2), (0, 0), ("in", 2)),
        },
    )


def _data(folder: Path) -> Iterator[_Case]:
    tokenizer = tokenizer_from_name("bytes")
    corpus, store = read_corpus(str(folder / "text")), open_store(folder / "store")
    text_file = str(folder / "text" / "00.txt")
    yield "read_corpus", read_corpus, {}, {"spec": (*_NO_PATH, "/proc", "http://localhost/x", "~nobody-there/x")}
    written = dict(place=str(folder / "new"), corpus=corpus, tokenizer=tokenizer)
    yield (
        "write_store",
        write_store,
        written,
        {
            "place": (*_NO_PATH, text_file, f"{text_file}/below", "/proc/x", "http://localhost:9/x", "nope://x"),
            "corpus": (3, None, "stdlib"),
            "tokenizer": (3, None, "bytes"),
            "validation": (0, 1, *_NO_SHARE),
            "split_seed": (1.5, "0", None),
            "dtype": (3, "int8", "float32"),
        },
    )
    kept = dict(spec=str(folder / "text"), tokenizer=tokenizer, folder=str(folder / "new"))
    yield "prepare", prepare, kept, {"spec": _NO_PATH, "tokenizer": ("bytes",), "folder": (3, "", text_file, "/proc/x")}
    yield (
        "open_store",
        open_store,
        {},
        {"place": (*_NO_PATH, text_file, str(folder), "/proc", "nope://x", "http://localhost:9/x")},
    )
    yield (
        "tokenizer_from_name",
        tokenizer_from_name,
        {},
        {"name": (*_NO_PATH, str(folder), text_file, "/proc/self/mem")},
    )
    common: dict[str, Any] = dict(store=store, seq=8, rows=2)
    loader = {
        "store": (3, None, str(folder / "store")),
        "seq": (*_NO_SIZE, 10**8),
        "rows": _NO_SIZE,
        "windows": (3, "docs"),
        "split": (3, "test"),
    }
    yield "Loader", Loader, {**common, "seed": 0}, {**loader, "seed": (1.5, "0", None)}
    yield "OrderedLoader", OrderedLoader, common, {**loader, "seq": _NO_SIZE, "first": (0, -1, 1.5, "2")}
    made = Loader(store, seq=8, rows=2, seed=0)
    yield "Loader.batch", made.batch, {"step": 0}, {"step": (-1, 1.5, "0", None), "rows": (3, [2], [], [0.5], "01")}


def _runs(folder: Path) -> Iterator[_Case]:
    config = RunConfig(task=LanguageModel(text=TextConfig(corpus=str(folder / "text"))), steps=1)
    tables = ("completep(alpha=0)", "completep(alpha=nan)", "mup.tune(output, multiplier=x)")
    wrong_tables = [dataclasses.replace(config, parameterization=table) for table in tables]
    text_file, new = str(folder / "text" / "00.txt"), str(folder / "runs")
    no_folder = (*_NO_PATH, text_file, f"{text_file}/below", "/proc/x", "gs://bucket/x")
    yield (
        "train",
        train,
        dict(task=config, out=new),
        {
            "task": (*_NO_OBJECT, dataclasses.replace(config, accumulate=3), *wrong_tables),
            "out": no_folder,
            "runtime": (3, {}, config),
            "on_row": (3, "f"),
        },
    )
    yield (
        "sweep",
        sweep,
        dict(task=SweepConfig(run=config), out=new),
        {
            "task": _NO_OBJECT,
            "out": no_folder,
            "workers": _NO_SIZE,
            "runtime": (3, {}),
            "on_cell": (3,),
        },
    )
    yield "make_mesh", make_mesh, {}, {"data": _NO_SIZE, "fsdp": (0, 3.5, 64)}
    yield (
        "plan",
        mu.plan,
        dict(config=config, topology="cpu:2"),
        {
            "config": _NO_OBJECT,
            "topology": (3, None, "", "cpu", "cpu:0", "cpu:1000000000000", "v5p:99999x99999x99999", "cpu:٣"),
            "data": (0, 7, 1.5),
            "seconds": _NO_TIME,
        },
    )
    yield (
        "sweep_plans",
        sweep_plans,
        dict(config=config, topology="cpu:2"),
        {
            "compiled": _NO_SIZE,
            "rows": (0, [0], [1.5], 8),
            "accumulate": ([0], 4, ["1"]),
            "seconds": _NO_TIME,
        },
    )
    yield (
        "check_run",
        check_run,
        dict(config=config),
        {
            "config": _NO_OBJECT,
            "over": (3, "widht", "", ["width"]),
            "sizes": (64, [], [0], [64, 64], [64], [1.5], "64"),
            "learning_rate": (0, -1.0, math.nan, "1"),
            "steps": (0, 1.5, "3"),
            "seeds": (0, 1.5, "3"),
        },
    )
    yield "read_cells", read_cells, {}, {"root": (*_NO_PATH, text_file, str(folder / "nowhere"), "/proc")}
    yield "Checkpoints", Checkpoints, {"root": new}, {"root": _NO_PATH[:4], "keep": _NO_COUNT}
    fields = types.SimpleNamespace
    yield "SweepConfig.run", SweepConfig, {}, {"run": (fields(), None, 3)}


def main() -> None:
    """Prints what is wrong with each; for work on the checks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").mkdir()
        for number in range(8):
            (folder / "text" / f"{number:02}.txt").write_text(f"document {number} " * 40)
        write_store(folder / "store", read_corpus(str(folder / "text")), tokenizer_from_name("bytes"))
        found = [(what, outcome(call)) for what, call in calls(folder) if what.startswith(tuple(sys.argv[1:]) or "")]
    wrong = [f"{what}: {message}" for what, message in found if message is not None]
    print(*wrong, f"{len(found)} calls, {len(wrong)} wrong", sep="\n")
    sys.exit(int(bool(wrong)))


if __name__ == "__main__":
    main()
