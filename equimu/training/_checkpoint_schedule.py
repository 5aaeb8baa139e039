"""When a run is saved, and from what it goes on."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from equimu._errors import EquimuError, printable
from equimu.processes import is_process_zero
from equimu.runs import CHECKPOINTS, StorageError, WarmStart, flags_that_differ
from equimu.storage import Checkpoints, OtherArrays, Restored
from equimu.training._loss_record import LossRecord
from equimu.training._program import Program
from equimu.training._runtime import RuntimeConfig

_ROWS = "rows"


class ResumePoint(NamedTuple):
    """Where a run goes on.

    - `leaves`: the state, as the programs take it.
    - `step`: updates before it.
    - `record`: of the losses up to there.
    - `rows`: what the checkpoint says of the run's rows up to there; None where there is none, or it says nothing.
    """

    leaves: Sequence[Array]
    step: int
    record: LossRecord
    rows: Mapping[str, Any] | None = None


class CheckpointSchedule:
    """The checkpoints of one run, and the times of them.

    Args:
        folder: of the run.
        runtime: when to save, and what to keep.
        program: whose states are saved.
        identity: what a checkpoint must have been saved with, to be this run's; plain JSON types.
    """

    def __init__(self, folder: Path, runtime: RuntimeConfig, program: Program, identity: Mapping[str, Any]):
        self._checkpoints = Checkpoints(folder / CHECKPOINTS, keep=runtime.keep, keep_every=runtime.keep_every)
        self._runtime, self._program, self._identity = runtime, program, identity
        self._due = time.monotonic() + runtime.checkpoint_seconds
        self._last: int | None = None

    def restore(self) -> ResumePoint | None:
        """The newest checkpoint that is what was saved; None where the run has none. Damaged newer ones are reported on stderr.

        Raises:
            EquimuError: none of the checkpoints is valid, or they are another run's.
        """
        restored = self._checkpoints.restore(self._like(), self._identity)
        if restored is None:
            return None
        self._last = restored.step
        return _begun(restored)._replace(rows=restored.manifest.get(_ROWS))

    def begin_from(self, source: WarmStart) -> ResumePoint:
        """The state of another run, whose config may be another, but not its arrays.

        Raises:
            EquimuError: it is damaged, or its arrays are others.
        """
        try:
            restored = Checkpoints(source.root).restore(self._like(), source.saved, step=source.step)
        except OtherArrays as error:
            told = flags_that_differ(source.saved.get("config", {}), self._identity["config"])
            if told is None:
                raise
            raise EquimuError(
                f"restore_from: step-{source.step} in {source.root} holds other arrays: {told}"
            ) from error
        if restored is None:
            raise EquimuError(f"restore_from: step-{source.step} is gone from {source.root}")
        return _begun(restored)

    def _like(self) -> Any:
        return self._program.state(self._program.state_like)

    def is_due(self, step: int) -> bool:
        """Whether a step is one to be saved by its number."""
        every = self._runtime.checkpoint_every
        return every is not None and step % every == 0

    def is_time(self) -> bool:
        """Whether it is time for a save; having said so, it says so again after another `checkpoint_seconds`."""
        now = time.monotonic()
        if self._runtime.checkpoint_every is not None or now < self._due:
            return False
        self._due = now + self._runtime.checkpoint_seconds
        return True

    @property
    def saves_final(self) -> bool:
        """Whether the last step is to be saved."""
        final = self._runtime.save_final
        return self._last is not None if final is None else final

    def resume_point(self) -> str:
        """Words on what there is to go on from, once it is written.

        Raises:
            StorageError: it could not be.
        """
        self.finish()
        return "there is no checkpoint" if self._last is None else f"the last checkpoint is of step {self._last}"

    def save(self, step: int, leaves: Sequence[Array], record: LossRecord, rows: Mapping[str, Any]) -> None:
        """Begins a checkpoint; the arrays may be donated when it returns.

        Args:
            step: updates so far.
            leaves: the state.
            record: of the losses so far.
            rows: what the run's folder says of its rows so far.

        Raises:
            StorageError: it cannot be written, or the one before it could not.
        """
        manifest = {**self._identity, "record": dataclasses.asdict(record), _ROWS: dict(rows)}
        try:
            self._checkpoints.save(step, self._program.state(leaves), manifest)
        except EquimuError as error:
            raise StorageError(f"training stopped at step {step}: {error}") from None
        self._last = step

    def finish(self) -> None:
        """Waits until what was begun is written.

        Raises:
            StorageError: it could not be.
        """
        try:
            self._checkpoints.wait()
        except EquimuError as error:
            raise StorageError(f"training stopped: {error}") from None

    def close(self) -> None:
        """Waits until nothing is written any more; whatever goes wrong with it now, something else went wrong before."""
        with contextlib.suppress(EquimuError):
            self._checkpoints.wait()


def _begun(restored: Restored) -> ResumePoint:
    if is_process_zero():
        for place, reason in restored.quarantined:
            message = printable(f"a damaged checkpoint was set aside as {place}: {reason}")
            print(f"equimu: {message}", file=sys.stderr, flush=True)
    record: Any = restored.manifest.get("record")
    names = {field.name for field in dataclasses.fields(LossRecord)}
    if (
        not isinstance(record, dict)
        or set(record) != names
        or not all(isinstance(x, int | float) for x in record.values())
    ):
        raise EquimuError(f"the checkpoint of step {restored.step} has no record of losses, so no run saved it")
    return ResumePoint(jax.tree.leaves(restored.arrays), restored.step, LossRecord(**record))
