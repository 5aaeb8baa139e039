"""The leaves of a pytree as what a checkpoint stores: arrays of plain dtypes, cut as the devices hold them."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from equimu._errors import EquimuError
from equimu._types import PyTree

# A shard of more bytes is cut in two, again and again: parts are written and read side by side. Files twice as large are
# read no faster, and glibc gives memory of 32 MiB and more back each time: the pages of fresh memory take longer than the copy.
CHUNK_BYTES = 2**25 - 2**12

# What zarr3 has a name for. Other dtypes of a byte (float8, int4) are stored as their bits.
_PLAIN = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"} | {
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "complex128",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an array on this host.

    - `start`, `shape`: its place in the array.
    - `nbytes`: its size.
    - `copy`: will be a copy that nobody else writes to.
    """

    start: tuple[int, ...]
    shape: tuple[int, ...]
    nbytes: int
    copy: "Future[np.ndarray]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
    """A leaf as it is stored.

    - `path`: in the pytree.
    - `folder`: its array's, below the checkpoint.
    - `shape`, `dtype`: the leaf's; a typed key's dtype is such as `key<fry>`.
    - `key_impl`: the kind of random keys; None if it holds none.
    - `stored_shape`, `stored_dtype`: the array's.
    - `chunk`: shape of the parts that are files.
    - `pieces`: what this host has to write.
    """

    path: str
    folder: str
    shape: tuple[int, ...]
    dtype: str
    key_impl: str | None
    stored_shape: tuple[int, ...]
    stored_dtype: str
    chunk: tuple[int, ...]
    pieces: tuple[Piece, ...]


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """The leaves with their paths, such as `.params['w']`."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


class Staging:
    """Memory for the copies of a state, kept from one save to the next: to touch fresh memory takes longer than to copy.

    On a virtual machine that gives idle memory back to its host, many times as long (measured: 2.3 s a GiB, the copy 0.06 s).
    """

    def __init__(self):
        self._blocks: dict[int, np.ndarray] = {}

    def copy(self, position: int, values: np.ndarray) -> np.ndarray:
        """A copy that holds until the next one of this position."""
        block = self._blocks.get(position)
        if block is None or block.nbytes != values.nbytes:
            block = self._blocks[position] = np.empty(values.nbytes, np.uint8)
        copied = block.view(values.dtype).reshape(values.shape)
        np.copyto(copied, values)
        return copied


def host_copies(arrays: PyTree, host: int, staging: Staging) -> tuple[list[Leaf], Callable[[], None]]:
    """What this host has to write of each array.

    Each shard is written by the host that has its first replica; what every host has for itself is written by the first host.

    Args:
        arrays: pytree of arrays.
        host: index of this one.
        staging: memory for copies; those of the save before are overwritten.

    Returns:
        The leaves, and the function that copies them to this host's memory, piece after piece, so that the first can be
        written while the next is copied.

    Raises:
        EquimuError: a leaf is not an array.
    """
    named = [(path, _checked(path, leaf)) for path, leaf in named_leaves(arrays)]
    datas = [jax.random.key_data(leaf) if is_key(leaf.dtype) else leaf for _, leaf in named]
    leaves: list[Leaf] = []
    copying: list[tuple[Future[np.ndarray], Any]] = []
    for index, ((path, leaf), data) in enumerate(zip(named, datas, strict=True)):
        pieces: list[Piece] = []
        for where, values in _own_shards(data, host):
            if isinstance(values, jax.Array):
                values.copy_to_host_async()
            start = tuple(part.indices(size)[0] for part, size in zip(where, data.shape, strict=True))
            pieces.append(Piece(start=start, shape=values.shape, nbytes=values.nbytes, copy=Future()))
            copying.append((pieces[-1].copy, values))
        leaves.append(_leaf(index, path, leaf, data, pieces))

    def copy() -> None:
        try:
            for position, (future, values) in enumerate(copying):
                future.set_result(_copy(values, position, staging))
        except BaseException as error:  # who waits for them must learn of it
            for future, _ in copying:
                if not future.done():
                    future.set_exception(error)
            raise
        finally:
            copying.clear()

    return leaves, copy


def is_key(dtype: Any) -> bool:
    """Whether a dtype is that of typed random keys."""
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def plain_dtype(dtype: Any) -> str:
    """The dtype under which elements of a dtype are stored."""
    return np.dtype(dtype).name if np.dtype(dtype).name in _PLAIN else "uint8"


def _checked(path: str, leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    array = np.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic | bool | int | float | complex) else None
    if array is None or array.dtype.kind in "OSUMm" or array.dtype.names is not None:
        raise EquimuError(
            f"a checkpoint holds arrays, but the leaf {path or 'given'} is a {type(leaf).__name__}; "
            "take such leaves out, for example by eqx.filter(tree, eqx.is_array)"
        )
    return array


def _own_shards(data: Any, host: int) -> Iterator[tuple[tuple[slice, ...], Any]]:
    """The shards that this host writes, and where they are in the array."""
    if isinstance(data, jax.Array) and not (data.is_fully_addressable and host > 0):
        yield from ((shard.index, shard.data) for shard in data.addressable_shards if shard.replica_id == 0)
    elif isinstance(data, np.ndarray) and host == 0:
        yield (slice(None),) * data.ndim, data


def _leaf(index: int, path: str, leaf: Any, data: Any, pieces: list[Piece]) -> Leaf:
    shape: tuple[int, ...] = data.shape
    shard: tuple[int, ...] = data.sharding.shard_shape(shape) if isinstance(data, jax.Array) else shape
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", path).strip("-.")[-80:]
    return Leaf(
        path=path,
        folder=f"{index:04d}-{name}".rstrip("-"),
        shape=leaf.shape,
        dtype=str(leaf.dtype),
        key_impl=str(jax.random.key_impl(leaf)) if is_key(leaf.dtype) else None,
        stored_shape=shape,
        stored_dtype=plain_dtype(data.dtype),
        chunk=_chunk(shard, data.dtype.itemsize),
        pieces=tuple(pieces),
    )


def _copy(values: Any, position: int, staging: Staging) -> np.ndarray:
    """The values in memory of our own: on a CPU, `np.asarray` shows the very memory that a step may take over."""
    array = np.asarray(values)
    array = array.view(plain_dtype(array.dtype))
    if not isinstance(values, jax.Array) or any(device.platform == "cpu" for device in values.devices()):
        return staging.copy(position, array)
    return np.ascontiguousarray(array).reshape(array.shape)


def _chunk(shard: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    chunk = [max(1, size) for size in shard]
    for axis in range(len(chunk)):
        while math.prod(chunk) * itemsize > CHUNK_BYTES and chunk[axis] % 2 == 0:
            chunk[axis] //= 2
    return tuple(chunk)
