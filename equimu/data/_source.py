"""Records of any random access source as data of a task: of grain, of PyTorch, of Hugging Face `datasets`."""

import hashlib
from typing import Any

import numpy as np

from equimu._values import check
from equimu.data._data import Data
from equimu.data._records import Records
from equimu.data._split import SplitData, split

_SAMPLED = 64  # records in the hash of a source without a name


def source(source: Any, *, rows: int, validation: Any = 0.1, fingerprint: str | None = None) -> Data:
    """Data of anything with `len(source)` and `source[i]`, as in `source(dataset, rows=64)`.

    That is a grain `MapDataset` or `RandomAccessDataSource`, a map-style dataset of PyTorch, a Hugging Face `datasets.Dataset`,
    a list of records. A record is a pytree (a dict, a tuple, an array) of arrays, numbers and lists of numbers, which count as
    arrays; all records have the structure, shapes and types of the first. A batch is the same pytree, of records stacked along
    a new leading axis, in the types that JAX holds: float64 becomes float32, int64 int32, unless `jax_enable_x64` is set when
    the data is made.

    Records are read ahead of the training by several threads at once, several times, and in any order, so `source[i]` must
    depend on nothing but `i`. Padding and random changes of a record belong to the source, or to the loss.

    Args:
        source: the records.
        rows: of a batch; at most the records to train on.
        validation: what is held out. A share of the records, in (0, 1), drawn by a fixed permutation: records sorted by class
            give all classes, and no seed gives others. Or another source, of the same kind of records.
        fingerprint: names the records: other records need another. None takes the one that a Hugging Face dataset has; of other
            sources it is a hash of their length and of 64 records spread over them, which does not see a change in the others.

    Returns:
        The data. Every epoch is another permutation of the training records. A last validation batch is filled up with copies
        of the first validation record, whose weight is 0.

    Raises:
        EquimuError: no such source, no records, `rows` above the training records, a share outside of (0, 1), or a record that
            cannot be in a batch: of text, say. When a batch is made: a record that differs from the first.
    """
    check(str | None, fingerprint=fingerprint)
    records = Records(source, "source")
    if isinstance(validation, int | float | np.number):
        train, held_out = split(records, validation)
        return SplitData(train, held_out, rows, lambda: ["share", held_out.count, _name(records, source, fingerprint)])
    own = Records(validation, "validation", like=records)
    return SplitData(
        records, own, rows, lambda: ["sources", _name(records, source, fingerprint), _name(own, validation, None)]
    )


def _name(records: Records, source: Any, given: str | None) -> list[Any]:
    """What tells a source's records from others."""
    own = getattr(source, "_fingerprint", None) if given is None else given
    if isinstance(own, str):
        return [records.count, own]
    digest = hashlib.sha256()
    sampled = min(_SAMPLED, records.count)
    for i in range(sampled):
        for part in records.content(i * (records.count - 1) // max(1, sampled - 1)):
            digest.update(part)
    return [records.count, digest.hexdigest()]
