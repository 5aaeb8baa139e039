"""A table of a report, not yet laid out."""

from dataclasses import dataclass

from equimu._values import Real


@dataclass(frozen=True, kw_only=True)
class Block:
    """A titled table of strings, each with whether it is marked."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[tuple[str, bool], ...], ...]


def plain(*texts: str) -> tuple[tuple[str, bool], ...]:
    """Strings of a row that are not marked."""
    return tuple((text, False) for text in texts)


def plus_minus(value: Real, half: Real | None, digits: int, *, sign: bool = False) -> str:
    """A number with half of its interval, as far as that is known."""
    # Adding 0.0 after rounding turns a negative zero into a positive one.
    text = f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"
    return text if half is None else f"{text} ± {half:.{digits}f}"
