"""What a search found, with its uncertainty, what mattered, and what it cost."""

import dataclasses
from collections.abc import Mapping

from equimu._errors import EquimuError, nearest
from equimu._lazy import late_method
from equimu._values import Real
from equimu.runs import RunConfig, Runs, Sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """What one number is worth.

    Attributes:
        name: of the number.
        value: its best value.
        default: its value in the run that nobody tuned.
        lost: mean over seeds of the loss that the best trial loses by leaving it at its default; infinite where it then
            diverges.
        plus_minus: half of the 90 % interval of `lost`, from the differences seed by seed, whose variance is taken to be the
            same for all numbers; None where one diverged.
    """

    name: str
    value: Real
    default: Real
    lost: Real
    plus_minus: Real | None


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Tuned:
    """The best setting that was found.

    Attributes:
        config: the small run with the best numbers, seed 0.
        values: the best numbers, by name.
        loss, plus_minus: its validation loss, the mean over seeds that the search did not see, and half of its 90 % interval.
        default_loss, default_plus_minus: the same of the run that nobody tuned; infinite and None if it diverged.
        noise: standard deviation of the loss between seeds.
        effects: what each number is worth, the most first.
        trials: how many were searched; `diverged` of them diverged.
        is_settled: whether the search ended because more trials no longer helped.
        runs: all runs.
        seconds: that this call took; runs that were done before are not trained again.
        flops: operations of all runs.
    """

    config: RunConfig
    values: Mapping[str, Real]
    loss: Real
    plus_minus: Real
    default_loss: Real
    default_plus_minus: Real | None
    noise: Real
    effects: tuple[Effect, ...]
    trials: int
    diverged: int
    is_settled: bool
    runs: Runs
    seconds: Real
    flops: Real

    def carried(self, **size: int) -> RunConfig:
        """The run of a larger model with the best numbers: its rules are relative to the small one.

        Args:
            size: sizes by name, e.g. `width=1024`; the others stay.

        Raises:
            EquimuError: an unknown size, or one below that of the small run.
        """
        return carried_run(self.config, size)

    _repr_html_ = late_method("equimu.tuning._html", "html_tuned")

    def __repr__(self) -> str:
        against = "a run that diverges" if self.default_plus_minus is None else f"{self.default_loss:.4f} untuned"
        lines = [f"Tuned in {self.trials} trials: loss {self.loss:.4f} ± {self.plus_minus:.4f}, against {against}"]
        width = max(len(effect.name) for effect in self.effects)
        for effect in self.effects:
            lines.append(f"  {effect.name:{width}}  {effect.value:<10.4g}  {effect_text(effect)}")
        return "\n".join(lines)


def carried_run(small: RunConfig, size: Mapping[str, int], what: str = "carry") -> RunConfig:
    """The small run at larger sizes.

    Args:
        small: the small run.
        size: sizes by name; the others stay.
        what: how they are called in messages.

    Raises:
        EquimuError: an unknown size, or one below that of the small run.
    """
    for name, value in size.items():
        if name not in small.size:
            raise EquimuError(f"{what} names {name!r}, which is not a size of the model: {nearest(name, small.size)}")
        if value < small.size[name]:
            raise EquimuError(f"{what} has {name}={value}, below the {small.size[name]} that was tuned at")
    return dataclasses.replace(small, size=Sizes({**small.size, **size}))


def effect_text(effect: Effect) -> str:
    """What a number is worth, in words."""
    if effect.value == effect.default:
        return "stays at its default: others are no better"
    if effect.plus_minus is None:
        return f"at its default, {effect.default:.4g}, the run diverges"
    return f"{effect.lost:+.4f} ± {effect.plus_minus:.4f} at its default, {effect.default:.4g}"
