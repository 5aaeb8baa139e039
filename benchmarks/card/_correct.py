"""Every backend that the machine has against attention by the formula, computed in float64 by NumPy on the CPU."""

import dataclasses
import functools
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from equimu.attention import backends as all_backends
from equimu.attention import decode_attention, dot_product_attention, explain

# Of the error's root mean square by that of what is right; float32 on a GPU is tf32 by JAX's default precision.
ALLOWED = {"bfloat16": 8e-3, "float32": 1.5e-3}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One call; `vmap`: a sequence at a time under `jax.vmap`, as models call it; `cache`: decoding, NaN behind the length."""

    name: str
    seq_q: int = 257
    seq_k: int | None = None
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 64
    dtype: str = "bfloat16"
    causal: bool = True
    window: int | None = None
    documents: int = 0
    q_offset: int = 0
    vmap: bool = False
    cache: int = 0

    def arrays(self) -> list[Any]:
        """q, k, v and the gradient of the output, rounded to the dtype, then the segment ids or None."""
        rng = np.random.default_rng(0)
        keys = self.seq_k or self.seq_q
        shapes = [(self.seq_q, self.heads), (keys, self.kv_heads), (keys, self.kv_heads), (self.seq_q, self.heads)]
        arrays = [jnp.asarray(rng.normal(size=(2, *shape, self.head_dim)), self.dtype) for shape in shapes]
        ids = np.sort(rng.integers(0, self.documents, (2, keys)), axis=1) if self.documents else None
        return [*arrays, None if ids is None else jnp.asarray(ids, jnp.int32)]


# What falls back or is padded first: where the time is up, plain calls are left out.
CASES = (
    Case(name="packed", seq_q=1000, documents=5, head_dim=128),
    Case(name="packed under vmap, window", seq_q=1000, documents=5, window=64, heads=8, kv_heads=2, vmap=True),
    Case(name="a cache of 500", seq_q=3, seq_k=300, q_offset=297, cache=500),
    Case(name="later queries", seq_q=100, seq_k=357, q_offset=257),
    Case(name="float32 257", dtype="float32"),
    Case(name="float32 packed", seq_q=1000, dtype="float32", documents=5),
    Case(name="grouped, head_dim 96", heads=8, kv_heads=1, head_dim=96),
    Case(name="head_dim 192", head_dim=192),
    Case(name="head_dim 256", seq_q=1000, head_dim=256),
    Case(name="257"),
    Case(name="1000, head_dim 128", seq_q=1000, head_dim=128),
    Case(name="1024 under vmap, grouped", seq_q=1024, heads=8, kv_heads=2, head_dim=128, vmap=True),
    Case(name="bidirectional 257", causal=False),
    Case(name="bidirectional 256 × 1000", seq_q=256, seq_k=1000, causal=False),
    Case(name="window 100", seq_q=1000, window=100),
    Case(name="bidirectional window 40", window=40, causal=False),
)
QUICK = tuple(
    dataclasses.replace(case, seq_q=min(case.seq_q, 64), seq_k=None, q_offset=0, cache=96 if case.cache else 0)
    for case in (CASES[0], CASES[3], *CASES[9:15:3])
) + (dataclasses.replace(CASES[2], seq_q=3, seq_k=30, q_offset=27, cache=50),)


def right(case: Case, arrays: list[Any]) -> list[np.ndarray]:
    """The output and the gradients of q, k and v, by the formula."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in arrays[:4])
    group, scale = case.heads // case.kv_heads, case.head_dim**-0.5
    k, v = (np.repeat(x, group, axis=2) for x in (k, v))
    at, keys = case.q_offset + np.arange(q.shape[1])[:, None], np.arange(k.shape[1])
    seen = (keys <= at) if case.causal else np.ones((q.shape[1], k.shape[1]), bool)
    seen = seen if case.window is None else seen & (np.abs(at - keys) < case.window)
    seen = np.broadcast_to(seen, (2, 1, *seen.shape))
    if arrays[4] is not None:
        ids = np.asarray(arrays[4])
        seen = seen & (ids[:, None, :, None] == ids[:, None, None, :])
    heads = [np.moveaxis(x, 2, 1) for x in (q, k, v, d_out)]
    q, k, v, d_out = heads
    scores = np.where(seen, scale * q @ np.swapaxes(k, 2, 3), -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = d_out @ np.swapaxes(v, 2, 3)
    ds = scale * p * (dp - (p * dp).sum(-1, keepdims=True))
    results = p @ v, ds @ k, np.swapaxes(ds, 2, 3) @ q, np.swapaxes(p, 2, 3) @ d_out
    out, dq, dk, dv = (np.moveaxis(x, 1, 2) for x in results)
    dk, dv = (x.reshape(*x.shape[:2], case.kv_heads, group, -1).sum(3) for x in (dk, dv))
    return [out, dq, dk, dv]


def program(case: Case, backend: str, arrays: list[Any]) -> Any:
    """The compiled call, forward and backward."""
    scale = case.head_dim**-0.5

    def attend(q: Any, k: Any, v: Any, ids: Any, length: Any) -> Any:
        if case.cache:
            room = [(0, 0)] * (k.ndim - 3) + [(0, case.cache - k.shape[-3]), (0, 0), (0, 0)]
            k, v = (jnp.pad(x, room, constant_values=jnp.nan) for x in (k, v))
            return decode_attention(q, k, v, scale=scale, length=length, window=case.window, backend=backend)
        options = dict(causal=case.causal, window=case.window, segment_ids=ids, q_offset=case.q_offset)
        return dot_product_attention(q, k, v, scale=scale, backend=backend, **options)

    def outcome(q: Any, k: Any, v: Any, d_out: Any, ids: Any, length: Any) -> Any:
        mapped = jax.vmap(attend, in_axes=(0, 0, 0, None if ids is None else 0, None)) if case.vmap else attend
        out, pull = jax.vjp(lambda q, k, v: mapped(q, k, v, ids, length), q, k, v)
        return out, *pull(d_out)

    return jax.jit(outcome).lower(*arrays, jnp.int32(case.seq_k or case.seq_q)).compile()


def backends(case: Case, arrays: list[Any]) -> list[str]:
    """`auto`, and all backends that say that they can serve the case."""
    q, k, v, _, ids = arrays
    options = dict(causal=case.causal, window=case.window, segment_ids=ids)
    offset = jnp.int32(case.q_offset) if case.cache else case.q_offset
    explanation = explain(q, k, v, scale=1.0, q_offset=offset, **options)
    able = {explanation.chosen, *(n for n, reason in explanation.others.items() if reason.endswith("comes first"))}
    return [f"auto ({explanation.chosen})", *(name for name in all_backends() if name in able)]


def measure(*, quick: bool, end: float) -> Iterator[dict[str, Any]]:
    """A row for each case: each backend's largest relative error over output and gradients, or why it failed."""
    prepared = [(case, case.arrays()) for case in (QUICK if quick else CASES)]
    with ThreadPoolExecutor(1 if quick else os.cpu_count()) as threads:
        jobs = [
            (case, arrays, name, threads.submit(functools.partial(program, case, name.split(" ")[0], arrays)))
            for case, arrays in prepared
            for name in backends(case, arrays)
        ]
        for case, arrays in prepared:
            expected, row = right(case, arrays), {"case": f"{case.name} {case.dtype}", "failed": ""}
            for mine, _, name, job in jobs:
                if mine is not case:
                    continue
                if time.monotonic() > end:
                    row["failed"] += f"{name}: the time was up; "
                    job.cancel()
                    continue
                try:
                    found = job.result()(*arrays, jnp.int32(case.seq_k or case.seq_q))
                    error = max(_error(a, b) for a, b in zip(found, expected, strict=True))
                    good = error < ALLOWED[case.dtype]  # False for NaN
                    row[name.split(" ")[0]] = error
                    row["failed"] += "" if good else f"{name}: error {error:.2g}; "
                except Exception as problem:
                    row["failed"] += f"{name}: {_line(problem)}; "
                if name.startswith("auto"):
                    row["auto is"] = name[6:-1]
            yield row


def _error(found: Any, expected: np.ndarray) -> float:
    found = np.asarray(found, np.float64)
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def _line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0][:150]}"
