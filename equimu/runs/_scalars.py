"""The numbers of a row with their places in it as names, for loggers."""

from collections.abc import Iterator, Mapping
from typing import Any

from equimu._values import Real


def scalars(row: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Real]]:
    """Names and numbers of a row, but for its step and for what it has no number of: `loss`, `leaves/embedding.weight/rms`."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{within}{name}/")
        elif name != "step" and value is not None:
            yield within + name, float(value)
