"""Arrays in safetensors files: one, or several with an index of which array is in which, as Hugging Face splits them."""

import hashlib
import importlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from equimu._errors import EquimuError
from equimu._json import loads
from equimu._values import shown
from equimu.files import open_inside, read_inside

_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST_BYTES = 2**32  # of a file that is written
_LENGTH, _MOST_HEAD = 8, 2**27  # bytes
_COMPLETE = "copy or convert the llama's weights again"
_DTYPES: Mapping[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}


def _package() -> Any:
    try:
        package = importlib.import_module("safetensors")
        importlib.import_module("safetensors.numpy")
    except ModuleNotFoundError:
        raise EquimuError(
            "weights of others are read and written by safetensors, which is not installed: pip install 'equimu[export]'"
        ) from None
    return package


def encode_tensors(arrays: Mapping[str, np.ndarray], most: int = _MOST_BYTES) -> Iterator[tuple[str, bytes]]:
    """The files that hold some arrays: their names and contents.

    Args:
        arrays: by name, of any shape.
        most: bytes of a file, but for an array that is larger.

    Raises:
        EquimuError: safetensors is not installed, or has no such dtype.
    """
    package = _package()
    parts: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, array in arrays.items():
        if parts[-1] and size + array.nbytes > most:
            parts.append({})
            size = 0
        # Of an array that is not contiguous, safetensors would write the memory and not the elements.
        parts[-1][name] = np.array(array, order="C", copy=None)
        size += array.nbytes
    count = len(parts)
    names = [_FILE] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    for file, part in zip(names, parts, strict=True):
        try:
            yield file, package.numpy.save(part, metadata={"format": "pt"})
        except (KeyError, ValueError, package.SafetensorError) as error:
            raise EquimuError(f"safetensors cannot hold these arrays: {error}") from None
    if count > 1:
        total = sum(array.nbytes for array in arrays.values())
        where = {name: file for file, part in zip(names, parts, strict=True) for name in part}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        yield _INDEX, json.dumps(index, indent=1).encode()


def read_tensors(folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """The floating-point arrays of a folder's safetensors files, of any shape, by name, and a hash of the files.

    Raises:
        EquimuError: there are none, one is missing or unreadable, or holds an array of another kind.
    """
    package = _package()
    arrays: dict[str, np.ndarray] = {}
    digest = hashlib.sha256()
    for file in _files(folder):
        try:
            content = read_inside(folder, file, max(1, os.lstat(folder / file).st_size))
            found = package.deserialize(content)
        except OSError as error:
            raise EquimuError(f"cannot read {folder / file}: {error.strerror}; {_COMPLETE}") from None
        except package.SafetensorError as error:
            message = " ".join(str(error).split())[:200]
            raise EquimuError(f"{folder / file} is not a whole safetensors file: {message}; {_COMPLETE}") from None
        digest.update(hashlib.sha256(content).digest())
        for name, tensor in found:
            _check_dtype(folder / file, name, tensor["dtype"])
            if name in arrays:
                raise EquimuError(f"{folder / file}: {name} is in another file, too")
            arrays[name] = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    return arrays, digest.hexdigest()[:32]


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a folder's arrays, by the heads of its files; the arrays themselves are not read.

    Raises:
        EquimuError: there are no such files, one is missing, or has another size than its head says.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _files(folder):
        try:
            with open(open_inside(folder, file, os.O_RDONLY), "rb") as content:
                size = os.fstat(content.fileno()).st_size
                length = int.from_bytes(content.read(_LENGTH), "little")
                if length > min(size, _MOST_HEAD):
                    raise ValueError("its head is cut off, or none")
                head = {name: of for name, of in loads(content.read(length)).items() if name != "__metadata__"}
            end = _LENGTH + length + max((of["data_offsets"][1] for of in head.values()), default=0)
            if end != size:
                raise ValueError(f"it holds {size} bytes, and by its head {end}")
            shapes |= {name: tuple(of["shape"]) for name, of in head.items()}
            dtypes = {name: of["dtype"] for name, of in head.items()}
        except OSError as error:
            raise EquimuError(f"cannot read {folder / file}: {error.strerror}; {_COMPLETE}") from None
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            message = error if type(error) is ValueError else "its head cannot be read"
            raise EquimuError(f"{folder / file} is not a whole safetensors file: {message}; {_COMPLETE}") from None
        for name, dtype in dtypes.items():
            _check_dtype(folder / file, name, dtype)
    return shapes


def _check_dtype(path: Path, name: str, dtype: str) -> None:
    if dtype not in _DTYPES:
        raise EquimuError(f"{path}: {name} is {shown(dtype)}; equimu reads {', '.join(_DTYPES)}, so convert it first")


def _files(folder: Path) -> list[str]:
    try:
        index = loads(read_inside(folder, _INDEX))
        names = sorted(set(index["weight_map"].values()))
    except FileNotFoundError:
        return [_FILE]
    except OSError as error:
        raise EquimuError(f"cannot read {folder / _INDEX}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EquimuError(f"{folder / _INDEX} is not the index of a checkpoint, which has a weight_map") from None
    return names
