"""Addresses of what the package `datasets` reads, or `tokenizers`: a name or path, and behind `?` what else is to be known."""

import dataclasses
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from equimu._errors import EquimuError, nearest

SCHEME = "hf://"


@dataclasses.dataclass(frozen=True)
class Address:
    """`hf://NAME?key=value&key=value`, taken apart.

    Attributes:
        name: what stands before the `?`, without `hf://`.
        options: by their keys.
    """

    name: str
    options: Mapping[str, str]


def read_address(text: str, what: str, keys: Sequence[str]) -> Address:
    """An address, taken apart. In a value `%26` is `&`, as in URLs; a `+` is a `+`.

    Args:
        text: the address, with or without `hf://`.
        what: it is of, for messages.
        keys: that may stand behind the `?`.

    Raises:
        EquimuError: no name, an unknown key, a key twice, or no value.
    """
    name, _, query = text.removeprefix(SCHEME).partition("?")
    if not name:
        raise EquimuError(f"{what} {text!r} names nothing; write {SCHEME}NAME?{keys[0]}=..., say")
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key not in keys:
            raise EquimuError(f"{what} {text!r}: {key!r} is not known behind the ?; {nearest(key, keys)}")
        if not value or key in options:
            raise EquimuError(f"{what} {text!r}: {key} needs one value; write {key}=...")
        options[key] = unquote(value)
    return Address(name, options)
