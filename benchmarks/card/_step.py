"""The train step of a decoder of 12 blocks, scanned and unrolled, and torch.compile's of the same model."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from benchmarks.card._correct import _line
from benchmarks.card._time import seconds_of
from equimu.data import Batch
from equimu.nn import Transformer
from equimu.runs import RunConfig, Sizes
from equimu.sharding import make_mesh, shard_batch
from equimu.tasks import LanguageModel, ModelConfig, TextConfig
from equimu.training import build_tree, hyperparameters_of, program_for

PEAK = 989e12  # dense bfloat16 of an H100 or H200


def measure(*, quick: bool, end: float) -> Iterator[dict[str, Any]]:
    """A row for each width and program: milliseconds, tokens a second, the share of an H100's peak, temporaries."""
    sizes = (
        dict(n_layer=2, rows=2, seq=32, vocab=256, head_dim=16)
        if quick
        else dict(n_layer=12, rows=16, seq=1024, vocab=32768, head_dim=128)
    )
    widths = (32,) if quick else (1024, 2048)
    for width in widths:  # first, while this process holds little of the card's memory
        row: dict[str, Any] = {"width": width, "step": "torch.compile", "failed": ""}
        try:
            yield row | _figures(_torch({"width": width, "compile": not quick, **sizes}), width, **sizes)
        except Exception as problem:
            yield row | {"failed": _line(problem)}
    kinds = [(width, unroll) for width in widths for unroll in (1, sizes["n_layer"])]
    at_once, Transformer.unrolled_on_gpu = Transformer.unrolled_on_gpu, 0  # so that 1 is a scan
    try:
        with ThreadPoolExecutor(len(kinds)) as threads:
            jobs = [threads.submit(_compile, width, unroll, **sizes) for width, unroll in kinds]
    finally:
        Transformer.unrolled_on_gpu = at_once
    for (width, unroll), job in zip(kinds, jobs, strict=True):
        row = {"width": width, "step": f"equimu, unroll {unroll}", "failed": ""}
        try:
            late = time.monotonic() > end + 30
            yield row | (
                {"failed": "left out: the time was up"} if late else _figures(_time(*job.result()), width, **sizes)
            )
        except Exception as problem:
            yield row | {"failed": _line(problem)}


def _torch(options: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.card._torch_step", json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it failed"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def _compile(width: int, unroll: int, *, n_layer: int, rows: int, seq: int, vocab: int, head_dim: int) -> Any:
    model = ModelConfig(head_dim=head_dim, vocab_size=vocab, dtype="bfloat16", unroll=unroll)
    config = RunConfig(
        task=LanguageModel(model=model, text=TextConfig(rows=rows, seq=seq)),
        size=Sizes(width=width, depth=n_layer),
        base=Sizes(width=head_dim),
    )
    tokens = np.random.default_rng(0).integers(0, vocab, (rows, seq + 1)).astype(np.int32)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((rows, seq), np.float32))
    program, numbers = program_for(config, build_tree(config, rows))
    hyper, batch = hyperparameters_of(config), shard_batch(batch, make_mesh())
    begin = time.perf_counter()
    compiled = program.compiled(batch, numbers, hyper)
    return compiled, (batch, numbers, hyper), time.perf_counter() - begin


def _time(compiled: Any, arguments: Any, compile_seconds: float) -> dict[str, float]:
    batch, numbers, hyper = arguments
    kept = [compiled.init(numbers, hyper, jax.random.key(0))]

    def call() -> Any:
        kept[0], metrics = compiled.step(kept[0], batch, numbers, hyper, np.bool_(False))
        return metrics.loss

    seconds = seconds_of({"step": (call, jax.block_until_ready)})["step"]
    analysis = compiled.step.memory_analysis()
    temporaries = {} if analysis is None else {"temporaries GiB": analysis.temp_size_in_bytes / 2**30}
    return {"seconds": seconds, "compile s": compile_seconds, **temporaries}


def _figures(
    found: dict[str, float], width: int, *, n_layer: int, rows: int, seq: int, vocab: int, head_dim: int
) -> dict[str, float]:
    found = dict(found)
    seconds, tokens = found.pop("seconds"), rows * seq
    matrices = n_layer * 12 * width**2 + vocab * width
    flops = 6 * tokens * (matrices + n_layer * seq * width)  # causal attention counted once
    return {"ms": 1e3 * seconds, "tokens/s": tokens / seconds, "MFU": flops / seconds / PEAK, **found}
