"""In which order `auto` tries the kernels for NVIDIA GPUs, and what was measured that says so.

Where a kernel cannot serve a call, the next one is asked; blockwise serves every call.
"""

import dataclasses
from collections.abc import Callable

from equimu.attention._problem import Problem


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """An order for some cards and some calls; the first row that holds counts."""

    capability: tuple[int, int] | None  # the least compute capability; None: where it is not known
    calls: Callable[[Problem], bool]
    order: tuple[str, ...]
    measured: str


def _every(problem: Problem) -> bool:
    return True


def _short(problem: Problem) -> bool:
    return problem.seq_k < 2048


ROWS = (
    Row(
        capability=(12, 0),
        calls=_every,
        order=("flash", "cudnn", "tokamax"),
        measured="published: in torch cuDNN has 0.88 of FlashAttention-2 on an RTX PRO 6000",
    ),
    Row(
        capability=(10, 0),
        calls=_every,
        order=("cudnn", "tokamax", "flash"),
        measured="not measured: FlashAttention of the extra has no code for these cards, and its trial run says so",
    ),
    Row(
        capability=(9, 0),
        calls=_short,
        order=("flash", "tokamax", "cudnn"),
        measured="H100, 2026-11-26, bfloat16, causal, head_dim 128, forward and backward: 334, 320, 263 TFLOP/s at 1024",
    ),
    Row(
        capability=(9, 0),
        calls=_every,
        order=("flash", "cudnn", "tokamax"),
        measured="H100, 2026-11-26, the same: 519, 427, 416 TFLOP/s at 4096, 614, 529, 494 at 16384; head_dim 64: 440, 352",
    ),
    Row(
        capability=(8, 0),
        calls=_every,
        order=("flash", "cudnn", "tokamax"),
        measured="published: in torch cuDNN has 0.82 of FlashAttention-2 on an A100 and 0.93 on an A10G",
    ),
    Row(
        capability=None,
        calls=_every,
        order=("cudnn", "tokamax", "flash"),
        measured="not measured: an older or unknown card",
    ),
)


def kernels(problem: Problem) -> tuple[str, ...]:
    """The kernels for NVIDIA GPUs, the best first, for the card that the problem names."""
    known = problem.capability
    return next(
        row.order
        for row in ROWS
        if row.capability is None or (known is not None and known >= row.capability)
        if row.calls(problem)
    )
