"""Records of a random access source, stacked to batches: all of the structure, shapes and types of the first."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Int

from equimu._errors import EquimuError
from equimu._values import shown
from equimu.data._host import as_held, host_dtype, is_wide, portable

_MOST = 2**48  # records; endless sources say 2^63


class Records:
    """The records of a source.

    Args:
        source: has `len(source)` and `source[i]`.
        name: of the argument that it was, for messages.
        like: records of the same kind; their first record, not this source's, is what all records must be like.

    Raises:
        EquimuError: no such source, no records, or the first one cannot be in a batch or differs.
    """

    in_memory = False

    def __init__(self, source: Any, name: str, like: "Records | None" = None):
        self._source, self._name = source, name
        self.count = _length(source, name)
        if like is None:
            self._wide = is_wide()  # of this thread; the threads that read may differ
            record = source[0]
            leaves, self._structure = _flat(record)
            self._paths = _paths(record)
            arrays = [leaf for leaf in leaves if leaf is not None]
            if len(arrays) < len(leaves):
                raise self._refusal(0, record)
            if not arrays:
                raise EquimuError(f"record 0 of {name} holds nothing; bring records of arrays or numbers")
            self._kinds = [
                (array.shape, cast(np.dtype[Any], host_dtype(array.dtype, wide=self._wide))) for array in arrays
            ]
        else:
            self._wide, self._structure, self._paths, self._kinds = (
                like._wide,
                like._structure,
                like._paths,
                like._kinds,
            )
            self._leaves(0)

    def batch(self, indices: Int[np.ndarray, " rows"]) -> Any:
        """The records of these numbers, stacked."""
        columns = [np.stack(column) for column in zip(*map(self._leaves, indices.tolist()), strict=True)]
        return jax.tree.unflatten(self._structure, self._held(columns))

    def content(self, index: int) -> Iterator[bytes]:
        """A record as bytes, the same on every machine."""
        for path, leaf in zip(self._paths, self._held(self._leaves(index)), strict=True):
            yield json.dumps([path, leaf.dtype.name, leaf.shape]).encode()
            yield leaf.astype(portable(leaf.dtype), copy=False).tobytes()

    def _held(self, leaves: list[np.ndarray]) -> list[np.ndarray]:
        parts = zip(self._paths, leaves, self._kinds, strict=True)
        return [as_held(f"{path} of a record of {self._name}", leaf, dtype) for path, leaf, (_, dtype) in parts]

    def _leaves(self, index: int) -> list[np.ndarray]:
        """The leaves of a record, once they are known to be like those of the first."""
        record = self._source[index]
        leaves, structure = _flat(record)
        alike = structure == self._structure and all(
            leaf is not None and leaf.shape == shape and host_dtype(leaf.dtype, wide=self._wide) == dtype
            for leaf, (shape, dtype) in zip(leaves, self._kinds, strict=True)
        )
        if not alike:
            raise self._refusal(index, record)
        return cast(list[np.ndarray], leaves)

    def _refusal(self, index: int, record: Any) -> EquimuError:
        """What is wrong with a record."""
        whole = f"record {index} of {self._name}"
        leaves, structure = _flat(record)
        paths = _paths(record)
        for path, leaf, array in zip(paths, jax.tree.leaves(record, is_leaf=_is_leaf), leaves, strict=True):
            if array is None:
                message = f"{path} of {whole} is {shown(leaf)}, and batches hold arrays of numbers"
                return EquimuError(f"{message}; {_remedy(self._source, record)}")
        if structure != self._structure:
            found, first = (", ".join(each) or "nothing" for each in (paths, self._paths))
            return EquimuError(f"{whole} holds {found}, and the first one {first}; all need one structure")
        for path, leaf, (shape, dtype) in zip(paths, cast(list[np.ndarray], leaves), self._kinds, strict=True):
            found = host_dtype(leaf.dtype, wide=self._wide)
            if (leaf.shape, found) != (shape, dtype):
                message = f"{path} of {whole} is {found}{list(leaf.shape)}, and of the first one {dtype}{list(shape)}"
                return EquimuError(f"{message}; pad, crop or convert them to one")
        return EquimuError(
            f"{whole} is not the same each time that it is read; records must depend on their number alone"
        )


def _length(source: Any, name: str) -> int:
    if isinstance(source, Mapping):
        raise EquimuError(
            f"{name} is a dict; write one of its values, such as dataset['train'], or of arrays "
            "equimu.data.arrays(**dict, rows=...)"
        )
    if isinstance(source, type | str) or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise EquimuError(
            f"{name} is {shown(source)}, which does not have both len({name}) and {name}[i]; write a grain MapDataset, a "
            "map-style dataset of PyTorch, a Hugging Face Dataset, or a list"
        )
    count = len(source)
    if not 0 < count < _MOST:
        raise EquimuError(
            f"{name} has no records; bring at least one"
            if not count
            else f"{name} has {count} records, as repeated ones have; leave the repetition out, epochs are made here"
        )
    return count


def _is_leaf(node: Any) -> bool:
    """None, and lists of numbers, are not containers here."""
    first = node
    while isinstance(first, list) and first:
        first = cast(list[Any], first)[0]
    return node is None or (isinstance(node, list) and isinstance(first, bool | int | float | np.number | list))


def _array(leaf: Any) -> np.ndarray | None:
    """A leaf as an array of numbers, if it is one."""
    try:
        array = np.asarray(leaf)
    except (TypeError, ValueError, RuntimeError):  # lists of several lengths, say
        return None
    return array if host_dtype(array.dtype, wide=True) is not None else None


def _flat(record: Any) -> tuple[list[np.ndarray | None], Any]:
    """The leaves of a record, None for those that are not arrays of numbers, and its structure."""
    leaves, structure = jax.tree.flatten(record, is_leaf=_is_leaf)
    return [_array(leaf) for leaf in leaves], structure


def _paths(record: Any) -> list[str]:
    """How to get at each leaf of a record."""
    flat, _ = jax.tree_util.tree_flatten_with_path(record, is_leaf=_is_leaf)
    return [jax.tree_util.keystr(keys) or "all" for keys, _ in flat]


def _remedy(source: Any, record: Any) -> str:
    """What to write where a record holds what no batch does."""
    if record is None:
        return "a filtered grain dataset has such holes: filter what the source is made from"
    if not hasattr(source, "select_columns") or not isinstance(record, dict):
        return "leave it out of the records, or make it a number"
    columns = cast(dict[str, Any], record)
    fit = [
        name
        for name, value in columns.items()
        if all(_array(leaf) is not None for leaf in jax.tree.leaves(value, is_leaf=_is_leaf))
    ]
    return f"write dataset.select_columns({fit})"
