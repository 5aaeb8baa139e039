"""A progress bar on a terminal, plain lines elsewhere; both on stderr, so that stdout holds results only."""

import contextlib
import sys
from collections.abc import Generator
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Where progress is told."""

    def update(self, done: int, text: str, total: int | None = None) -> None:
        """So much is done of the total, which may be new; `text` says what was done last."""
        ...


@contextlib.contextmanager
def progress(what: str, total: int) -> Generator[Progress, None, None]:
    """A bar or lines, for as long as the context is open.

    Args:
        what: one word, in front of the bar.
        total: how much there is to do.
    """
    if not sys.stderr.isatty():
        yield _Lines(what, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield _Bar(bars, bars.add_task("", total=total))


class _Lines:
    def __init__(self, what: str, total: int):
        self._what, self._total = what, total

    def update(self, done: int, text: str, total: int | None = None) -> None:
        self._total = total or self._total
        print(f"{self._what} {done}/{self._total}  {text}".rstrip(), file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, bars: object, task: object):
        self._bars, self._task = bars, task

    def update(self, done: int, text: str, total: int | None = None) -> None:
        more = {} if total is None else {"total": total}
        self._bars.update(self._task, completed=done, description=text, **more)  # pyright: ignore
