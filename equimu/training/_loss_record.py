"""What the losses of a run say while it goes on: numbers that are not finite, and spikes."""

import dataclasses
import math
from typing import Any

from equimu._errors import EquimuError, ExitCode
from equimu._values import Real

# A loss so many of the usual changes from step to step above the running mean, and so large a share of it, is a spike.
_SPIKE_CHANGES = 6.0
_SPIKE_SHARE = 0.1
_WINDOW = 64  # steps that the running means look back over
_FIRST_STEPS = 32  # nothing is called a spike before


class NotFiniteError(EquimuError):
    """A loss or gradient is not finite, and the run was to stop then."""

    exit_code = ExitCode.NOT_FINITE


@dataclasses.dataclass
class LossRecord:
    """Running means of the loss, which tell a spike; plain numbers, so that a checkpoint can hold them.

    - `mean`, `change`: of the loss, and of how much it changes from a step to the next, over about the last 64 steps.
    - `last`: loss.
    - `steps`: seen so far.
    - `spikes`: seen since the last row.
    """

    mean: Real = 0.0
    change: Real = 0.0
    last: Real = 0.0
    steps: int = 0
    spikes: int = 0

    def see(self, loss: Real) -> None:
        """Takes in the loss of the next step. One that is not finite changes nothing."""
        if not math.isfinite(loss):
            return
        above = max(_SPIKE_CHANGES * self.change, _SPIKE_SHARE * abs(self.mean))
        if self.steps >= _FIRST_STEPS and loss > self.mean + above:
            self.spikes += 1
            loss = self.mean + above  # so that one spike does not hide the next
        self.steps += 1
        share = 1 / min(self.steps, _WINDOW)
        if self.steps > 1:
            self.change += share * (abs(loss - self.last) - self.change)
        self.mean += share * (loss - self.mean)
        self.last = loss

    def log_spikes(self) -> dict[str, Any]:
        """What a row of metrics says of spikes since the last one: nothing where there were none."""
        message = {"spikes": self.spikes} if self.spikes else {}
        self.spikes = 0
        return message
