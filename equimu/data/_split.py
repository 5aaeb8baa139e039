"""Data of numbered examples on two sides, for training and for validation."""

import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from equimu._errors import EquimuError
from equimu._values import Part, Size, check, checked
from equimu.data._batches import Examples, OrderedBatches, ShuffledBatches
from equimu.data._data import Data
from equimu.data._order import ShuffledOrder

_SPLIT = 2**64  # where the seed of an order would be; no training has it


class SplitData(Data):
    """Data of numbered examples, every training example once an epoch and every validation example once.

    Args:
        train: examples to train on.
        held_out: examples to validate on.
        rows: of a batch.
        content: parts of the fingerprint, in JSON types; asked for once, when the fingerprint is.

    Raises:
        EquimuError: `rows` is below 1, or there are fewer training examples than that.
    """

    def __init__(self, train: Examples, held_out: Examples, rows: int, content: Callable[[], list[Any]]):
        check(Size, rows=rows)
        if rows > train.count:
            raise EquimuError(f"rows={rows} is more than the {train.count} to train on; write at most {train.count}")
        self.rows = rows
        self._train, self._held_out, self._content = train, held_out, content

    def __repr__(self) -> str:
        return f"Data({self._train.count} to train on, {self._held_out.count} to validate on, rows={self.rows})"

    @property
    def fingerprint(self) -> str:
        """Of the examples and of which are held out."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self._content()).encode()).hexdigest()[:32]

    def training(self, seed: int) -> ShuffledBatches:
        """Training batches; see `Data`."""
        return ShuffledBatches(self._train, self.rows, seed)

    def validation(self, first: int | None = None) -> OrderedBatches:
        """Validation batches; see `Data`."""
        return OrderedBatches(self._held_out, self.rows, first)

    def whole(self, split: str) -> OrderedBatches:
        """All examples of a side; see `Data`."""
        return OrderedBatches(self._held_out if split == "validation" else self._train, self.rows)


class _Side:
    """The examples at some places of an order of all."""

    def __init__(self, examples: Examples, order: ShuffledOrder, places: range):
        self._examples, self._order, self._begin = examples, order, places.start
        self.count, self.in_memory = len(places), examples.in_memory

    def batch(self, indices: Int[np.ndarray, " rows"]) -> Any:
        return self._examples.batch(self._order(self._begin + indices))


def split(examples: Examples, share: Any) -> tuple[Examples, Examples]:
    """The examples to train on and those to validate on, by a permutation that is the same for all data of that size.

    Args:
        examples: all of them.
        share: of those to validate on. Each side has at least one.

    Raises:
        EquimuError: `share` is not between 0 and 1, or there is one example only.
    """
    part = checked("validation", share, Part)
    whole = examples.count
    if whole < 2:
        raise EquimuError(
            f"{whole} row leaves none to validate on; bring more rows, or give validation= rows of its own"
        )
    held_out = min(max(round(part * whole), 1), whole - 1)
    order = ShuffledOrder(whole, _SPLIT)
    return _Side(examples, order, range(held_out, whole)), _Side(examples, order, range(held_out))
