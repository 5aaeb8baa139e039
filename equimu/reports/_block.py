"""A table of a report, not yet laid out."""

from dataclasses import dataclass

from equimu._values import Real

_LABELS = (
    "panel",
    "verdict",
    "leaf",
    "size",
    "claims rejected",
    "claims not rejected",
    "size left out",
)  # columns that are not numbers


@dataclass(frozen=True, kw_only=True)
class Block:
    """A titled table of strings, each with whether it is marked.

    Attributes:
        short: the title where the verdict stands elsewhere; empty if it is the same.
        spare: columns in the order in which a terminal that is too narrow leaves them out.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[tuple[str, bool], ...], ...]
    short: str = ""
    spare: tuple[int, ...] = ()

    @property
    def labels(self) -> frozenset[int]:
        """The columns that are not numbers."""
        return frozenset(column for column, name in enumerate(self.header) if name in _LABELS)


def plain(*texts: str) -> tuple[tuple[str, bool], ...]:
    """Strings of a row that are not marked."""
    return tuple((text, False) for text in texts)


def plus_minus(value: Real, half: Real | None, digits: int, *, sign: bool = False) -> str:
    """A number with half of its interval, as far as that is known."""
    # Adding 0.0 after rounding turns a negative zero into a positive one.
    text = f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"
    return text if half is None else f"{text} ± {half:.{digits}f}"
