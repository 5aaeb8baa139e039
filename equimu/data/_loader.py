"""Batches of a token store: shuffled and endless for training, in order and complete for evaluation."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from equimu._values import Size, check
from equimu.data._batches import OrderedBatches, ShuffledBatches
from equimu.data._data import Rows
from equimu.data._store import TokenStore
from equimu.data._windows import Batch, PackedBatch, Windows, windows_of


class Loader:
    """Training batches of text as a pure function of (seed, step, row); they are `TrainingBatches`.

    The order does not depend on hosts, devices or threads: a host asks for its rows of the global batch.
    Every epoch is another permutation in which each window comes once; a batch may span two epochs.

    Args:
        store: token store.
        seq: positions of a row.
        rows: rows of the global batch.
        seed: of the order.
        windows: `"concatenate"` (documents one after the other, cut every `seq` tokens), `"packed"` (the same, each
            document apart from the others by its segment id) or `"document"` (one truncated or padded document a
            row, masked after its first end-of-document).
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
        opened = _opened(store, split, windows, seq, rows, tail=False)
        self._batches = ShuffledBatches(opened, rows, seed)
        self.windows_per_epoch: int = opened.count

    def batch(self, step: int, rows: Rows | None = None) -> Batch | PackedBatch:
        """The batch of a step.

        Args:
            step: from 0.
            rows: which rows of the global batch, in this order; None is all.

        Returns:
            Numpy arrays of shape (number of rows, seq): a `PackedBatch` of `"packed"` windows, else a `Batch`.

        Raises:
            EquimuError: negative step, rows outside the batch, or a damaged store.
        """
        return self._batches.batch(step, rows)

    def iterate(self, start_step: int = 0, rows: Rows | None = None) -> Iterator[Batch | PackedBatch]:
        """Endless batches from a step on, prepared ahead in threads by grain.

        Args:
            start_step: first step; going on from a checkpoint needs nothing else.
            rows: as for `batch`.

        Returns:
            An iterator that yields `batch(start_step, rows)`, `batch(start_step + 1, rows)`, ...
        """
        return self._batches.iterate(start_step, rows)


class OrderedLoader:
    """Every window of a split once, in a fixed order, for evaluation; they are `ValidationBatches`.

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
        opened = _opened(store, split, windows, seq, rows, tail=True)
        filling = (store.info.eod, store.info.eod, 0) + ((0,) if windows == "packed" else ())
        self._batches = OrderedBatches(opened, rows, first, filling)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch | PackedBatch]:
        return iter(self._batches)

    def batch(self, number: int, rows: Rows | None = None) -> Batch | PackedBatch:
        """One batch, by its number from 0.

        Args:
            number: below `len(self)`.
            rows: which rows of the global batch, in this order; None is all.

        Returns:
            Numpy arrays of shape (number of rows, seq): a `PackedBatch` of `"packed"` windows, else a `Batch`.

        Raises:
            EquimuError: no such batch, rows outside it, or a damaged store.
        """
        return self._batches.batch(number, rows)

    def weights(self, number: int, rows: Rows | None = None) -> Float32[np.ndarray, " rows"]:
        """Which rows of a batch are windows.

        Args:
            number: as for `batch`.
            rows: as for `batch`.

        Returns:
            float32 of shape (number of rows,): 1 for a window, 0 for a row that fills up the last batch, whose mask is 0, too.

        Raises:
            EquimuError: no such batch, or rows outside it.
        """
        return self._batches.weights(number, rows)


def _opened(store: TokenStore, split: str, windows: str, seq: int, rows: int, *, tail: bool) -> Windows:
    check(TokenStore, store=store)
    check(str, split=split, windows=windows)
    check(Size, seq=seq, rows=rows)
    return windows_of(store, split, windows, seq, tail=tail)
