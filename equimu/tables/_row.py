"""A row of a table, and where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run, or a step of one.

    Attributes:
        where: the place in the file, or the folder, for messages: `"line 3"`.
        values: by the names of the columns, as the file has them: texts, numbers, booleans or None. A column may be missing.
    """

    where: str
    values: Mapping[str, Any]
