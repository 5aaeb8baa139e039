"""Batches of numbered examples: shuffled and endless for training, in order and complete for evaluation."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int

from equimu._errors import EquimuError
from equimu._values import Count, Index, Integer, Size, check, checked
from equimu.data._data import Rows
from equimu.data._order import ShuffledOrder

_ENDLESS = 2**60  # steps
_AHEAD = 8  # batches prepared ahead of the training step
_READERS = 8  # threads, where examples come from a disk or a network


@runtime_checkable
class Examples(Protocol):
    """Examples that are known by their numbers, from 0.

    Attributes:
        count: how many there are.
        in_memory: whether one thread reads them as fast as several.
    """

    count: int
    in_memory: bool

    def batch(self, indices: Int[np.ndarray, " rows"]) -> Any:
        """The examples of these numbers: a pytree of numpy arrays, each with a leading axis of rows, not shared with others."""
        ...


class ShuffledBatches:
    """Training batches: every epoch is another permutation in which each example comes once.

    A batch may span two epochs.

    Args:
        examples: what to put in batches.
        rows: of a batch.
        seed: of the order.

    Raises:
        EquimuError: `rows` is below 1, or `seed` not an integer of 64 bits.
    """

    def __init__(self, examples: Examples, rows: int, seed: int):
        check(Size, rows=rows)
        check(Integer, seed=seed)
        self._examples, self._rows = examples, rows
        self._order = ShuffledOrder(examples.count, seed)

    def batch(self, step: int, rows: Rows | None = None) -> Any:
        """The batch of a step; see `TrainingBatches`."""
        check(Index, step=step)
        places = step * self._rows + _numbers(rows, self._rows)
        return self._examples.batch(self._order(places))

    def iterate(self, start_step: int = 0, rows: Rows | None = None) -> Iterator[Any]:
        """Endless batches from a step on, prepared ahead in threads by grain; see `TrainingBatches`."""
        import grain

        self.batch(start_step, rows)  # a mistake shows here, not in a thread at the first `next`
        steps = grain.MapDataset.source(_Steps(self, rows))[start_step:]
        threads = 1 if self._examples.in_memory else _READERS
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_AHEAD)
        return iter(steps.to_iter_dataset(options))


class _Steps:
    """Batches as grain's random access source, whose record is a step's whole batch."""

    def __init__(self, batches: ShuffledBatches, rows: Rows | None):
        self._batches, self._rows = batches, rows

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> Any:
        return self._batches.batch(index, self._rows)


class OrderedBatches:
    """Validation batches: every example once, in order; the last batch is filled up with the first example.

    Args:
        examples: what to put in batches.
        rows: of a batch.
        first: at most this many batches; None is all.
        filling: in place of the first example, what the leaves of an added row hold, in the order of the pytree.

    Raises:
        EquimuError: `rows` or `first` is below 1.
    """

    def __init__(self, examples: Examples, rows: int, first: int | None = None, filling: tuple[int, ...] | None = None):
        check(Size, rows=rows)
        check(Count | None, first=first)
        self._examples, self._rows, self._filling = examples, rows, filling
        batches = -(-examples.count // rows)
        self._batches = batches if first is None else min(first, batches)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Any]:
        return (self.batch(number) for number in range(len(self)))

    def batch(self, number: int, rows: Rows | None = None) -> Any:
        """One batch, by its number from 0; see `ValidationBatches`."""
        indices, there = self._indices(number, rows)
        batch = self._examples.batch(np.where(there, indices, 0))
        if self._filling is not None:
            for array, nothing in zip(jax.tree.leaves(batch), self._filling, strict=True):
                array[~there] = nothing
        return batch

    def weights(self, number: int, rows: Rows | None = None) -> Float32[np.ndarray, " rows"]:
        """Which rows of a batch count; see `ValidationBatches`."""
        _, there = self._indices(number, rows)
        return there.astype(np.float32)

    def _indices(self, number: int, rows: Rows | None) -> tuple[Int[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
        checked("number", number, Integer)
        if not 0 <= number < len(self):
            raise EquimuError(f"batch {number} does not exist; there are {len(self)}, counted from 0")
        indices = number * self._rows + _numbers(rows, self._rows)
        return indices, indices < self._examples.count


def _numbers(rows: Rows | None, whole: int) -> Int[np.ndarray, " rows"]:
    """The rows of a batch that are asked for."""
    if rows is None:
        return np.arange(whole)
    listed = list(rows) if isinstance(rows, range | np.ndarray) else rows
    checked("rows", listed, tuple[Integer, ...])
    if len(rows) == 0 or min(rows) < 0 or max(rows) >= whole:
        raise EquimuError(f"rows={rows} are not rows of a batch of {whole}; write a range within 0 and {whole}")
    return np.array(rows)
