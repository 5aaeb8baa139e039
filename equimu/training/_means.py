"""Weighted means over batches."""

import math
from collections.abc import Mapping
from typing import SupportsFloat

from equimu._values import Real


class Means:
    """Means of what an evaluation gives batch by batch: pairs of a sum and its weight, by name."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, pairs: Mapping[str, tuple[SupportsFloat, SupportsFloat]]) -> None:
        """Takes in a batch."""
        for name, (total, weight) in pairs.items():
            before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (before[0] + float(total), before[1] + float(weight))

    def weight(self, name: str) -> Real:
        """The weight of all batches."""
        return self._sums[name][1]

    def values(self) -> dict[str, Real]:
        """The means by name; NaN where nothing counts."""
        return {name: total / weight if weight else math.nan for name, (total, weight) in self._sums.items()}
