"""Rows of training data cut from a token store, by their number: pure functions of the store."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Float32, Int, Int32, Integer

from equimu._errors import EquimuError, nearest
from equimu.data._store import TokenStore
from equimu.storage import read_rows

# Arrays up to this size are read into memory once; larger ones are read from the store, row by row.
_IN_MEMORY_BYTES = 2**30

_HostOrDevice: TypeAlias = np.ndarray | Array


class Batch(NamedTuple):
    """Sequences of a step: a pytree of numpy arrays, or of the same on a device.

    Attributes:
        inputs: what the model reads.
        targets: what it predicts at each position.
        mask: 1 where the prediction counts, 0 where it does not.
    """

    inputs: Int32[_HostOrDevice, "batch seq"]
    targets: Int32[_HostOrDevice, "batch seq"]
    mask: Float32[_HostOrDevice, "batch seq"]


class PackedBatch(NamedTuple):
    """A `Batch` whose rows hold several documents, or parts of them.

    Attributes:
        inputs: what the model reads.
        targets: what it predicts at each position.
        mask: 1 where the prediction counts, 0 where it does not.
        segment_ids: which document of its row a position belongs to, from 0.
    """

    inputs: Int32[_HostOrDevice, "batch seq"]
    targets: Int32[_HostOrDevice, "batch seq"]
    mask: Float32[_HostOrDevice, "batch seq"]
    segment_ids: Int32[_HostOrDevice, "batch seq"]


class Concatenated:
    """All documents one after the other, each closed by end-of-document, cut every `seq` tokens.

    Window k reads tokens k·seq to k·seq + seq - 1 and predicts the ones that follow. Neighbouring windows
    share one token, the last target of one and the first input of the next, so every token but the very first
    is predicted once. A row may span documents, and every target counts.
    """

    def __init__(self, store: TokenStore, split: str, seq: int, *, tail: bool):
        self._stretches = _Stretches(store, split, seq + 1)
        self._predicted = store.info.tokens[split] - 1
        self._seq, self._tail, self._eod = seq, tail, store.info.eod
        self.in_memory = self._stretches.in_memory
        self.count = -(-self._predicted // seq) if tail else self._predicted // seq
        if not self.count:
            raise EquimuError(
                f"split {split!r} of {store.place!r} has {self._predicted + 1} tokens, too few for a window "
                f"of seq={seq} and one; write a smaller seq or bring more text"
            )

    def batch(self, indices: Int[np.ndarray, " rows"]) -> Batch:
        """The windows of these numbers; places after the last token hold end-of-document and do not count."""
        starts = indices * self._seq
        rows = self._stretches.read(starts)
        inputs, targets = rows[:, :-1].astype(np.int32), rows[:, 1:].astype(np.int32)
        mask = np.ones(targets.shape, np.float32)
        if self._tail:
            positions = starts[:, None] + np.arange(self._seq)
            inputs[positions > self._predicted] = self._eod
            targets[positions >= self._predicted] = self._eod
            mask[positions >= self._predicted] = 0
        return Batch(inputs, targets, mask)


class Documents:
    """One document a row, truncated or padded with end-of-document (the way of arXiv 2404.05728).

    Inputs are the targets shifted right after a beginning-of-document token. A target counts if no
    end-of-document stands before it in its row: the first one counts, the padding after it does not.
    """

    def __init__(self, store: TokenStore, split: str, seq: int):
        self._stretches = _Stretches(store, split, seq)
        self._begins = _Stretches(store, f"{split}-offsets", 1)
        self._positions = np.arange(seq, dtype=np.int32)
        self._bos, self._eod = store.info.bos, store.info.eod
        self.in_memory = self._stretches.in_memory and self._begins.in_memory
        self.count = store.info.documents[split]

    def batch(self, indices: Int[np.ndarray, " rows"]) -> Batch:
        """The rows of these documents."""
        rows = self._stretches.read(self._begins.read(indices)[:, 0])
        is_end = rows == self._eod
        end = np.where(is_end.any(axis=1), is_end.argmax(axis=1), len(self._positions))
        padding = self._positions > end[:, None]
        targets = rows.astype(np.int32)
        targets[padding] = self._eod  # in the store the next document begins here
        inputs = np.empty_like(targets)
        inputs[:, 0], inputs[:, 1:] = self._bos, targets[:, :-1]
        return Batch(inputs, targets, 1 - padding.astype(np.float32))


class Packed:
    """Documents one after the other, kept apart by segment ids, cut every `seq` tokens.

    Row k predicts tokens k·seq to k·seq + seq - 1 of all documents, each closed by end-of-document; every token is
    predicted once, the first one of a document too. What stands before a document's first token is not the end of
    the one before it but beginning-of-document, as in `Documents`, so a document in a row gives the losses that
    it gives alone, and none of its predictions has to be left out. Of a document that a row's end cuts, the next
    row holds the rest as a segment of its own: it begins with the last token before the cut, and sees nothing
    further back. A segment ends with each end-of-document token.
    """

    def __init__(self, store: TokenStore, split: str, seq: int, *, tail: bool):
        self._stretches = _Stretches(store, split, seq + 1)
        self._tokens = store.info.tokens[split]
        self._seq, self._bos, self._eod = seq, store.info.bos, store.info.eod
        self.in_memory = self._stretches.in_memory
        self.count = -(-self._tokens // seq) if tail else self._tokens // seq
        if not self.count:
            raise EquimuError(
                f"split {split!r} of {store.place!r} has {self._tokens} tokens, too few for a window "
                f"of seq={seq}; write a smaller seq or bring more text"
            )

    def batch(self, indices: Int[np.ndarray, " rows"]) -> PackedBatch:
        """The windows of these numbers; places after the last token hold end-of-document and do not count."""
        starts = indices * self._seq
        rows = self._stretches.read(np.maximum(starts - 1, 0)).astype(np.int32)
        first = starts == 0  # no token stands before it
        rows[first, 1:] = rows[first, :-1]
        rows[first, 0] = self._eod
        inputs, targets = rows[:, :-1], rows[:, 1:].copy()
        begins = inputs == self._eod
        inputs = np.where(begins, np.int32(self._bos), inputs)
        segment_ids = np.cumsum(begins, axis=1, dtype=np.int32) - begins[:, :1]
        padding = starts[:, None] + np.arange(self._seq) >= self._tokens
        if padding.any():
            # The last token ends a document, so what fills up the row begins another segment; it is one.
            segment_ids = np.minimum(segment_ids, segment_ids.max(axis=1, initial=0, where=~padding)[:, None] + 1)
            inputs[padding] = targets[padding] = self._eod
        return PackedBatch(inputs, targets, 1 - padding.astype(np.float32), segment_ids)


Windows: TypeAlias = Concatenated | Documents | Packed


def windows_of(store: TokenStore, split: str, kind: str, seq: int, *, tail: bool) -> Windows:
    """Opens the windows of a split.

    Args:
        store: token store.
        split: `"train"` or `"validation"`.
        kind: `"concatenate"`, `"document"` or `"packed"`.
        seq: positions of a row.
        tail: whether the last window of `"concatenate"` or `"packed"`, which is not full, is kept (masked) or left out.

    Raises:
        EquimuError: unknown split or kind, `seq` below 1, too few tokens for one window, or a damaged store.
    """
    kinds = ("concatenate", "document", "packed")
    if kind not in kinds:
        raise EquimuError(f"windows={kind!r} is not a way to cut documents; {nearest(kind, kinds)}")
    if seq < 1:
        raise EquimuError(f"seq={seq} positions cannot make a row; write 1 or more")
    if kind == "document":
        return Documents(store, split, seq)
    return (Packed if kind == "packed" else Concatenated)(store, split, seq, tail=tail)


class _Stretches:
    """Stretches of one length anywhere in one array of a store; places past its end are 0."""

    def __init__(self, store: TokenStore, name: str, length: int):
        self._store, self._length = store, length
        self._array: Any = store.array(name)
        self.in_memory = self._array.size * self._array.dtype.numpy_dtype.itemsize <= _IN_MEMORY_BYTES
        if self.in_memory:
            with store.reading():
                values = self._array.read().result()
            # Rows are then copied as whole stretches of memory, several times faster than element by element.
            padded = np.pad(values, (0, length))
            self._views = np.lib.stride_tricks.sliding_window_view(padded, length)

    def read(self, starts: Int[np.ndarray, " rows"]) -> Integer[np.ndarray, "rows length"]:
        if self.in_memory:
            return self._views[starts]
        with self._store.reading():
            return read_rows(self._array, starts, self._length)
