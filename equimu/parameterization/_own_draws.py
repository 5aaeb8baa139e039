"""What a constructor's own draws are like, at the base sizes and at the target's."""

import dataclasses
import math
from collections.abc import Mapping

from equimu._values import Real
from equimu.parameterization._repeats import pattern
from equimu.parameterization._starts import Start, measured, starts
from equimu.parameterization._trace import Blueprint, Blueprints

# Draws whose entries are mixed are measured if they are not larger than this; what is measured agrees within the tolerance.
_LARGEST, TOLERANCE = 2**22, 0.05
_ROUNDING = 1e-4


@dataclasses.dataclass(frozen=True)
class OwnDraw:
    """Mean and standard deviation of what the constructor draws at the target sizes, None where it is too large to measure.

    - `base_mean`, `base_std`: those at the base, where that was asked for.
    - `exact`: whether they were read off the constructor, or measured.
    """

    mean: Real | None
    std: Real | None
    base_mean: Real = 0.0
    base_std: Real = 0.0
    exact: bool = True

    def carried(self, growth: Real) -> tuple[Real, Real]:
        """Mean and standard deviation that follow a law from the base on; exactly the constructor's where it follows that."""
        std = self.base_std * growth
        if self.std is not None and math.isclose(std, self.std, rel_tol=_ROUNDING if self.exact else TOLERANCE):
            std = self.std
        mean = self.base_mean if self.mean is None else self.mean
        # A mean next to the spread is part of the draw; a larger one is a level, which no law of spreads moves.
        return (mean if is_level(mean, std) else 0.0), std


def is_level(mean: Real, std: Real) -> bool:
    """Whether a draw is around something else than zero."""
    return abs(mean) > 0.25 * std


def own_draws(
    blueprints: Blueprints,
    base: Mapping[str, int],
    target: Mapping[str, int],
    started: Mapping[str, Start],
    *,
    at_base: bool,
) -> dict[str, OwnDraw]:
    """By path, of all arrays that the constructor draws.

    Args:
        blueprints: of the constructor.
        base, target: its sizes.
        started: how it starts its arrays at the target sizes.
        at_base: whether what they are like at the base is needed.
    """
    found = _statistics(blueprints(target), started, _LARGEST)
    if not at_base or not found:
        return found
    blueprint = blueprints(base)
    here = _statistics(blueprint, starts(blueprint), None)
    # A part of which there are fewer at the base is drawn like those that are there.
    alike = {pattern(path): own for path, own in here.items()}
    for path, own in found.items():
        small = here.get(path) or alike.get(pattern(path), own)
        found[path] = dataclasses.replace(own, base_mean=small.mean or 0.0, base_std=small.std or 0.0)
    return found


def _statistics(blueprint: Blueprint, started: Mapping[str, Start], largest: int | None) -> dict[str, OwnDraw]:
    """What is drawn: read off the program where that is possible, else measured in arrays of at most so many entries."""
    drawn = {path: start for path, start in started.items() if start.drawn and start.inexact}
    mixed = [path for path, start in drawn.items() if start.std is None]
    sizes = {path: math.prod(started[path].shape) for path in mixed}
    measurements = measured(blueprint, started, [path for path in mixed if largest is None or sizes[path] <= largest])
    found = {path: OwnDraw(start.mean, start.std) for path, start in drawn.items()}
    for path in mixed:
        found[path] = OwnDraw(*measurements.get(path, (None, None)), exact=False)
    return found
