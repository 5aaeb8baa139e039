"""Batches: shuffled and endless for training, in order and complete for evaluation."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from equimu._errors import EquimuError
from equimu._values import Count, Index, Integer, Size, check, checked
from equimu.data._order import ShuffledOrder
from equimu.data._store import TokenStore
from equimu.data._windows import Batch, windows_of

# Numbers of rows within a batch.
_Rows: TypeAlias = Sequence[int] | np.ndarray

_ENDLESS = 2**60  # steps
_AHEAD = 8  # batches prepared ahead of the training step
_READERS = 8  # threads, where rows come from a disk or a network


class Loader:
    """Training batches as a pure function of (seed, step, row).

    The order does not depend on hosts, devices or threads: a host asks for its rows of the global batch.
    Every epoch is another permutation in which each window comes once; a batch may span two epochs.

    Args:
        store: token store.
        seq: positions of a row.
        rows: rows of the global batch.
        seed: of the order.
        windows: `"concatenate"` (documents one after the other, cut every `seq` tokens) or `"document"` (one
            truncated or padded document a row, masked after its first end-of-document).
        split: `"train"` or `"validation"`.

    Attributes:
        windows_per_epoch: number of different rows.

    Raises:
        EquimuError: an argument that cannot be, too few tokens for one window, or a damaged store.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        seq: int,
        rows: int,
        seed: int,
        windows: str = "concatenate",
        split: str = "train",
    ):
        self._rows = _checked(store, split, windows, seq, rows)
        check(Integer, seed=seed)
        self._windows = windows_of(store, split, windows, seq, tail=False)
        self._order = ShuffledOrder(self._windows.count, seed)
        self.windows_per_epoch = self._windows.count

    def batch(self, step: int, rows: _Rows | None = None) -> Batch:
        """The batch of a step.

        Args:
            step: from 0.
            rows: which rows of the global batch, in this order; None is all.

        Returns:
            Numpy arrays of shape (number of rows, seq).

        Raises:
            EquimuError: negative step, rows outside the batch, or a damaged store.
        """
        check(Index, step=step)
        places = step * self._rows + np.array(_part(rows, self._rows))
        return self._windows.batch(self._order(places))

    def iterate(self, start_step: int = 0, rows: _Rows | None = None) -> Iterator[Batch]:
        """Endless batches from a step on, prepared ahead in threads by grain.

        Args:
            start_step: first step; going on from a checkpoint needs nothing else.
            rows: as for `batch`.

        Returns:
            An iterator that yields `batch(start_step, rows)`, `batch(start_step + 1, rows)`, ...
        """
        import grain

        self.batch(start_step, rows)  # a mistake shows here, not in a thread at the first `next`
        steps = grain.MapDataset.source(_Steps(self, rows))[start_step:]
        threads = 1 if self._windows.in_memory else _READERS
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_AHEAD)
        return iter(steps.to_iter_dataset(options))


class _Steps:
    """A loader as grain's random access source, whose record is a step's whole batch."""

    def __init__(self, loader: Loader, rows: _Rows | None):
        self._loader, self._rows = loader, rows

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> Batch:
        return self._loader.batch(index, self._rows)


class OrderedLoader:
    """Every window of a split once, in a fixed order, for evaluation.

    Nothing is left out: a last window that is not full is padded, and so is a last batch that has too few
    rows. What is added has mask 0, so sums over the mask do not depend on `rows`.

    Args:
        store: token store.
        seq: positions of a row.
        rows: rows of the global batch.
        windows: as for `Loader`.
        split: `"validation"` or `"train"`.
        first: at most this many batches; None is all.

    Raises:
        EquimuError: as `Loader`.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        seq: int,
        rows: int,
        windows: str = "concatenate",
        split: str = "validation",
        first: int | None = None,
    ):
        self._rows = _checked(store, split, windows, seq, rows)
        check(Count | None, first=first)
        self._windows = windows_of(store, split, windows, seq, tail=True)
        self._eod = store.info.eod
        batches = -(-self._windows.count // rows)
        self._batches = batches if first is None else min(first, batches)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(number) for number in range(len(self)))

    def batch(self, number: int, rows: _Rows | None = None) -> Batch:
        """One batch, by its number from 0.

        Args:
            number: below `len(self)`.
            rows: which rows of the global batch, in this order; None is all.

        Returns:
            Numpy arrays of shape (number of rows, seq).

        Raises:
            EquimuError: no such batch, rows outside it, or a damaged store.
        """
        if not 0 <= number < len(self):
            raise EquimuError(f"batch {number} does not exist; there are {len(self)}, counted from 0")
        indices = number * self._rows + np.array(_part(rows, self._rows))
        there = indices < self._windows.count
        batch = self._windows.batch(np.where(there, indices, 0))
        for array, nothing in zip(batch, (self._eod, self._eod, 0), strict=True):
            array[~there] = nothing
        return batch


def _checked(store: TokenStore, split: str, windows: str, seq: int, rows: int) -> int:
    check(TokenStore, store=store)
    check(str, split=split, windows=windows)
    check(Size, seq=seq, rows=rows)
    return rows


def _part(rows: _Rows | None, whole: int) -> _Rows:
    if rows is None:
        return range(whole)
    listed = list(rows) if isinstance(rows, range | np.ndarray) else rows
    checked("rows", listed, tuple[Integer, ...])
    if len(rows) == 0 or min(rows) < 0 or max(rows) >= whole:
        raise EquimuError(f"rows={rows} are not rows of a batch of {whole}; write a range within 0 and {whole}")
    return rows
