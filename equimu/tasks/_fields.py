"""Fields of tasks and configs that say how a run is carried out, and not what it is."""

import dataclasses
import json
from typing import Any

_EXECUTION = "execution"


def execution(default: Any) -> Any:
    """A dataclass field that does not change which run it is: what is computed stays the same but for rounding.

    Args:
        default: of the field.
    """
    return dataclasses.field(default=default, metadata={_EXECUTION: True})


def is_execution(field: "dataclasses.Field[Any]") -> bool:
    """Whether a field says how a run is carried out."""
    return bool(field.metadata.get(_EXECUTION))


def plain(value: Any, *, whole: bool) -> Any:
    """A dataclass as plain JSON types, without the fields that say how a run is carried out unless it is whole."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if whole or not is_execution(field)]
        return {field.name: plain(getattr(value, field.name), whole=whole) for field in fields}
    return json.loads(json.dumps(value))
