"""What tuning small and carrying comes to, beside another table tuned at the same size, and tuned anew at every size."""

import dataclasses
import math

import numpy as np

from equimu._interval import mean_half_width
from equimu._lazy import late_method
from equimu._values import Real
from equimu.reports import Report
from equimu.runs import Runs
from equimu.tuning._result import Tuned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """One setting at one size.

    Attributes:
        size: of the models.
        learning_rate: the base rate.
        losses: validation losses, one per seed; infinite or NaN where a run diverged.
        flops: operations of one of the runs.
    """

    size: int
    learning_rate: Real
    losses: tuple[Real, ...]
    flops: Real

    @property
    def loss(self) -> float:
        """The mean over seeds; infinite if one diverged."""
        return float(np.mean(self.losses)) if all(map(math.isfinite, self.losses)) else math.inf

    @property
    def plus_minus(self) -> Real | None:
        """Half of the 90 % interval of the mean over seeds; None if one diverged."""
        return mean_half_width(np.array(self.losses)) if math.isfinite(self.loss) else None


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """Three ways to train large models, at each size.

    Attributes:
        along: what the sizes are of: `"width"`, `"depth"`, ...
        table: the name of the table that was tuned.
        tuned: the search at the smallest size.
        carried: the numbers that it found, at each size, the smallest first.
        against: the name of the table that it is compared with.
        grid: that table at each size and learning rate.
        report: the same as a report on a sweep.
        runs: all runs but those of the search.
    """

    along: str
    table: str
    tuned: Tuned
    carried: tuple[Trained, ...]
    against: str
    grid: tuple[Trained, ...]
    report: Report
    runs: Runs

    @property
    def retuned(self) -> tuple[Trained, ...]:
        """The other table at each size, with the rate that is best there."""
        return tuple(self._best(mine.size) for mine in self.carried)

    @property
    def other_carried(self) -> tuple[Trained, ...]:
        """The other table at each size, with the rate that is best at the smallest."""
        rate = self._best(self.carried[0].size).learning_rate
        return tuple(each for each in self.grid if each.learning_rate == rate)

    @property
    def share(self) -> Real:
        """Operations of the search over those of tuning the other table at the largest size."""
        largest = self.carried[-1].size
        return self.tuned.flops / sum(each.flops * len(each.losses) for each in self.grid if each.size == largest)

    @property
    def sentence(self) -> str:
        """What came out, at the largest size."""
        mine, carried, retuned = self.carried[-1], self.other_carried[-1], self.retuned[-1]
        return (
            f"Tuned once at {self.along} {self.carried[0].size} in {self.tuned.seconds:.0f} s, at {self.along} {mine.size} the "
            f"loss is {_against(mine.loss, carried.loss)} that of {self.against} carried over and "
            f"{_against(mine.loss, retuned.loss)} that of {self.against} retuned there, which takes "
            f"{1 / self.share:.1f} times the operations of the search."
        )

    _repr_html_ = late_method("equimu.tuning._html", "html_comparison")

    def __repr__(self) -> str:
        return self.sentence

    def _best(self, size: int) -> Trained:
        return min((each for each in self.grid if each.size == size), key=lambda each: each.loss)


def _against(mine: Real, other: Real) -> str:
    if not math.isfinite(other):
        return "finite, unlike"
    return f"{abs(other - mine):.3f} {'below' if mine <= other else 'above'}"
