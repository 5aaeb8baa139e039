"""Arrays on the host as JAX holds them: which types there are, and the conversion to them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from equimu._errors import EquimuError

_NARROW = {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}


def is_wide() -> bool:
    """Whether JAX holds types of 64 bits, in this thread, now."""
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


@functools.cache
def host_dtype(dtype: Any, *, wide: bool) -> np.dtype[Any] | None:
    """The type in which JAX holds arrays of a type.

    Args:
        dtype: of an array.
        wide: whether types of 64 bits stay as they are; else float64 becomes float32, and so on.

    Returns:
        The type, in the machine's byte order; None for types of no numbers, such as text and objects.
    """
    if jnp.issubdtype(dtype, jax.dtypes.extended):  # random keys
        return None
    found = np.dtype(dtype)
    if found.kind not in "biufcV" or (found.kind in "fc" and np.finfo(found).bits > 64):
        return None
    if found.kind == "V" and not jnp.issubdtype(found, np.number):
        return None
    return np.dtype(found if wide else _NARROW.get(found.name, found)).newbyteorder("=")


def portable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A type with the byte order that fingerprints are made in."""
    return dtype if dtype.kind == "V" else dtype.newbyteorder("<")


def as_held(name: str, array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """An array in the type that `host_dtype` gave for it.

    Raises:
        EquimuError: integers that the type does not hold; the message begins with `name`.
    """
    if array.dtype.kind in "iu" and array.dtype.itemsize > dtype.itemsize and array.size:
        limits = np.iinfo(dtype)
        for extreme in (int(array.min()), int(array.max())):
            if not limits.min <= extreme <= limits.max:
                raise EquimuError(
                    f"{name} holds {extreme}, which {dtype.name} does not; write jax.config.update('jax_enable_x64', True)"
                    " first, or smaller numbers"
                )
    return array.astype(dtype, copy=False)
