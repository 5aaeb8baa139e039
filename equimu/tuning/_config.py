"""What is tuned: a small run, the numbers that are searched, and how hard."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from equimu._errors import EquimuError, nearest
from equimu._values import Count, Real, Seed, check, check_keys
from equimu.runs import RunConfig, config_from_dict
from equimu.tasks import Task
from equimu.tuning._space import SearchedNumber, searched_numbers

# The rate, and the base constants that Tensor Programs V and the users of its tables tune.
USUAL_SEARCH: Mapping[str, tuple[float, float]] = {
    "learning_rate": (2.0**-9, 2.0**-3),
    "input.multiplier": (2.0**-3, 2.0**3),
    "input.lr": (2.0**-3, 2.0**3),
    "hidden.init_std": (2.0**-2, 2.0**2),
    "output.multiplier": (2.0**-3, 2.0**3),
}
"""What is searched where nothing is said: the ranges by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """A search for the best numbers of a small run, from which larger ones take them.

    Numbers are named as in a sweep (`learning_rate`, `weight_decay`, `b2`), and base constants of the table as `where.number`,
    where being a role, module or path of the model (`output.multiplier`, `blocks.mlp.lr`).

    Raises:
        EquimuError: a field that cannot be.
    """

    run: RunConfig = RunConfig()
    """The small run; its sizes are the base of larger ones."""
    search: Mapping[str, tuple[Real, Real]] = dataclasses.field(default_factory=lambda: dict(USUAL_SEARCH))
    """The lowest and the highest value of each number, by its name."""
    trials: Count = 96
    """At most so many trials of one seed each; fewer where more of them no longer help."""
    seeds: Count = 3
    """Of the noise, of the best trials and of the run that nobody tuned."""
    finalists: Count = 4
    """The best trials, which are run with seeds of their own to decide between them."""
    sampler: Literal["tpe", "sobol"] = "tpe"
    """Where trials are made: after some quasi-random points where losses are expected to be low, or at quasi-random points."""
    sampler_seed: Seed = 0
    """Of the order in which points are tried."""

    def __post_init__(self) -> None:
        check(RunConfig, run=self.run)
        check(Count, trials=self.trials, seeds=self.seeds, finalists=self.finalists)
        check(Literal["tpe", "sobol"], sampler=self.sampler)
        check(Seed, sampler_seed=self.sampler_seed)
        check_keys("search", self.search)
        if self.seeds < 2:
            raise EquimuError("seeds must be at least 2: one seed does not tell the noise")
        if self.run.seed != 0:
            raise EquimuError(
                f"seed={self.run.seed} is for a single run; tuning takes the first {self.seeds + 1} seeds"
            )
        numbers = searched_numbers(self.run, self.search)
        object.__setattr__(self, "search", {number.name: (number.low, number.high) for number in numbers})

    @property
    def numbers(self) -> tuple[SearchedNumber, ...]:
        """The numbers that are searched."""
        return searched_numbers(self.run, self.search)


def tune_config_from_dict(values: Mapping[str, Any], task: type[Task] | None = None) -> TuneConfig:
    """A search from plain JSON types; fields left out keep their defaults.

    Args:
        values: by the names of fields.
        task: the class of the task, where it is known; else `run.task.name` tells.

    Raises:
        EquimuError: an unknown key (with the nearest valid one), or a value of the wrong type.
    """
    known = [field.name for field in dataclasses.fields(TuneConfig)]
    for key in values:
        if key not in known:
            raise EquimuError(f"unknown key {key!r}: {nearest(key, known)}")
    own = values.get("run", {})
    check_keys("run", own)
    found: dict[str, Any] = {**values, "run": config_from_dict(own, task, "run.")}
    return TuneConfig(**found)
