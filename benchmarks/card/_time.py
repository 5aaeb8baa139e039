"""Timing on a card: calls are queued one behind the other, and only the last is waited for."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def seconds_of(
    calls: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]], *, rounds: int = 5
) -> dict[str, float]:
    """Seconds of a call of each, the median over rounds in which all take turns.

    Args:
        calls: by name what to call, and what waits for the result of the last call.
        rounds: how often each takes its turn, with as many calls as make 40 ms.
    """
    counts: dict[str, int] = {}
    for name, (call, wait) in calls.items():
        wait(call())
        wait(call())
        begin = time.perf_counter()
        wait(call())
        counts[name] = max(1, min(200, round(0.04 / max(time.perf_counter() - begin, 1e-6))))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (call, wait) in calls.items():
            begin = time.perf_counter()
            for _ in range(counts[name] - 1):
                call()
            wait(call())
            samples[name].append((time.perf_counter() - begin) / counts[name])
    return {name: statistics.median(times) for name, times in samples.items()}
