"""Parametrizations that are long as a whole: `make test` runs a few of each."""

from collections.abc import Container, Iterable, Mapping
from typing import Any

import pytest


def long_but(few: Container[Any], values: Iterable[Any]) -> list[Any]:
    """The values as parameters, all but a few marked `long`; of a mapping, its values by name."""
    named = values if isinstance(values, Mapping) else None
    return [
        pytest.param(
            value if named is None else named[value],
            id=None if named is None else value,
            marks=() if value in few else pytest.mark.long,
        )
        for value in values
    ]
