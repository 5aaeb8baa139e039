"""The rows of a run, written as the device's numbers come in, and the watch over them."""

import collections
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from equimu._values import Real
from equimu.data import Data
from equimu.parameterization import Tree
from equimu.runs import RunConfig
from equimu.training._leaf_measures import leaf_rows
from equimu.training._loss_record import LossRecord, NotFiniteError
from equimu.training._step import StepMetrics

_LOOK_SECONDS = 0.02


class MetricsLog:
    """Looks at every step's loss, and writes the rows; into those of the first step, of its doublings and of the last also what
    each leaf did, by `leaf_rows`.

    The loss of a step is looked at when the next one has been handed to the device, so the device has work while the loop
    waits, and a number that is not finite is known one step later. Short steps are looked at together, as many as come in
    20 ms: waiting for each would slow them.

    Args:
        config: the run.
        data: whose rows are counted.
        tree: its rules.
        record: of the losses so far.
        step: updates so far.
        log: where rows go.
        resume_point: words on what a run that is stopped goes on from.
        peak_steps_per_second: that the devices would do at their peak; None where that is not known.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        tree: Tree[Any],
        record: LossRecord,
        step: int,
        log: Callable[[Mapping[str, Any]], None],
        resume_point: Callable[[], str],
        peak_steps_per_second: Real | None = None,
    ):
        self.record = record
        self._config, self._data, self._tree, self._log, self._resume_point = config, data, tree, log, resume_point
        self._waiting: collections.deque[tuple[int, StepMetrics, bool]] = collections.deque()
        self._looked_at = self._logged_at = time.perf_counter()
        self._logged, self._peak = step, peak_steps_per_second

    def add(self, step: int, metrics: StepMetrics, *, logs: bool, at_once: bool) -> bool:
        """Takes the numbers of a step that was just handed to the device.

        Args:
            step: its number.
            metrics: its numbers.
            logs: whether it has a row.
            at_once: whether to wait for them.

        Returns:
            Whether to go on; not where the run has diverged and is recorded as such.

        Raises:
            NotFiniteError: a loss or gradient is not finite, and the run's policy is to stop.
        """
        self._waiting.append((step, metrics, logs))
        now = time.perf_counter()
        if not at_once and now - self._looked_at < _LOOK_SECONDS:
            return True
        while len(self._waiting) > (0 if at_once else 1):
            if not self._look(*self._waiting.popleft()):
                return False
        self._looked_at = now
        return True

    def _look(self, step: int, metrics: StepMetrics, logs: bool) -> bool:
        policy = self._config.on_nonfinite
        loss = float(metrics.loss)  # waits for the device
        self.record.see(loss)
        fails = policy != "skip" and not (math.isfinite(loss) and (not logs or math.isfinite(metrics.grad_norm)))
        if logs or fails:
            self._write(step, loss, metrics)
        if fails and policy == "stop":
            what = "loss" if not math.isfinite(loss) else "gradient"
            raise NotFiniteError(
                f"the {what} of step {step} is not finite; {self._resume_point()}; lower the learning rate, "
                "or let on_nonfinite skip such updates or record the run as diverged"
            )
        return not fails

    def _write(self, step: int, loss: Real, metrics: StepMetrics) -> None:
        unit, units = self._data.unit, self._data.rows * self._data.units_per_row
        now = time.perf_counter()
        row: dict[str, Any] = {
            "step": step,
            unit: step * units,
            "loss": loss,
            "grad_norm": float(metrics.grad_norm),
            "update_rms": float(metrics.update_rms),
            f"{unit}_per_second": (step - self._logged) * units / (now - self._logged_at),
            **self.record.log_spikes(),
        }
        if self._peak is not None:
            row["mfu"] = (step - self._logged) / (now - self._logged_at) / self._peak
        if metrics.metrics:
            row["metrics"] = {name: float(value) for name, value in metrics.metrics.items()}
        if metrics.updates is not None:
            row["skipped"] = step - int(metrics.updates)
        if metrics.inspected is not None and (self._is_doubled(step) or step == self._config.steps):
            optimizer = self._config.optimizer
            row["leaves"] = leaf_rows(
                self._tree,
                np.asarray(metrics.inspected),
                learning_rate=optimizer.learning_rate,
                weight_decay=optimizer.weight_decay,
            )
        self._logged, self._logged_at = step, now
        self._log(row)

    def _is_doubled(self, step: int) -> bool:
        """Whether a power of two lies between the last step that had a row and this one.

        It looks at the step alone, so that a run that goes on writes the rows of one that was never interrupted.
        """
        every = self._config.log_every
        last = max((step - 1) // every * every, min(step - 1, 1))
        return step.bit_length() > last.bit_length()
