"""Where to look next: points of a unit cube, by a library of black-box optimization."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from equimu._errors import EquimuError
from equimu._values import Real

_WORST = 1e30  # of a trial that diverged: finite, as the library ranks losses


class Sampler:
    """Asks for points and is told their losses. The same losses give the same points.

    The first point is that of the defaults, where it is in the ranges; then come quasi-random points, and then points of
    Optuna's tree-structured Parzen estimator.

    Args:
        dimensions: of the cube.
        first: points to begin with.
        seed: of all that is random.
        quasi_random: how many points are quasi-random; by default as many as a model of the losses needs.

    Raises:
        EquimuError: Optuna is not installed.
    """

    def __init__(self, dimensions: int, first: Sequence[Sequence[Real]], seed: int, quasi_random: int | None = None):
        try:
            import optuna
        except ImportError:
            raise EquimuError("tuning needs Optuna, which is not installed: pip install 'equimu[tune]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        from scipy.stats import qmc

        beginning = 2 ** math.ceil(math.log2(2 * dimensions + 2 if quasi_random is None else quasi_random))
        sampler = optuna.samplers.TPESampler(n_startup_trials=0, multivariate=True, constant_liar=True, seed=seed)
        self._study: Any = optuna.create_study(sampler=sampler)
        self._axes: Any = {f"x{axis}": optuna.distributions.FloatDistribution(0.0, 1.0) for axis in range(dimensions)}
        self._trials: dict[int, Any] = {}
        spread = qmc.Sobol(dimensions, rng=seed).random(beginning)
        for point in (*first, *spread):
            self._study.enqueue_trial({f"x{axis}": float(x) for axis, x in enumerate(point)})

    def ask(self, count: int) -> list[tuple[int, np.ndarray]]:
        """The next points, each with a number by which to tell its loss."""
        asked = [self._study.ask(self._axes) for _ in range(count)]
        self._trials.update((trial.number, trial) for trial in asked)
        return [(trial.number, np.array([trial.params[name] for name in self._axes])) for trial in asked]

    def tell(self, number: int, loss: Real) -> None:
        """The loss at a point; infinite if it diverged."""
        self._study.tell(self._trials.pop(number), loss if math.isfinite(loss) else _WORST)
