"""A progress bar on a terminal, a few plain lines elsewhere; both on stderr, so that stdout holds results only."""

import contextlib
import math
import sys
import time
from collections.abc import Generator
from typing import Protocol, runtime_checkable

_SECONDS = 30.0  # between two lines: a log is read afterwards


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
        lines = _Lines(what, total)
        try:
            yield lines
        finally:
            lines.close()
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
    """The first line, one now and then, and the last."""

    def __init__(self, what: str, total: int):
        self._what, self._total = what, total
        self._done: int | None = None
        self._due = -math.inf
        self._left_out: str | None = None

    def update(self, done: int, text: str, total: int | None = None) -> None:
        self._total = total or self._total
        if done == self._done and not text:  # was told
            return
        self._done = done
        self._left_out = f"{self._what} {done}/{self._total}  {text}".rstrip()
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _SECONDS
            self.close()

    def close(self) -> None:
        """Tells what was left out last."""
        if self._left_out is not None:
            print(self._left_out, file=sys.stderr, flush=True)
            self._left_out = None


class _Bar:
    def __init__(self, bars: object, task: object):
        self._bars, self._task = bars, task

    def update(self, done: int, text: str, total: int | None = None) -> None:
        more = {} if total is None else {"total": total}
        self._bars.update(self._task, completed=done, description=text, **more)  # pyright: ignore
