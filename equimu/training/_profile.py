"""A trace of some steps by JAX's profiler, in the run's folder."""

import contextlib
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax

from equimu._errors import EquimuError, printable
from equimu.files import refuse_special

_FOLDER = "profile"


class StepRange(NamedTuple):
    """Steps, both ends included."""

    first: int
    last: int


def step_range(text: str) -> StepRange:
    """The steps that `FIRST:LAST` says.

    Raises:
        EquimuError: it says none.
    """
    match = re.fullmatch(r"(\d{1,18}):(\d{1,18})", text, re.ASCII)
    if match is None:
        raise EquimuError(f"runtime.profile must be FIRST:LAST, such as 20:25, got {text!r}")
    first, last = map(int, match.groups())
    if not 1 <= first <= last:
        why = "steps count from 1" if first < 1 else f"step {first} is after step {last}"
        raise EquimuError(f"runtime.profile={text} holds no steps, since {why}; write FIRST:LAST, such as 20:25")
    return StepRange(first, last)


def check_profile(text: str | None, steps: int) -> None:
    """Raises an `EquimuError` unless a run of so many steps has those that are to be traced."""
    if text is not None and step_range(text).last > steps:
        raise EquimuError(f"runtime.profile={text} goes beyond the run, which has steps={steps}; write earlier steps")


class Profile(contextlib.AbstractContextManager["Profile"]):
    """Traces some steps of one run; a context, at whose end no trace goes on.

    Args:
        steps: as `FIRST:LAST`; None for none.
        folder: of the run.
    """

    def __init__(self, steps: str | None, folder: Path):
        self._steps = None if steps is None else step_range(steps)
        self._folder = folder / _FOLDER
        self._is_tracing = False

    def before(self, step: int) -> None:
        """Before a step is handed to the device. A run that goes on within the range traces the rest of it."""
        if self._steps is None or self._is_tracing or not self._steps.first <= step <= self._steps.last:
            return
        try:
            refuse_special(self._folder)
            jax.profiler.start_trace(str(self._folder))
        except (OSError, RuntimeError) as error:  # another run of this process is traced, say
            message = f"steps {self._steps.first} to {self._steps.last} are not traced: {error}"
            print(f"equimu: {printable(message)}", file=sys.stderr, flush=True)
            self._steps = None
        else:
            self._is_tracing = True

    def after(self, step: int, results: Any) -> None:
        """After a step was handed to the device.

        Args:
            step: its number.
            results: of the step, for which the last step of a trace is waited.
        """
        if self._is_tracing and self._steps is not None and step >= self._steps.last:
            jax.block_until_ready(results)
            self._stop()

    def __exit__(self, *_: Any) -> None:
        if self._is_tracing:
            self._stop()

    def _stop(self) -> None:
        self._is_tracing, self._steps = False, None
        with contextlib.suppress(RuntimeError, OSError):  # it was stopped by others, or cannot be written
            jax.profiler.stop_trace()
