"""Tables on a terminal, no wider than it is: columns that can be spared are left out, and long names shortened."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence

_GAP = "  "
_SHORTEST = 12  # characters that remain of a name
_PART = re.compile(r"[./\s]")  # in front of a part of a path or of a sentence


def terminal_width() -> int | None:
    """How many columns the terminal has, or COLUMNS says. None for a file or a pipe, where lines may be as long as they are."""
    if os.environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return None


def wrapped(text: str) -> str:
    """A sentence on as many lines as the terminal needs."""
    width = terminal_width()
    return text if width is None else textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def table_lines(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: Collection[int] = (0,),
    spare: Sequence[int] = (),
    width: int | None = None,
) -> list[str]:
    """A table as lines.

    Args:
        header: names of the columns; without any, no line is written for them.
        rows: as long as the header, or all of one length.
        text: which columns are flush left; numbers are flush right.
        spare: columns in the order in which they are left out where the width is too small. What then remains too wide has
            the first column shortened, at the beginning of a part of each path.
        width: in characters; None for as wide as the table is.

    Returns:
        The lines. The last one names what was left out, if something was.
    """
    head = [header] if header else []
    shown = list(range(len([*head, *rows][0])))
    if not shown:
        return []
    widths = [max(len(row[column]) for row in (*head, *rows)) for column in shown]
    spared: list[int] = []
    while width is not None and _total(widths, shown) > width and len(spared) < len(spare):
        spared.append(spare[len(spared)])
        shown.remove(spared[-1])
    if width is not None:
        first = shown[0]
        widths[first] -= min(max(_total(widths, shown) - width, 0), max(widths[first] - _SHORTEST, 0))

    columns = [
        [cell.ljust(widths[column]) if column in text else cell.rjust(widths[column]) for cell in cells]
        for column in shown
        for cells in [_shortened([row[column] for row in (*head, *rows)], widths[column])]
    ]
    lines = [_GAP.join(cells).rstrip() for cells in zip(*columns, strict=True)]
    if head:
        lines.insert(1, _GAP.join("─" * widths[column] for column in shown))
    if spared:
        names = ", ".join(header[column] for column in sorted(spared)) if header else f"{len(spared)} columns"
        lines += textwrap.wrap(f"(left out at this width: {names})", width or 80)
    return lines


def print_rows(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    text: Collection[int] = (0,),
    spare: Sequence[int] = (),
) -> None:
    """Prints a table, its title above it and an empty line below. The arguments are those of `table_lines`."""
    lines = table_lines(header, rows, text=text, spare=spare, width=terminal_width())
    print("\n".join([*([wrapped(title)] if title else []), *lines, ""]))


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[column] for column in shown) + len(_GAP) * (len(shown) - 1)


def _shortened(texts: Sequence[str], width: int) -> list[str]:
    """Texts with an ellipsis for their beginnings where they are longer: paths differ at their ends.

    What remains begins where a part of the path does, if that leaves different paths different.
    """
    parts, cut = ([_end(text, width, at_part) for text in texts] for at_part in (True, False))
    return parts if len(set(parts)) == len(set(cut)) else cut


def _end(text: str, width: int, at_part: bool) -> str:
    if len(text) <= width:
        return text
    cut = len(text) - width + 1
    begins = (match.end() for match in _PART.finditer(text) if cut <= match.end() < len(text))
    return f"…{text[next(begins, cut) if at_part else cut :]}"
