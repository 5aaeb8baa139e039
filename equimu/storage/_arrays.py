"""Arrays as zarr3 by tensorstore: checksummed chunks, each a file, each known to the manifest by the checksum at its end."""

import collections
import contextlib
import errno
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from equimu.storage._checkpoint_place import context
from equimu.storage._damage import Damaged, damage
from equimu.storage._host_copies import Leaf, Piece
from equimu.storage._places import tensorstore

# Bytes on their way at once: each of them may be in memory a second time, encoded. Saving shares the machine with a training;
# restoring has it alone, and the more files are under way, the less a disk waits.
_WRITTEN_AT_ONCE, _READ_AT_ONCE = 2**26, 2**28
# JAX takes over memory that is aligned so, on a CPU; other memory it copies.
_ALIGNMENT = 64

# What a manifest says of an array: `described`, and under `files` the checksum of each of its files of data.
Description: TypeAlias = Mapping[str, Any]
Box: TypeAlias = tuple[slice, ...]


def described(leaf: Leaf) -> dict[str, Any]:
    """A leaf in plain JSON types."""
    return {
        "path": leaf.path,
        "shape": list(leaf.shape),
        "dtype": leaf.dtype,
        "key_impl": leaf.key_impl,
        "folder": leaf.folder,
        "stored_shape": list(leaf.stored_shape),
        "stored_dtype": leaf.stored_dtype,
        "chunk": list(leaf.chunk),
    }


def write_arrays(
    store: Any, leaves: Iterable[Leaf], on_written: Callable[[str, list[str]], Any]
) -> dict[str, dict[str, str]]:
    """Writes this host's pieces.

    Args:
        store: key-value store of the checkpoint.
        leaves: those of `host_copies`.
        on_written: called with an array's folder and the names of what has just been written there, at last the folder itself.

    Returns:
        For each folder of an array that was written to, its files of data and their checksums.
    """
    own = [leaf for leaf in leaves if leaf.pieces]
    opening = [_open(store, described(leaf), create=True) for leaf in own]
    pieces = [(leaf, opened, piece) for leaf, opened in zip(own, opening, strict=True) for piece in leaf.pieces]
    written = _windowed(((_write(opened, piece), piece.nbytes) for _, opened, piece in pieces), _WRITTEN_AT_ONCE)
    reading: list[tuple[Leaf, str, Any]] = []
    for (leaf, _, piece), _ in zip(pieces, written, strict=True):
        names = list(_files(piece, leaf.chunk))
        reading += [(leaf, name, _read_end(store, described(leaf), name)) for name in names]
        is_last = piece is leaf.pieces[-1]
        on_written(leaf.folder, [*names, *(["zarr.json", "."] if is_last else [])])
    checksums: dict[str, dict[str, str]] = {leaf.folder: {} for leaf in own}
    for leaf, name, read in reading:
        end = read.result()
        if end.state != "value":
            raise FileNotFoundError(errno.ENOENT, "a file that was just written is gone", f"{leaf.folder}/{name}")
        checksums[leaf.folder][name] = end.value.hex()
    return checksums


def verify_files(store: Any, arrays: Iterable[Description], host: int, hosts: int) -> None:
    """Checks that the files of data are those of the manifest: each is there, as long, and ends in its checksum.

    That the checksum is the content's is checked where the content is read. Each host looks at its share of the files.

    Raises:
        Damaged: one is not.
    """
    files = [(array, name, checksum) for array in arrays for name, checksum in array["files"].items()]
    reading = [
        (_read_end(store, array, name), f"{array['folder']}/{name}", crc) for array, name, crc in files[host::hosts]
    ]
    for read, name, checksum in reading:
        with _damage_told():
            end = read.result()
        if end.state != "value":
            raise Damaged(f"{name} is missing")
        if end.value.hex() != checksum:
            raise Damaged(f"{name} is not the file that was saved: it ends in {end.value[:8].hex()}, not in {checksum}")


def read_arrays(store: Any, boxes: Iterable[tuple[Description, Box]]) -> Iterator[np.ndarray]:
    """Reads a box of each array, in order, a few ahead.

    Raises:
        Damaged: content that is lost or not what was written.
    """
    with _damage_told():
        # All at once: one after the other, small arrays would take as long as their disk takes to seek.
        opening = [(_open(store, array), array, box) for array, box in boxes]
        # Memory, and in how many slabs it is filled.
        filling = collections.deque[tuple[np.ndarray, int]]()

        def started() -> Iterator[tuple[Any, int]]:
            for opened, array, box in opening:
                memory = _empty(tuple(part.stop - part.start for part in box), np.dtype(array["stored_dtype"]))
                # In slabs, so that what is read ahead is a few files, not a few arrays: in memory that is used again.
                slabs = list(_slabs(box, array["chunk"]))
                filling.append((memory, len(slabs)))
                for slab in slabs:
                    into = memory[_within(slab, box)]
                    yield _read(opened, slab, into), into.nbytes

        done = 0
        for _ in _windowed(started(), _READ_AT_ONCE):
            done += 1
            if done == filling[0][1]:
                yield filling.popleft()[0]
                done = 0


def _spec(store: Any, array: Description) -> dict[str, Any]:
    return {
        "driver": "zarr3",
        "kvstore": (store / f"{array['folder']}/").spec().to_json(),
        # Without these a chunk of zeros is not written, and a lost one reads as zeros.
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
        "metadata": {
            "shape": array["stored_shape"],
            "data_type": array["stored_dtype"],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": array["chunk"]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        },
    }


def _open(store: Any, array: Description, *, create: bool = False) -> Any:
    return tensorstore().open(_spec(store, array), open=True, create=create, context=context())


def _write(opened: Any, piece: Piece) -> Any:
    box = tuple(slice(start, start + size) for start, size in zip(piece.start, piece.shape, strict=True))
    array = opened.result()
    # Copies are overwritten by those of the next save, and what is kept in memory would go on referring to them.
    kept = array.kvstore.spec().to_json()["driver"] == "memory"
    return array[box].write(piece.copy.result(), can_reference_source_data_indefinitely=not kept).commit


def _read(opened: Any, box: Box, into: np.ndarray) -> Any:
    part = opened.result()[box].translate_to[(0,) * into.ndim]
    return tensorstore().array(into).write(part).commit


def _read_end(store: Any, array: Description, name: str) -> Any:
    """Reads what follows a file's elements, which is its checksum."""
    elements = math.prod(array["chunk"]) * np.dtype(array["stored_dtype"]).itemsize
    return store.read(f"{array['folder']}/{name}", byte_range=slice(elements, None))


def _files(piece: Piece, chunk: tuple[int, ...]) -> Iterator[str]:
    """The files that a piece is written to."""
    cells = [
        range(start // part, -(-(start + size) // part))
        for start, size, part in zip(piece.start, piece.shape, chunk, strict=True)
    ]
    for cell in itertools.product(*cells):
        yield ".".join(("c", *map(str, cell)))


def _slabs(box: Box, chunk: Sequence[int]) -> Iterator[Box]:
    """A box in parts that are whole chunks along the first axis that has several."""
    for axis, (part, size) in enumerate(zip(box, chunk, strict=True)):
        edges = [part.start, *range((part.start // size + 1) * size, part.stop, size), part.stop]
        if len(edges) > 2:
            for start, stop in itertools.pairwise(edges):
                yield (*box[:axis], slice(start, stop), *box[axis + 1 :])
            return
    yield box


def _within(part: Box, box: Box) -> Any:
    """Where a part of a box is in memory that holds the box; the dots make an array of a scalar, too."""
    return (*(slice(a.start - b.start, a.stop - b.start) for a, b in zip(part, box, strict=True)), ...)


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Aligned memory."""
    nbytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + nbytes].view(dtype).reshape(shape)


def _windowed(started: Iterable[tuple[Any, int]], at_once: int) -> Iterator[Any]:
    """The results of futures in order; the next is started only when the bytes of those under way leave room for it."""
    under_way: collections.deque[tuple[Any, int]] = collections.deque()
    try:
        for future, nbytes in started:
            under_way.append((future, nbytes))
            while len(under_way) > 1 and sum(size for _, size in under_way) > at_once:
                yield under_way[0][0].result()
                under_way.popleft()
        while under_way:
            yield under_way[0][0].result()
            under_way.popleft()
    finally:
        for future, _ in under_way:  # none goes on writing to a folder that is about to be removed
            future.exception()


@contextlib.contextmanager
def _damage_told() -> Generator[None]:
    try:
        yield
    except Exception as error:
        reason = damage(error)
        if reason is None:
            raise
        raise Damaged(reason) from None
