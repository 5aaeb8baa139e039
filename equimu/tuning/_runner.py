"""The search: noise, trials, a final among the best, and what each number is worth."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equimu._errors import EquimuError
from equimu._interval import half_width, mean_half_width
from equimu._values import Real, check_function
from equimu.plans import training_flops
from equimu.runs import Run, RunConfig, Runs, run_config
from equimu.sweeps import Launcher, Pool, check_trees, pool_of
from equimu.tasks import Task
from equimu.training import RuntimeConfig
from equimu.tuning._config import TuneConfig
from equimu.tuning._result import Effect, Tuned
from equimu.tuning._sampler import Sampler
from equimu.tuning._space import SearchedNumber, with_values

OnTrial = Callable[[Run, int, int], None]
_AT_ONCE = 4  # trials that are asked for together, at least: few, as each tells where to look next
# A search has settled once its last third improved the best loss by less than the noise, after so many trials a number.
_LEAST_PER_NUMBER = 8


def tune(
    task: Task | RunConfig | TuneConfig,
    *,
    out: str | Path,
    workers: int | None = None,
    launcher: str | Launcher | None = None,
    runtime: RuntimeConfig | None = None,
    on_trial: OnTrial | None = None,
    **fields: Any,
) -> Tuned:
    """Searches for the best numbers of a small run. Interrupted and called again, it goes on where it was.

    First the run that nobody tuned is trained with several seeds, which tells the noise. Then trials of one seed are made
    where a sampler expects low losses, until their last third improved the best by less than the noise. The best few are
    trained with seeds that the search did not see, so that the winner's loss is not flattered by having been chosen, and are
    compared with each other and with the defaults. Last comes the winner with each number at its default in turn, which tells
    what that number is worth.

    Args:
        task: what is trained, the small run as a `RunConfig`, or the whole search as a `TuneConfig`.
        out: root of the run folders, one for each trial.
        workers, launcher, runtime: as of `equimu.sweep`.
        on_trial: called after each run with it, the number of runs done, and of all that may come.
        fields: the other fields of `TuneConfig` (`search`, `trials`, `seeds`, `finalists`) and of the `RunConfig` of the small
            run (`steps`, `optimizer`, `size`, ...).

    Raises:
        EquimuError: nothing to tune, an unknown number, too few trials, or all trials diverged.
        Interrupted: a signal came.

    Example:
        >>> tuned = tune(NextByte(), size={"width": 64}, base={"width": 64}, steps=500, out="runs/tune")
        >>> train(tuned.carried(width=1024), out="runs/large")
    """
    config = tune_config(task, fields)
    if on_trial is not None:
        check_function("on_trial", on_trial, "of a run, the number of runs done, and of all")
    pool = pool_of(launcher, config.run, out=out, workers=workers, runtime=runtime)
    return _Search(config, pool, on_trial).result()


def tune_config(task: Task | RunConfig | TuneConfig, fields: Mapping[str, Any]) -> TuneConfig:
    """A search of a task or a run with these fields, of the search or of the run; or the one that is given.

    Raises:
        EquimuError: it is none of them, or a field is unknown.
    """
    if isinstance(task, TuneConfig):
        if fields:
            raise EquimuError(
                f"{', '.join(fields)} goes into the TuneConfig that was given; or give a task in its place"
            )
        return task
    own = {field.name for field in dataclasses.fields(TuneConfig)} - {"run"}
    shared = {name: value for name, value in fields.items() if name not in own}
    run = run_config(task, shared.pop("size", None), shared)
    return TuneConfig(run=run, **{name: value for name, value in fields.items() if name in own})


class _Search:
    """One search, with the losses that are known."""

    def __init__(self, config: TuneConfig, pool: Pool, on_trial: OnTrial | None):
        self._config, self._pool, self._on_trial = config, pool, on_trial
        self._numbers = config.numbers
        self._runs: dict[RunConfig, Run] = {}
        seeds, numbers = config.seeds, len(self._numbers)
        self._most = config.trials + seeds * (2 + config.finalists + numbers)
        shares = [number.share(number.default) for number in self._numbers]
        first = [] if None in shares else [[share for share in shares if share is not None]]
        quasi_random = config.trials if config.sampler == "sobol" else None
        self._sampler = Sampler(numbers, first, config.sampler_seed, quasi_random)

    def result(self) -> Tuned:
        """Everything, in order."""
        begin = time.monotonic()
        config, numbers = self._config, self._numbers
        default = {number.name: number.default for number in numbers}
        check_trees([self._cell({n.name: n.value(0.37) for n in numbers}, 0)])  # base constants of what is not there
        seeds = range(1, config.seeds + 1)  # the search sees seed 0 alone
        untuned = self._losses(default, seeds)
        trials, is_settled = self._trials(float(np.std(untuned, ddof=1)) if np.isfinite(untuned).all() else 0.0)
        ranked = sorted((loss, index) for index, (_, loss) in enumerate(trials) if math.isfinite(loss))
        if not ranked:
            raise EquimuError(f"all {len(trials)} trials diverged; search lower values of {_listed(numbers)}")
        best = [default, *self._finalists([trials[index][0] for _, index in ranked])]
        final = [self._losses(values, seeds) for values in self._together(best, seeds)]
        means = [float(np.mean(losses)) for losses in final]
        winner = int(np.argmin(means))
        if not math.isfinite(means[winner]):
            raise EquimuError(f"the best trials diverge with other seeds; search lower values of {_listed(numbers)}")
        values, losses = best[winner], final[winner]
        effects = self._effects(values, losses, default, seeds)
        values, losses = self._simplest(values, losses, effects, seeds)
        spread = [np.std(each, ddof=1) for each in final if np.isfinite(each).all()]
        runs = list(self._runs.values())
        return Tuned(
            config=dataclasses.replace(self._cell(values, 0), on_nonfinite=config.run.on_nonfinite),
            values=values,
            loss=float(np.mean(losses)),
            plus_minus=mean_half_width(losses) or 0.0,
            default_loss=float(np.mean(untuned)),
            default_plus_minus=mean_half_width(untuned) if np.isfinite(untuned).all() else None,
            noise=float(np.sqrt(np.mean(np.square(spread)))),
            effects=tuple(dataclasses.replace(effect, value=values[effect.name]) for effect in effects),
            trials=len(trials),
            diverged=sum(not math.isfinite(loss) for _, loss in trials),
            is_settled=is_settled,
            runs=Runs(runs),
            seconds=time.monotonic() - begin,
            flops=len(runs) * training_flops(config.run),
        )

    def _trials(self, noise: Real) -> tuple[list[tuple[dict[str, Real], Real]], bool]:
        """The values of each trial and its loss; and whether the search settled before its trials were used up."""
        numbers, most = self._numbers, self._config.trials
        trials: list[tuple[dict[str, float], float]] = []
        while len(trials) < most:
            asked = self._sampler.ask(min(max(_AT_ONCE, self._pool.workers), most - len(trials)))
            points = [_values(numbers, point) for _, point in asked]
            self._train(self._cell(values, 0) for values in points)
            for (index, _), values in zip(asked, points, strict=True):
                loss = self._loss(values, 0)
                self._sampler.tell(index, loss)
                trials.append((values, loss))
            if _is_settled([loss for _, loss in trials], noise, _LEAST_PER_NUMBER * len(numbers)):
                return trials, True
        return trials, False

    def _finalists(self, ranked: Sequence[dict[str, Real]]) -> list[dict[str, Real]]:
        """The middle of the best quarter of the trials, and the best of them.

        Which trial is best is decided by noise as much as by its values; a mean of several is less so, as the centre of an
        evolution strategy is.
        """
        numbers, elite = self._numbers, ranked[: math.ceil(len(ranked) / 4)]
        shares = [[number.share(values[number.name]) or 0.0 for number in numbers] for values in elite]
        middle = _values(numbers, np.mean(shares, axis=0))
        return [middle, *ranked][: self._config.finalists]

    def _effects(
        self, best: dict[str, Real], losses: np.ndarray, default: dict[str, Real], seeds: Sequence[int]
    ) -> tuple[Effect, ...]:
        without = self._together([{**best, name: default[name]} for name in best], seeds)
        lost = np.array([self._losses(values, seeds) - losses for values in without])
        known = np.array([np.isfinite(differences).all() for differences in lost])
        half = _pooled_half_width(lost[known])
        effects = [
            Effect(
                name=name,
                value=best[name],
                default=default[name],
                lost=float(np.mean(differences)) if is_known else math.inf,
                plus_minus=half if is_known else None,
            )
            for name, differences, is_known in zip(best, lost, known, strict=True)
        ]
        return tuple(sorted(effects, key=lambda effect: -effect.lost))

    def _simplest(
        self, best: dict[str, Real], losses: np.ndarray, effects: Sequence[Effect], seeds: Sequence[int]
    ) -> tuple[dict[str, Real], np.ndarray]:
        """The best setting, with the numbers that are worth less than their uncertainty at their defaults.

        What such a number fits is the noise of the small run, and that does not carry over. They go back all at once, unless
        that costs more than one of them may.
        """
        idle = {e.name: e.default for e in effects if e.plus_minus is not None and e.lost <= e.plus_minus}
        simple = {**best, **idle}
        if simple == best:
            return best, losses
        own = self._losses(simple, seeds)
        may = max(effect.plus_minus or 0.0 for effect in effects if effect.name in idle)
        return (simple, own) if float(np.mean(own - losses)) <= may else (best, losses)

    def _together(self, points: Sequence[dict[str, Real]], seeds: Sequence[int]) -> Sequence[dict[str, Real]]:
        """The same points, trained with all seeds side by side."""
        self._train(self._cell(values, seed) for values in points for seed in seeds)
        return points

    def _losses(self, values: dict[str, Real], seeds: Sequence[int]) -> np.ndarray:
        """The loss of each seed; infinite where it diverged."""
        self._together([values], seeds)
        return np.array([self._loss(values, seed) for seed in seeds])

    def _loss(self, values: dict[str, Real], seed: int) -> Real:
        return self._runs[self._cell(values, seed)].validation_loss

    def _cell(self, values: Mapping[str, Real], seed: int) -> RunConfig:
        # A trial that diverges is a result, and no reason to stop the others.
        run = dataclasses.replace(self._config.run, seed=seed, on_nonfinite="record")
        return with_values(run, self._numbers, values)

    def _train(self, cells: Iterable[RunConfig]) -> None:
        new = [cell for cell in dict.fromkeys(cells) if cell not in self._runs]
        before = len(self._runs)
        tell = self._on_trial
        on_cell = None if tell is None else lambda run, done, _: tell(run, before + done, self._most)
        self._runs |= self._pool.train(new, on_cell)


def _listed(numbers: tuple[SearchedNumber, ...]) -> str:
    return " and ".join(number.name for number in numbers)


def _values(numbers: tuple[SearchedNumber, ...], point: np.ndarray) -> dict[str, Real]:
    return {number.name: number.value(float(share)) for number, share in zip(numbers, point, strict=True)}


def _pooled_half_width(lost: np.ndarray) -> Real | None:
    """Half of the interval of a mean of differences between seeds, whose variance is taken to be that of all rows."""
    if not len(lost):
        return None
    rows, seeds = lost.shape
    return half_width(float(np.sqrt(np.mean(np.var(lost, axis=1, ddof=1)) / seeds)), float(rows * (seeds - 1)))


def _is_settled(losses: Sequence[Real], noise: Real, least: int) -> bool:
    if len(losses) < least or not any(map(math.isfinite, losses)):
        return False
    return min(losses[: 2 * len(losses) // 3]) - min(losses) < noise
