"""Arrays in memory, or mapped into it from a file, as data of a task."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Int

from equimu._errors import EquimuError
from equimu._values import is_traced, shown
from equimu.data._data import Data
from equimu.data._host import as_held, host_dtype, is_wide, portable
from equimu.data._split import SplitData, split

_PIECE_BYTES = 2**24  # hashed at once

_Named = dict[str, Any]


def arrays(*arrays: Any, rows: int, validation: Any = 0.1, **named_arrays: Any) -> Data:
    """Data of arrays whose leading axis is the examples, as in `arrays(images, labels, rows=64)`.

    A batch is a tuple of arrays in the order given, or, of arrays given by names, a dict; of a lone array without a name it is
    that array, not a tuple of one. Each has `rows` rows of the array.

    The types of a batch are those that JAX holds: float64 becomes float32, int64 int32, unless `jax_enable_x64` is set when the
    data is made. Nothing else is converted or scaled.

    Args:
        arrays: numpy or JAX arrays, each of shape (examples, ...). A memory map, as `np.load(path, mmap_mode="r")` gives, is
            read row by row, several batches ahead of the training. Arrays are not copied: do not write to them afterwards.
        rows: of a batch; at most the examples to train on.
        validation: what is held out. A share of the examples, in (0, 1), drawn by a fixed permutation: examples sorted by
            class give all classes, and no seed gives others. Or arrays of their own: a tuple, a dict by the same names, or,
            next to a lone array, one array.
        named_arrays: arrays by names of your own, in place of `arrays`.

    Returns:
        The data. Every epoch is another permutation of the training examples. A last validation batch is filled up with copies
        of the first validation example, whose weight is 0. The fingerprint hashes all bytes, once, when it is first asked for.

    Raises:
        EquimuError: no arrays, arrays in order and by names, something that is not an array or not of numbers, no examples,
            numbers of examples that differ, `rows` above the training examples, a share outside of (0, 1), or validation arrays
            that do not fit. When a batch is made: an integer that does not fit into int32.
    """
    if arrays and named_arrays:
        raise EquimuError("arrays takes arrays in order, or by names as in arrays(x=x, y=y, rows=64), not both")
    if not arrays and not named_arrays:
        raise EquimuError("arrays needs an array; write arrays(x, y, rows=64), or by names arrays(x=x, y=y, rows=64)")
    form = "dict" if named_arrays else "tuple" if len(arrays) > 1 else "array"
    table = _Table(named_arrays or _numbered(arrays), form, "array")
    if isinstance(validation, int | float | np.number):
        train, held_out = split(table, validation)
        return SplitData(train, held_out, rows, lambda: ["share", held_out.count, table.digest()])
    own = _Table(_arranged(validation, form), form, "validation array")
    own.check_like(table)
    return SplitData(table, own, rows, lambda: ["arrays", table.digest(), own.digest()])


def _numbered(values: Any) -> _Named:
    return {str(i): value for i, value in enumerate(values)}


def _arranged(validation: Any, form: str) -> _Named:
    """Validation arrays by their names."""
    if isinstance(validation, Mapping) and form == "dict":
        return dict(cast(Mapping[str, Any], validation))
    if isinstance(validation, tuple | list) and form != "dict":
        return _numbered(validation)
    if form == "array" and hasattr(validation, "shape"):
        return _numbered([validation])
    wanted = {"dict": "a dict of arrays by the same names", "tuple": "a tuple of arrays", "array": "an array"}[form]
    raise EquimuError(f"validation must be a share such as 0.1 or {wanted}, got {shown(validation)}")


class _Table:
    """Arrays of as many examples each.

    Args:
        arrays: by names; of a tuple these are numbers.
        form: of a batch: `"dict"`, `"tuple"`, or `"array"` for the one array itself.
        what: each is called in messages.
    """

    def __init__(self, arrays: _Named, form: str, what: str):
        self._form, self._what = form, what
        wide = is_wide()
        self._dtypes = {name: _checked(self._told(name), array, wide) for name, array in arrays.items()}
        self._arrays = {name: np.asarray(array) for name, array in arrays.items()}
        counts = {self._told(name): len(array) for name, array in self._arrays.items()}
        if len(set(counts.values())) > 1:
            message = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise EquimuError(f"arrays need as many rows each: {message}")
        self.count = next(iter(counts.values()), 0)
        if not self.count:
            raise EquimuError(f"{next(iter(counts), 'validation')} has no rows; bring at least one")
        self.in_memory = not any(map(_is_mapped, self._arrays.values()))

    def batch(self, indices: Int[np.ndarray, " rows"]) -> Any:
        columns = {
            name: as_held(self._told(name), np.asarray(array[indices]), self._dtypes[name])
            for name, array in self._arrays.items()
        }
        if self._form == "dict":
            return columns
        return tuple(columns.values()) if self._form == "tuple" else columns["0"]

    def digest(self) -> str:
        """A hash of names, types, shapes and all bytes, the same wherever the arrays are."""
        digest = hashlib.sha256()
        for name, array in self._arrays.items():
            head = [self._form, name, array.dtype.name, array.shape]
            digest.update(json.dumps(head).encode())
            step = max(1, _PIECE_BYTES * len(array) // max(1, array.nbytes))
            for begin in range(0, len(array), step):
                digest.update(array[begin : begin + step].astype(portable(array.dtype), copy=False).tobytes())
        return digest.hexdigest()

    def check_like(self, table: "_Table") -> None:
        """Raises an `EquimuError` unless a batch of this one looks like a batch of another table."""
        own, other = list(self._arrays), list(table._arrays)
        if set(own) != set(other):
            raise EquimuError(
                f"validation has the arrays {', '.join(own)}, and those to train on are {', '.join(other)}"
            )
        self._arrays = {name: self._arrays[name] for name in other}
        for name in other:
            kinds = [f"{t._dtypes[name].name}{list(t._arrays[name].shape[1:])}" for t in (self, table)]
            if kinds[0] != kinds[1]:
                raise EquimuError(f"rows of {self._told(name)} are {kinds[0]}, and those to train on are {kinds[1]}")

    def _told(self, name: str) -> str:
        return f"{self._what} {name!r}" if self._form == "dict" else f"{self._what} {name}"


def _checked(name: str, array: Any, wide: bool) -> np.dtype[Any]:
    """The type of an array's batches; an `EquimuError` if it is not an array of rows of numbers."""
    if not isinstance(array, np.ndarray | jax.Array) or is_traced(array):
        raise EquimuError(f"{name} is {shown(array)}, not an array; write np.asarray(...)")
    if isinstance(array, np.ma.MaskedArray):
        raise EquimuError(f"{name} is masked, and batches would lose its mask; write array.filled(...)")
    dtype = host_dtype(array.dtype, wide=wide)
    if dtype is None:
        raise EquimuError(f"{name} is of {array.dtype}, which JAX does not hold; bring numbers")
    if not array.shape:
        raise EquimuError(f"{name} is a single number; its leading axis must be the examples")
    return dtype


def _is_mapped(array: Any) -> bool:
    """Whether an array's memory is that of a file."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False
