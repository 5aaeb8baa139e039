"""Interleaved timing: several functions are measured in turn, so that drift of the machine hits all alike.

    timings = interleave({"ours": lambda: f(x), "theirs": lambda: g(x)}, rounds=20)
    timings["ours"].median                        # seconds a call
    timings["theirs"].ratio_to(timings["ours"])   # how many times as long theirs takes

On a shared machine trust the ratio: it is the median over rounds of what was measured side by side.
"""

import ctypes
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

# Seconds. A sample shorter than this repeats its call: the clock and the dispatch would otherwise be what is measured.
SHORTEST_SAMPLE = 4e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """What was measured of one function."""

    seconds: tuple[float, ...]  # of one call, a figure per round

    @property
    def median(self) -> float:
        """Seconds of a call, the median over the rounds."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """The lower quartile."""
        return _quartiles(self.seconds)[0]

    @property
    def high(self) -> float:
        """The upper quartile."""
        return _quartiles(self.seconds)[2]

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median."""
        return (self.high - self.low) / self.median

    def ratio_to(self, other: "Timing") -> float:
        """How many times as long this takes as `other`: the median of the ratios within each round.

        Both must come from one call of `interleave`.
        """
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


def interleave(
    functions: Mapping[str, Callable[[], Any]], *, rounds: int, seconds: float | None = None
) -> Mapping[str, Timing]:
    """Measures the functions alternately, each round in the reverse order of the one before.

    A call is over when what it returns is ready (`jax.block_until_ready`). What is measured are repeated calls: each
    sample follows calls of the same function that are not measured (the first of them compiles), and a pause, so that a
    function neither pays for what the one before it left behind nor gains from it.

    Args:
        functions: what to measure, by name.
        rounds: how many rounds at most.
        seconds: start no further round once the rounds have taken this long; None for no limit.

    Returns:
        The timing of each function, under its name; all have the same number of rounds.
    """
    samples: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    begin = time.perf_counter()
    for _ in range(rounds):
        for name in order:
            samples[name].append(_sample(functions[name]))
            _rest(samples[name][-1])
        order.reverse()
        if seconds is not None and time.perf_counter() - begin > seconds:
            break
    return {name: Timing(seconds=tuple(times)) for name, times in samples.items()}


def _sample(function: Callable[[], Any]) -> float:
    """Seconds a call, over as many calls as were made in `SHORTEST_SAMPLE` before."""
    calls, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < SHORTEST_SAMPLE:
        jax.block_until_ready(function())
        calls += 1
    begin = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(function())
    return (time.perf_counter() - begin) / calls


def _rest(call: float) -> None:
    """Lets a function that takes so many seconds clear up after itself, and empties the heap that it leaves.

    XLA frees its buffers after the result is ready: for 2 GB that takes one core a tenth of a second, a tenth of the time in
    which they were filled. And a function whose buffers fit into what others left need not ask the system for them.
    """
    time.sleep(call / 4)
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # in glibc
        trim(0)


def _quartiles(values: Sequence[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
