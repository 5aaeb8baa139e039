"""Interleaved timing: several functions are measured in turn, so that drift of the machine hits all alike.

    timings = interleave({"ours": lambda: f(x), "theirs": lambda: g(x)}, rounds=20)
    timings["ours"].median                        # seconds a call
    timings["theirs"].ratio_to(timings["ours"])   # how many times as long theirs takes

On a shared machine trust the ratio: it is the median over rounds of what was measured side by side.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

# A sample shorter than this repeats its call: the clock and the dispatch would otherwise be what is measured.
SHORTEST_SAMPLE = 2e-3


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
    functions: Mapping[str, Callable[[], Any]], *, rounds: int, seconds: float | None = None, warm: bool = False
) -> Mapping[str, Timing]:
    """Measures the functions alternately, each round in the reverse order of the one before.

    Each is first called twice unmeasured (the first call compiles). A call is over when what it returns is
    ready (`jax.block_until_ready`).

    Args:
        functions: what to measure, by name.
        rounds: how many rounds at most.
        seconds: start no further round once the measured rounds have taken this long; None for no limit.
        warm: leave out the unmeasured calls, for functions that are compiled and so slow that a first call is like
            any other.

    Returns:
        The timing of each function, under its name; all have the same number of rounds.
    """
    repeats = dict.fromkeys(functions, 1)
    for name, function in functions.items() if not warm else ():
        _sample(function, 1)
        repeats[name] = math.ceil(SHORTEST_SAMPLE / _sample(function, 1))

    samples: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    begin = time.perf_counter()
    for _ in range(rounds):
        for name in order:
            samples[name].append(_sample(functions[name], repeats[name]))
        order.reverse()
        if seconds is not None and time.perf_counter() - begin > seconds:
            break
    return {name: Timing(seconds=tuple(times)) for name, times in samples.items()}


def _sample(function: Callable[[], Any], repeats: int) -> float:
    """Seconds a call, over `repeats` calls."""
    begin = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(function())
    return (time.perf_counter() - begin) / repeats


def _quartiles(values: Sequence[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
