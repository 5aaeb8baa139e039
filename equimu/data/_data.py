"""What a training program asks of data, whatever the task: batches by their number."""

import abc
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from equimu._errors import EquimuError

Rows: TypeAlias = Sequence[int] | np.ndarray
"""Numbers of rows within a batch."""


@runtime_checkable
class TrainingBatches(Protocol):
    """Endless batches, each a pure function of its step and of the rows asked for."""

    def batch(self, step: int, rows: Rows | None = None) -> Any:
        """The batch of a step.

        Args:
            step: from 0.
            rows: which rows of the batch, in this order; None is all.

        Returns:
            A pytree of numpy arrays, whose leading axis is the rows asked for.
        """
        ...

    def iterate(self, start_step: int = 0, rows: Rows | None = None) -> Iterator[Any]:
        """Endless batches from a step on, prepared ahead.

        Args:
            start_step: first step; going on from a checkpoint needs nothing else.
            rows: as for `batch`.

        Returns:
            An iterator that yields `batch(start_step, rows)`, `batch(start_step + 1, rows)`, ...
        """
        ...


@runtime_checkable
class ValidationBatches(Protocol):
    """The batches of an evaluation: in a fixed order, nothing left out, the last one filled up where rows are too few."""

    def __len__(self) -> int:
        """Number of batches."""
        ...

    def batch(self, number: int, rows: Rows | None = None) -> Any:
        """One batch.

        Args:
            number: from 0, below `len(self)`.
            rows: which rows of the batch, in this order; None is all.

        Returns:
            A pytree of numpy arrays, whose leading axis is the rows asked for: of one size for all batches.
        """
        ...

    def weights(self, number: int, rows: Rows | None = None) -> np.ndarray:
        """Which rows of a batch count.

        Args:
            number: as for `batch`.
            rows: as for `batch`.

        Returns:
            float32 of shape (number of rows,): 1 for a row that is there, 0 for one that fills up the last batch.
        """
        ...


class Data(abc.ABC):
    """What a task trains and is evaluated on: batches that are pure functions of (seed, step, row).

    Made by `text`, `arrays` or `source`; a subclass brings batches of its own:

        class Noise(Data):
            rows = 32

            @property
            def fingerprint(self): return "noise, version 1"
            def training(self, seed): ...
            def validation(self, first=None): ...

    Attributes:
        rows: of a batch, over all devices and hosts.
        unit: what is counted, for logs: `"examples"`, or `"tokens"` of text.
        units_per_row: how many of them a row has: 1, or the positions of a row of text.
        fingerprint: what the data is: other data has another fingerprint, so that a run on it is another run. It does not
            depend on `rows`.
    """

    rows: int
    unit: str = "examples"
    units_per_row: int = 1

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str: ...

    @abc.abstractmethod
    def training(self, seed: int) -> TrainingBatches:
        """Training batches.

        Args:
            seed: of the order; any integer of 64 bits.
        """

    @abc.abstractmethod
    def validation(self, first: int | None = None) -> ValidationBatches:
        """Validation batches, of examples that training never meets.

        Args:
            first: at most this many batches; None is all.
        """

    def whole(self, split: str) -> ValidationBatches:
        """All examples of a side, each once.

        Args:
            split: `"validation"` or `"train"`.

        Raises:
            EquimuError: the data gives those in order of one side alone; a subclass may give both.
        """
        if split == "validation":
            return self.validation()
        raise EquimuError(f"{type(self).__name__} has no examples of {split!r} in order; evaluate 'validation'")
