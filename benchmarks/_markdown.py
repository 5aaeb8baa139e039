"""Tables in Markdown, printed row by row as these are known."""

from collections.abc import Iterable, Sequence
from pathlib import Path


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], file: Path | None = None) -> None:
    """Prints a table, and writes it to a file where one is given."""
    lines = [_line(header), _line(["---"] * len(header))]
    print(*lines, sep="\n")
    for cells in rows:
        lines.append(_line(cells))
        print(lines[-1], flush=True)
    if file is not None:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
