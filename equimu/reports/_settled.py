"""Runs that were too short to have settled: their optima do not lie on the law of the longer ones."""

from equimu.reports._held_out import HeldOut

# Names of the length of a run.
LENGTH = "steps"
# So that a length that has settled is named in one sweep of fifty at the most, were its optima one by one.
_SURE = 0.98


def too_short(held_out: tuple[HeldOut, ...]) -> tuple[HeldOut, ...]:
    """Optima of the shortest length that the law of the longer ones misses by more than the 98% interval.

    That takes three lengths: two lie on any law. A length that is reported here is better left out of the law.

    Args:
        held_out: predictions of the law.

    Returns:
        Those of the shortest length that are missed.
    """
    own = [each for each in held_out if each.name == LENGTH]
    shortest = min((each.sizes[LENGTH] for each in own), default=0.0)
    return tuple(each for each in own if each.sizes[LENGTH] == shortest and each.inside(_SURE) is False)
