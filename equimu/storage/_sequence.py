"""Checksummed arrays in a folder or an object store, by tensorstore, whose files are known by how they end."""

import contextlib
import functools
import hashlib
import shutil
from collections.abc import Generator, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Integer, Shaped

from equimu._errors import EquimuError
from equimu._json import loads
from equimu.files import check_inside
from equimu.storage._places import kvstore_spec, local_path, one_line, tensorstore

# A file ends in the checksum of its last chunk, then the index: of each chunk where it is and how long, and their checksum.
_CRC_BYTES, _ENTRY_BYTES = 4, 16
# Cached chunks of arrays that are too large for memory.
_CACHE_BYTES = 2**28
_MOST_FILE_BYTES = 2**30
_LARGEST = 2**28  # elements of a shard or chunk that is read; what was written by other versions, too


@contextlib.contextmanager
def told_as(what: str) -> Generator[None]:
    """Turns whatever tensorstore raises into an `EquimuError` of one line that begins with `what`."""
    try:
        yield
    except EquimuError:
        raise
    except Exception as error:  # mostly a ValueError, but by no promise
        raise EquimuError(f"{what}: {one_line(error)}") from None


@functools.cache
def cached_chunks() -> Any:
    """The tensorstore context of all arrays, whose cache holds chunks that were read."""
    ts = tensorstore()
    # One for all: `memory://` lives in its context. The content never changes, so caches need no re-check.
    return ts.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}})


def open_place(place: str) -> Any:
    """The tensorstore key-value store at a local folder or a URL (`gs://`, `s3://`, `file://`, `memory://`).

    Args:
        place: a folder or a URL.
    """
    ts = tensorstore()
    with told_as(f"cannot open {place!r}, a folder or a URL such as gs://bucket/name is wanted"):
        return ts.KvStore.open(kvstore_spec(place), context=cached_chunks()).result()


def delete_below(place: str, folder: str) -> None:
    """Deletes a folder at a place and everything in it."""
    ts = tensorstore()
    kvstore = open_place(place)
    with told_as(f"cannot delete {folder} at {place!r}"):
        # '0' is the character after '/'
        kvstore.delete_range(ts.KvStore.KeyRange(f"{folder}/", f"{folder}0")).result()
    where = kvstore.spec().to_json()
    if where["driver"] == "file":  # a file system keeps the empty folders
        shutil.rmtree(f"{where['path']}{folder}", ignore_errors=True)


class ArrayWriter:
    """Appends to a one-dimensional zarr3 array, whole shards at a time, so that memory stays bounded.

    Args:
        place: folder or URL.
        path: of the array, below the place.
        dtype: of the elements.

    Attributes:
        shard: elements of a file or object, the unit of writing.
        chunk: elements of what carries a checksum, the unit of reading.
    """

    shard: ClassVar[int] = 2**24
    chunk: ClassVar[int] = 2**16

    def __init__(self, place: str, path: str, dtype: np.dtype[Any]):
        ts = tensorstore()
        checked = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        sharding = {"chunk_shape": [self.chunk], "codecs": checked, "index_codecs": checked}
        spec = {
            "driver": "zarr3",
            "kvstore": (open_place(place) / f"{path}/").spec().to_json(),
            # Without this a chunk of zeros is not written, and reads like a lost one.
            "store_data_equal_to_fill_value": True,
            "metadata": {
                "shape": [0],
                "data_type": dtype.name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.shard]}},
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            },
        }
        self.size: int = 0
        self._place, self._path, self._dtype = place, path, dtype
        self._digest = hashlib.sha256()
        self._waiting: list[np.ndarray] = []
        self._written = 0
        with told_as(f"cannot write to {place!r}"):
            self._array = ts.open(spec, create=True, context=cached_chunks()).result()

    def append(self, values: Shaped[np.ndarray, " values"]) -> None:
        """Adds values at the end; they are safe only after `finish`."""
        self._waiting.append(values.astype(self._dtype))
        self.size += len(values)
        waiting = self.size - self._written
        if waiting >= self.shard:
            self._write(waiting - waiting % self.shard)

    def finish(self) -> tuple[str, list[str]]:
        """Writes what waits; returns a hash of all elements, and one of the end of each file, in order."""
        self._write(self.size - self._written)
        with told_as(f"cannot write to {self._place!r}"):
            ends = _ends(self._place, self._path, self._array, -(-self.size // self.shard))
        return self._digest.hexdigest(), ends

    def _write(self, count: int) -> None:
        if not count:
            return
        values = np.concatenate(self._waiting)
        self._waiting = [values[count:]]
        start, self._written = self._written, self._written + count
        with told_as(f"cannot write to {self._place!r}"):
            self._array = self._array.resize(exclusive_max=[self._written], expand_only=True).result()
            self._array[start : self._written].write(values[:count]).result()
        self._digest.update(values[:count].astype(self._dtype.newbyteorder("<")).tobytes())


def open_array(place: str, path: str, dtype: np.dtype[Any], size: int, ends: Sequence[str]) -> Any:
    """Opens an array for reading; a lost chunk is an error, not zeros.

    Nothing of it is read before it is known to be no more than what its files hold: no array of other codecs is opened.

    Args:
        place: folder or URL.
        path: of the array, below the place.
        dtype: of its elements.
        size: their number.
        ends: what `ArrayWriter.finish` said of the files; they must still end so. That the rest is as it was written shows when
            it is read.
    """
    ts = tensorstore()
    spec = {
        "driver": "zarr3",
        "kvstore": (open_place(place) / f"{path}/").spec().to_json(),
        "fill_missing_data_reads": False,
        "recheck_cached_data": False,
        "recheck_cached_metadata": "open",
    }
    check_files(place, path)
    _check_metadata(open_place(place).read(f"{path}/zarr.json").result(), path, dtype, size)
    array = ts.open(spec, read=True, context=cached_chunks()).result()
    local = local_path(place)
    if local is not None:
        files = (local / path / "c").glob("*") if size else ()
        held = sum(file.stat().st_size for file in files)
        if held < size * dtype.itemsize:
            raise ValueError(f"{path} is to hold {size * dtype.itemsize} bytes, and its files hold {held}")
    for number, (found, written) in enumerate(zip(_ends(place, path, array, len(ends)), ends, strict=True)):
        if found != written:
            raise ValueError(f"file {number} of {path} is not the one that was written")
    return array


def check_files(place: str, name: str, most: int = _MOST_FILE_BYTES) -> None:
    """Raises an OSError if what is at a local place is or holds a link or what is not a file, or is a larger file.

    Args:
        place: the folder.
        name: of the folder or file in it.
        most: bytes that a file may have.
    """
    path = local_path(place)
    if path is not None and path.is_dir():
        check_inside(path, name, most)


def _check_metadata(read: Any, path: str, dtype: np.dtype[Any], size: int) -> None:
    """Raises a ValueError if the description of an array is not one that an `ArrayWriter` writes."""
    if read.state != "value":
        raise ValueError(f"{path}/zarr.json is missing")
    try:
        found = loads(read.value)
        (shard,) = found["chunk_grid"]["configuration"]["chunk_shape"]
        (sharded,) = found["codecs"]
        (chunk,) = sharded["configuration"]["chunk_shape"]
        chain = [[codec["name"] for codec in sharded["configuration"][name]] for name in ("codecs", "index_codecs")]
        known = (
            sharded["name"] == "sharding_indexed"
            and chain == [["bytes", "crc32c"]] * 2
            and not found.get("storage_transformers")
            and all(isinstance(each, int) and 0 < each <= _LARGEST for each in (shard, chunk))
        )
        shape, kind = found["shape"], found["data_type"]
    except (KeyError, TypeError, ValueError):
        known, shape, kind = False, None, None
    if not known:
        raise ValueError(f"{path}/zarr.json describes codecs or chunks that no token store has")
    if shape != [size] or kind != dtype.name:
        raise ValueError(f"{path} is {kind}{shape}, not {dtype.name}[{size}]")


def _ends(place: str, path: str, array: Any, files: int) -> list[str]:
    """Hashes of the ends of an array's files."""
    layout = array.chunk_layout
    chunks = layout.write_chunk.shape[0] // layout.read_chunk.shape[0]
    length = _CRC_BYTES + _ENTRY_BYTES * chunks + _CRC_BYTES
    kvstore = open_place(place)
    reads = [kvstore.read(f"{path}/c/{number}", byte_range=slice(-length, None)) for number in range(files)]
    ends: list[str] = []
    for number, read in enumerate(reads):
        end = read.result()
        if end.state != "value":
            raise ValueError(f"file {number} of {path} is missing")
        ends.append(hashlib.sha256(end.value).hexdigest()[:16])
    return ends


def read_rows(
    array: Any, starts: Sequence[int] | Integer[np.ndarray, " rows"], length: int
) -> Shaped[np.ndarray, "rows length"]:
    """Reads stretches of an array in one batch of requests; places past its end are 0.

    Args:
        array: one-dimensional, as `open_array` gives it.
        starts: index of the first entry of each stretch.
        length: of each stretch, in entries.
    """
    ts = tensorstore()
    rows = np.zeros((len(starts), length), array.dtype.numpy_dtype)
    with ts.Batch() as batch:
        stretches = [array[s : min(s + length, array.shape[0])].read(batch=batch) for s in map(int, starts)]
    for row, stretch in zip(rows, stretches, strict=True):
        values = stretch.result()
        row[: len(values)] = values
    return rows
