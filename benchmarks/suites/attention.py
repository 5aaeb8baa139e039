"""Every backend of `equimu.attention` that can run here, against that of `jax.nn` and against a matrix product.

Causal attention of one sequence, forward and forward with backward, over lengths, head_dims, dtypes and groupings.
The backends and the matrix product are timed in turn in the same rounds, so ratios are of one moment.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import interleave
from equimu.attention import backends as all_backends
from equimu.attention import dot_product_attention, explain

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
PASSES = {"forward": (3, 1.0), "forward+backward": (4, 3.5)}  # arguments, and operations by those of the forward pass
MOST_ROWS = 40  # of the cases that are measured by default
_DTYPES = ("float32", "bfloat16")
_LONGEST = 20.0  # seconds of the rounds of one pass of one case


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One call to be measured."""

    seq: int
    head_dim: int
    dtype: str
    heads: int
    kv_heads: int

    @property
    def flops(self) -> float:
        """Useful operations of the forward pass: two products over the visible half of the scores."""
        return 4 * self.heads * self.head_dim * self.seq * (self.seq + 1) / 2

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of q, k, v and a gradient of the output."""
        return [(1, self.seq, n, self.head_dim) for n in (self.heads, self.kv_heads, self.kv_heads, self.heads)]

    def arrays(self) -> list[jax.Array]:
        """q, k, v and a gradient of the output."""
        rng = np.random.default_rng(0)  # not jax.random, which compiles for every shape
        return [jnp.asarray(rng.standard_normal(shape, np.float32), self.dtype) for shape in self.shapes]


def grid(lengths: Sequence[int]) -> list[Case]:
    """All cases of these lengths."""
    heads = _heads()
    return [
        Case(seq=seq, head_dim=head_dim, dtype=dtype, heads=heads, kv_heads=kv_heads)
        for seq in sorted(set(lengths))
        for head_dim, dtype, kv_heads in itertools.product((128, 64), _DTYPES, (heads, heads // 4))
    ]


def usual_cases() -> list[Case]:
    """The lengths of one usual kind of attention, and one length of others: as many as have `MOST_ROWS` rows together."""
    heads = _heads()
    usual, other = _DTYPES if jax.default_backend() == "cpu" else _DTYPES[::-1]
    first = Case(seq=1024, head_dim=128, dtype=usual, heads=heads, kv_heads=heads)
    others = [{"seq": 4096}, {"seq": 256}, {"head_dim": 64}, {"dtype": other}, {"kv_heads": heads // 4}]
    others += [{"seq": 2048}, {"seq": 512}, {"seq": 128}]
    found: list[Case] = []
    rows = 0
    for case in (first, *(dataclasses.replace(first, **changes) for changes in others)):
        rows += len(PASSES) * len(backends(case)[1])
        if rows > MOST_ROWS:
            break
        found.append(case)
    return sorted(found, key=lambda case: (case.kv_heads != heads, case.dtype != usual, case.head_dim != 128, case.seq))


def backends(case: Case) -> tuple[str, list[str]]:
    """What `auto` chooses, and all that can serve the case on this machine (the reference is not meant to be fast)."""
    q, k, v, _ = (jax.ShapeDtypeStruct(shape, case.dtype) for shape in case.shapes)
    explanation = explain(q, k, v, scale=1.0)
    able = [name for name, reason in explanation.others.items() if reason.endswith("comes first")]
    names = (explanation.chosen, *able)
    return explanation.chosen, [name for name in all_backends() if name in names and name != "reference"]


def measure(cases: Sequence[Case], *, seconds: float | None) -> Iterator[dict[str, Any]]:
    """Rows of figures. The time is shared out over the cases: what is slow is measured in fewer rounds.

    Args:
        cases: what to measure; each is measured in one round at least.
        seconds: how long it may take, about; None for 30 rounds of everything that takes less than 20 s for them.

    Yields:
        For each case, pass and backend (`auto` marks the one that it chooses): `ms` and `spread` (interquartile range by
        median), `rounds`, `gflops` (useful ones a second), `peak_gflops` of the fastest matrix product so far and
        `peak_share` of it, `temporary_mb` of the compiled program, and `speedup` over backend `jax`, which is
        `jax.nn.dot_product_attention`.
    """
    end = None if seconds is None else time.monotonic() + seconds
    size = 1024 if jax.default_backend() == "cpu" else 8192
    products = {dtype: _product(size, dtype) for dtype in _DTYPES}
    passes = [(case, name) for case in cases for name in PASSES]
    peak: dict[str, float] = {}
    for done, (case, name_of_pass) in enumerate(passes):
        chosen, names = backends(case)
        count, factor = PASSES[name_of_pass]
        arrays = case.arrays()[:count]
        programs = {name: _compile(case, arrays, name) for name in names}
        calls = {name: functools.partial(program, *arrays) for name, program in programs.items()}
        left = _LONGEST if end is None else 0.25 * max(end - time.monotonic(), 0) / (len(passes) - done)
        timings = interleave(calls | {"product": products[case.dtype]}, rounds=30, seconds=left)
        flops = factor * case.flops
        peak[case.dtype] = max(peak.get(case.dtype, 0), 2 * size**3 / min(timings["product"].seconds))
        for name in names:
            timing = timings[name]
            yield {
                "case": case,
                "pass": name_of_pass,
                "backend": name,
                "auto": "*" if name == chosen else "",
                "ms": 1e3 * timing.median,
                "spread": timing.spread,
                "rounds": len(timing.seconds),
                "gflops": flops / timing.median / 1e9,
                "peak_gflops": peak[case.dtype] / 1e9,
                "peak_share": flops / timing.median / peak[case.dtype],
                "temporary_mb": programs[name].memory_analysis().temp_size_in_bytes / 2**20,
                "speedup": timings["jax"].ratio_to(timing) if "jax" in timings else None,
            }


def _heads() -> int:
    return 4 if jax.default_backend() == "cpu" else 32


def _product(size: int, dtype: str) -> Callable[[], jax.Array]:
    """A square matrix product, compiled."""
    square = jnp.ones((size, size), dtype)
    return functools.partial(jax.jit(jnp.matmul).lower(square, square).compile(), square, square)


def _compile(case: Case, arrays: list[jax.Array], backend: str) -> Any:
    """The output of three arrays; or output and gradients where a gradient of the output comes fourth."""
    attend = functools.partial(dot_product_attention, scale=case.head_dim**-0.5, backend=backend)

    def with_gradients(q: jax.Array, k: jax.Array, v: jax.Array, d_out: jax.Array) -> Any:
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(d_out)

    return jax.jit(attend if len(arrays) == 3 else with_gradients).lower(*arrays).compile()
