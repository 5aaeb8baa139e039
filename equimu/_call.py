"""Texts that name a value by the call that makes it: a name, and fields in brackets."""

import ast
import re
from typing import Any

from equimu._errors import EquimuError
from equimu._values import shown

_CALL = re.compile(r"([A-Za-z_][\w.-]*)\s*(?:\((.*)\))?", re.DOTALL)
_TRUTHS = {"true": True, "false": False}
_PART = re.compile(r"""(?:[^,'"]|'[^']*'|"[^"]*")+""")


def name_of_call(text: str) -> str | None:
    """The name that a call begins with; None if the text is not a call."""
    found = _CALL.fullmatch(text.strip())
    return None if found is None else found.group(1)


def call_of(text: str) -> tuple[str, dict[str, Any]] | None:
    """The name and the fields of a call such as `lion(b2=0.98)`; None if the text is none.

    Values are numbers, true or false, None, or words, which need quotes only where they hold a comma.

    Raises:
        EquimuError: a field without its name, or one that is given twice.
    """
    found = _CALL.fullmatch(text.strip())
    if found is None:
        return None
    fields: dict[str, Any] = {}
    for part in filter(None, map(str.strip, _PART.findall(found.group(2) or ""))):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals:
            raise EquimuError(f"{shown(text)}: write fields by name, e.g. {found.group(1)}({name}=...)")
        if name in fields:
            raise EquimuError(f"{shown(text)} gives {name} twice")
        fields[name] = _value(value)
    return found.group(1), fields


def _value(text: str) -> Any:
    if text in _TRUTHS:
        return _TRUTHS[text]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
