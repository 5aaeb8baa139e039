"""Every backend of `equimu.attention` that can run here, against that of `jax.nn` and against a matrix product.

Causal attention of one sequence, forward and forward with backward, over lengths, head_dims, dtypes and groupings.
The backends and the matrix product are timed in turn in the same rounds, so ratios are of one moment.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._timing import Timing, interleave
from equimu.attention import dot_product_attention, explain
from equimu.attention._backends import BACKENDS

LENGTHS = (1024, 4096, 256, 2048, 512, 128, 8192)  # the most telling first: time may run out
SLOWEST = 4.0  # seconds of a call of the previous, four times cheaper length, after which a longer one is left out


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

    def arrays(self) -> list[jax.Array]:
        """q, k, v and a gradient of the output."""
        shapes = [
            (1, self.seq, heads, self.head_dim) for heads in (self.heads, self.kv_heads, self.kv_heads, self.heads)
        ]
        keys = jax.random.split(jax.random.key(0), 4)
        return [jax.random.normal(key, shape, self.dtype) for key, shape in zip(keys, shapes, strict=True)]


def cases() -> list[Case]:
    """The grid, in the order in which it is measured."""
    heads = 4 if jax.default_backend() == "cpu" else 32
    variants = sorted(  # those that differ in least from (128, float32, all heads) first
        itertools.product((128, 64), ("float32", "bfloat16"), (heads, heads // 4)),
        key=lambda variant: (variant[0] != 128) + (variant[1] != "float32") + (variant[2] != heads),
    )
    return [
        Case(seq=seq, head_dim=head_dim, dtype=dtype, heads=heads, kv_heads=kv_heads)
        for head_dim, dtype, kv_heads in variants
        for seq in LENGTHS
    ]


def backends(case: Case) -> tuple[str, list[str]]:
    """What `auto` chooses, and all that can serve the case on this machine (the reference is not meant to be fast)."""
    q, k, v, _ = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jax.eval_shape(case.arrays))
    explanation = explain(q, k, v, scale=1.0)
    able = [name for name, reason in explanation.others.items() if reason.endswith("comes first")]
    names = (explanation.chosen, *able)
    return explanation.chosen, [name for name in BACKENDS if name in names and name != "reference"]


def measure(*, seconds: float = 160.0) -> Iterator[dict[str, Any]]:
    """Rows of figures, until the time is used up.

    Yields:
        For each case, pass and backend (`auto` marks the one that it chooses): `ms` and `spread` (interquartile range by
        median), `gflops` (useful ones a second), `peak_share` (of a matrix product in the same rounds), `temporary_mb`
        of the compiled program, and `speedup` over backend `jax`, which is `jax.nn.dot_product_attention`. A case that
        is left out has one row with `ms` None.
    """
    end = time.monotonic() + seconds
    slow: set[tuple[Any, ...]] = set()
    for case in cases():
        family = (case.head_dim, case.dtype, case.kv_heads)
        if time.monotonic() > end or (family in slow and case.seq > 4096):
            yield {"case": case, "ms": None}
            continue
        rows = list(_measure(case))
        if case.seq == 4096 and max(row["ms"] for row in rows) > 1e3 * SLOWEST / 4:
            slow.add(family)
        yield from rows


def _measure(case: Case) -> Iterator[dict[str, Any]]:
    arrays, scale = case.arrays(), case.head_dim**-0.5
    size = 2048 if jax.default_backend() == "cpu" else 8192
    square = jnp.ones((size, size), case.dtype)
    product = jax.jit(jnp.matmul).lower(square, square).compile()
    chosen, names = backends(case)
    functions = {name: functools.partial(dot_product_attention, scale=scale, backend=name) for name in names}
    for name_of_pass, count, factor in (("forward", 3, 1.0), ("forward+backward", 4, 3.5)):
        compiled = {name: _compile(attend, arrays[:count]) for name, attend in functions.items()}
        calls = {name: functools.partial(program, *arrays[:count]) for name, program in compiled.items()}
        timings = interleave(calls | {"product": lambda: product(square, square)}, rounds=30, seconds=0.6)
        for name, program in compiled.items():
            timing = timings[name]
            flops = factor * case.flops
            yield {
                "case": case,
                "pass": name_of_pass,
                "backend": name,
                "auto": "*" if name == chosen else "",
                "ms": 1e3 * timing.median,
                "spread": timing.spread,
                "gflops": flops / timing.median / 1e9,
                "peak_share": _share(flops, timing, 2 * size**3, timings["product"]),
                "temporary_mb": program.memory_analysis().temp_size_in_bytes / 2**20,
                "speedup": timings["jax"].ratio_to(timing),
            }


def _share(flops: float, timing: Timing, peak_flops: float, peak: Timing) -> float:
    return flops / peak_flops * peak.ratio_to(timing)


def _compile(attend: Any, arrays: list[jax.Array]) -> Any:
    """The forward pass of three arrays, or forward and backward where a gradient of the output comes fourth."""
    if len(arrays) == 3:
        return jax.jit(attend).lower(*arrays).compile()
    return jax.jit(lambda q, k, v, d_out: jax.vjp(attend, q, k, v)[1](d_out)).lower(*arrays).compile()
