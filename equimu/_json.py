"""JSON that anyone may have written: what Python cannot take, or would choke on, is one `ValueError`."""

import json
from typing import Any

_DEEPEST = 200
_MOST_DIGITS = 100


def loads(content: bytes | str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is not JSON or not UTF-8, nests more than 200 deep, or holds an integer of more than 100 digits.
    """
    text = content.decode() if isinstance(content, bytes) else content
    try:
        found = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError(f"JSON nested more than {_DEEPEST} deep") from None
    if text.count("[") + text.count("{") > _DEEPEST:
        _check_depth(found)
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [
            below
            for each in level
            if isinstance(each, dict | list)
            for below in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError(f"JSON nested more than {_DEEPEST} deep")
