"""A checkpoint's manifest: what was saved, of which run, and by what; and what another run's differs in."""

import hashlib
import importlib.metadata
import json
import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from equimu._errors import EquimuError
from equimu._json import loads
from equimu._types import PyTree
from equimu.storage._damage import Damaged
from equimu.storage._host_copies import is_key, named_leaves, plain_dtype

FORMAT = 1
_PACKAGES = ("equimu", "jax", "jaxlib", "numpy", "tensorstore")
_KEY_WORDS = 16  # of a typed random key, at most
_TOLD = 3  # differences that a message names
_LOST = object()


class OtherArrays(EquimuError):
    """A checkpoint holds other arrays than those that are wanted."""


def encode(step: int, arrays: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any]) -> bytes:
    """The file, which carries its own checksum."""
    versions = {name: _version(name) for name in _PACKAGES}
    content = {
        "format": FORMAT,
        "step": step,
        "versions": {"python": platform.python_version(), **versions},
        "manifest": manifest,
        "arrays": list(arrays),
    }
    return json.dumps({**content, "checksum": _checksum(content)}, indent=1).encode()


def decode(content: bytes, step: int) -> dict[str, Any]:
    """What the file says.

    Raises:
        Damaged: it is not what was written, or not this step's.
        EquimuError: another version of the library wrote it.
    """
    try:
        found = loads(content)
        checksum = found.pop("checksum")
        if checksum != _checksum(found):
            raise Damaged("the manifest does not match its checksum")
        if found["format"] == FORMAT and not (
            isinstance(found["manifest"], dict) and all(map(_is_array, found["arrays"]))
        ):
            raise Damaged("the manifest describes what no checkpoint holds")
    except (ValueError, AttributeError, KeyError, TypeError):
        raise Damaged("the manifest cannot be read") from None
    if found["format"] != FORMAT:
        raise EquimuError(
            f"the checkpoint of step {step} has format {found['format']} (equimu {found['versions']['equimu']}), "
            f"this equimu reads format {FORMAT}"
        )
    if found["step"] != step:
        raise Damaged(f"the manifest is that of step {found['step']}")
    return found


def plain(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A caller's manifest in plain JSON types.

    Raises:
        EquimuError: it holds something else.
    """
    try:
        return json.loads(json.dumps(manifest, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise EquimuError(f"a checkpoint's manifest holds plain JSON types: {error}") from None


def refuse_other_run(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Checks that a checkpoint was saved by such a run.

    Args:
        found: its manifest.
        wanted: the keys that must agree.
        where: the checkpoint.

    Raises:
        EquimuError: it was not; names what differs.
    """
    different = [
        line for key, value in wanted.items() for line in _differences(found["manifest"].get(key, _LOST), value, key)
    ]
    if different:
        raise EquimuError(
            f"{where} is of another run: {_told(different)}; continue with what it was saved with, or save elsewhere"
        )


def refuse_other_arrays(found: Mapping[str, Any], like: PyTree, where: str, *, cast: bool) -> None:
    """Checks that a checkpoint holds the arrays that are wanted.

    Args:
        found: its manifest.
        like: the wanted pytree.
        where: the checkpoint.
        cast: whether floating-point numbers may have another dtype.

    Raises:
        OtherArrays: it does not; names what differs.
    """
    saved = {array["path"]: array for array in found["arrays"]}
    wanted = dict(named_leaves(like))
    for path, leaf in wanted.items():
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise EquimuError(
                f"restore wants a jax.ShapeDtypeStruct or an array at each leaf, not a {type(leaf).__name__} at {path}"
            )
    different = [f"{path} is not wanted" for path in saved if path not in wanted]
    for path, leaf in wanted.items():
        if path not in saved:
            different.append(f"{path} is missing")
            continue
        array = saved[path]
        if tuple(array["shape"]) != leaf.shape:
            different.append(f"{path} has shape {tuple(array['shape'])}, not {leaf.shape}")
        elif not _are_such_keys(array["key_impl"], leaf):
            kind = array["dtype"] if array["key_impl"] is None else f"a key of {array['key_impl']}"
            different.append(f"{path} is {kind}, not {leaf.dtype}")
        elif array["dtype"] != str(leaf.dtype) and not (cast and _are_floats(array, leaf)):
            different.append(f"{path} is {array['dtype']}, not {leaf.dtype}")
    if different:
        raise OtherArrays(
            f"{where} holds other arrays: {_told(different)}; restore it into the model it was saved from"
        )


def _are_such_keys(impl: Any, leaf: Any) -> bool:
    """Whether a leaf holds keys of that kind; or none, where it is None."""
    if impl is None or not is_key(leaf.dtype):
        return impl is None and not is_key(leaf.dtype)
    try:
        return jax.random.key(0, impl=impl).dtype == leaf.dtype
    except (TypeError, ValueError):  # there are no such keys
        return False


def _is_array(array: Mapping[str, Any]) -> bool:
    """Whether a description is one that this library writes: files inside of its folder, and no larger than the array."""
    shape, stored, chunk = (array[key] for key in ("shape", "stored_shape", "chunk"))
    key = array["key_impl"] is not None
    names = [array["folder"], *array["files"]]
    return (
        all(isinstance(size, int) and 0 <= size < 2**48 for sizes in (shape, stored, chunk) for size in sizes)
        and stored[: len(shape)] == shape
        and math.prod(stored[len(shape) :]) <= (_KEY_WORDS if key else 1)
        and len(stored) == len(chunk)
        and all(0 < part <= max(1, size) for part, size in zip(chunk, stored, strict=True))
        and array["stored_dtype"] == ("uint32" if key else plain_dtype(jnp.dtype(array["dtype"])))
        and all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name) for name in names)
        and isinstance(array["path"], str)
    )


def _are_floats(array: Mapping[str, Any], leaf: Any) -> bool:
    if array["key_impl"] is not None or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return False
    return all(jnp.issubdtype(dtype, np.floating) for dtype in (np.dtype(array["dtype"]), leaf.dtype))


def _differences(found: Any, wanted: Any, where: str) -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*wanted, *found]):
            yield from _differences(found.get(key, _LOST), wanted.get(key, _LOST), f"{where}.{key}")
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(one, other, f"{where}[{index}]")
    elif found != wanted:
        yield f"{where} is {_shown(found)} there, {_shown(wanted)} here"


def _shown(value: Any) -> str:
    text = "nothing" if value is _LOST else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _told(different: Sequence[str]) -> str:
    more = len(different) - _TOLD
    return "; ".join(different[:_TOLD]) + (f"; and {more} more" if more > 0 else "")


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
