"""Attention in TFLOP/s, forward and forward with backward, of every fused backend, and of torch's where torch is.

The useful operations of the forward pass are two products over what is seen; those of the backward pass count 2.5 times.
"""

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.card._correct import _line
from benchmarks.card._time import seconds_of
from equimu.attention import dot_product_attention, explain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One call on a number of tokens."""

    seq: int
    tokens: int = 16384
    heads: int = 16
    kv_heads: int = 16
    head_dim: int = 128
    documents: int = 1  # of equal length in each sequence
    window: int | None = None
    causal: bool = True
    dtype: str = "bfloat16"

    @property
    def batch(self) -> int:
        """Sequences."""
        return self.tokens // self.seq

    @property
    def flops(self) -> float:
        """Of the forward pass."""
        at = np.arange(self.seq // self.documents)
        seen = at + 1.0 if self.causal else np.full(at.shape, float(at.size))
        if self.window is not None:
            back = np.minimum(at + 1, self.window)
            seen = back if self.causal else back + np.minimum(at.size - at, self.window) - 1.0
        return 4 * self.batch * self.heads * self.head_dim * self.documents * float(np.sum(seen))

    def __str__(self) -> str:
        parts = [f"{self.batch} × {self.seq}, {self.heads}/{self.kv_heads} × {self.head_dim}"]
        parts += [f"{self.documents} documents"] if self.documents > 1 else []
        parts += [f"window {self.window}"] if self.window else []
        parts += [] if self.causal else ["bidirectional"]
        parts += [] if self.dtype == "bfloat16" else [self.dtype]
        return ", ".join(parts)


# One of each kind first: where the time is up, lengths are left out.
CASES = (
    Case(seq=4096),
    Case(seq=1024),
    Case(seq=16384, documents=16),
    Case(seq=4096, documents=4),
    Case(seq=4096, window=512),
    Case(seq=4096, causal=False, window=512),
    Case(seq=4095, tokens=4 * 4095),
    Case(seq=4096, dtype="float32"),
    Case(seq=4096, heads=32, kv_heads=32, head_dim=64),
    Case(seq=4096, causal=False),
    Case(seq=256),
    Case(seq=4096, kv_heads=2),
    *(Case(seq=seq) for seq in (16384, 2048, 8192)),
)
QUICK = (
    Case(seq=64, tokens=64, heads=2, kv_heads=1, head_dim=16),
    Case(seq=64, tokens=128, documents=2, heads=1, kv_heads=1),
)
PASSES = {"forward": 1.0, "forward+backward": 3.5}
ASKED = ("auto", "flash", "cudnn", "tokamax", "blockwise")


def measure(*, quick: bool, end: float) -> Iterator[dict[str, Any]]:
    """A row for each case and pass: TFLOP/s by backend, `auto is`, and `auto/best` of ours."""
    for case in QUICK if quick else CASES:
        if time.monotonic() > end:
            yield {"case": str(case), "failed": "left out: the time was up"}
            continue
        arrays, ids = _arrays(case)
        explanation = explain(*arrays[:3], scale=1.0, causal=case.causal, window=case.window, segment_ids=ids)
        able = [name for name in ASKED[1:] if explanation.others.get(name, "comes first").endswith("comes first")]
        # blockwise is far off, and is timed where nothing else is to be had, in float32, and once more
        asked = case in (CASES[0], *QUICK) or case.dtype == "float32"
        able = [name for name in able if name != "blockwise" or len(able) == 1 or asked]
        with ThreadPoolExecutor(8) as threads:
            jobs = {
                (name, backend): threads.submit(_compile, case, arrays, ids, name, backend)
                for name in PASSES
                for backend in ("auto", *able)
            }
        for name, factor in PASSES.items():
            row: dict[str, Any] = {"case": str(case), "pass": name, "auto is": explanation.chosen, "failed": ""}
            calls: dict[str, Any] = {}
            arguments = (*arrays[:3], ids) if name == "forward" else (*arrays[:3], ids, arrays[3])
            for backend in ("auto", *able):
                try:
                    compiled = jobs[name, backend].result()
                    jax.block_until_ready(compiled(*arguments))  # a kernel that does not run fails here
                    calls[backend] = functools.partial(compiled, *arguments), jax.block_until_ready
                except Exception as problem:
                    row["failed"] += f"{backend}: {_line(problem)}; "
            if importlib.util.find_spec("torch") is not None and case.documents == 1 and case.window is None:
                calls |= _torch(case, name, row)
            for backend, seconds in seconds_of(calls, rounds=2 if quick else 5).items():
                row[backend] = factor * case.flops / seconds / 1e12
            mine = [row[backend] for backend in ASKED if backend in row]
            yield row | ({"auto/best": row["auto"] / max(mine)} if "auto" in row else {})


def _arrays(case: Case) -> tuple[list[jax.Array], jax.Array | None]:
    rng = np.random.default_rng(0)
    counts = (case.heads, case.kv_heads, case.kv_heads, case.heads)
    arrays = [
        jnp.asarray(rng.standard_normal((case.batch, case.seq, n, case.head_dim), np.float32), case.dtype)
        for n in counts
    ]
    if case.documents == 1:
        return arrays, None
    ids = np.repeat(np.arange(case.documents), case.seq // case.documents)
    return arrays, jnp.asarray(np.broadcast_to(ids, (case.batch, case.seq)), jnp.int32)


def _compile(case: Case, arrays: list[jax.Array], ids: jax.Array | None, name: str, backend: str) -> Any:
    options = dict(causal=case.causal, window=case.window)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, ids: Any) -> jax.Array:
        return dot_product_attention(q, k, v, scale=case.head_dim**-0.5, segment_ids=ids, backend=backend, **options)

    def both(q: jax.Array, k: jax.Array, v: jax.Array, ids: Any, d_out: jax.Array) -> Any:
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, ids), q, k, v)
        return out, pull(d_out)

    q, k, v, d_out = arrays
    if name == "forward":
        return jax.jit(attend).lower(q, k, v, ids).compile()
    return jax.jit(both).lower(q, k, v, ids, d_out).compile()


def _torch(case: Case, name: str, row: dict[str, Any]) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """torch's attention with its cuDNN and with its FlashAttention."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    device, calls = "cuda" if torch.cuda.is_available() else "cpu", {}
    kinds = {"torch cudnn": SDPBackend.CUDNN_ATTENTION, "torch flash": SDPBackend.FLASH_ATTENTION}
    kinds = {"torch": SDPBackend.EFFICIENT_ATTENTION} if case.dtype == "float32" else kinds
    if device == "cpu":
        kinds = {"torch": SDPBackend.MATH}
    dtype, backward = getattr(torch, case.dtype), name != "forward"
    counts = (case.heads, case.kv_heads, case.kv_heads, case.heads)
    q, k, v, d_out = (
        torch.randn(
            case.batch, n, case.seq, case.head_dim, device=device, dtype=dtype, requires_grad=backward and i < 3
        )
        for i, n in enumerate(counts)
    )

    def wait(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def call(kind: Any) -> None:
        with sdpa_kernel(kind):
            options = {"is_causal": case.causal, "enable_gqa": case.heads != case.kv_heads}
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)
        if backward:
            torch.autograd.grad(out, (q, k, v), d_out)

    for kind_name, kind in kinds.items():
        try:
            call(kind)
            wait(None)
            calls[kind_name] = functools.partial(call, kind), wait
        except Exception as problem:
            row[kind_name] = _line(problem)[:40]
    return calls
