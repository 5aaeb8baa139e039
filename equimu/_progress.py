"""A progress bar on a terminal, a few plain lines elsewhere; both on stderr, so that stdout holds results only."""

import contextlib
import math
import sys
import time
from collections.abc import Generator
from typing import Protocol, runtime_checkable

from equimu._values import Real

_SECONDS = 30.0  # between two lines: a log is read afterwards


@runtime_checkable
class Progress(Protocol):
    """Where progress is printed."""

    def update(self, done: int, text: str, total: int | None = None, share: Real | None = None) -> None:
        """So much is done of the total, which may be new; `text` says what was done last.

        `share` is that of the work which has been done since the progress began, where what is counted differs in work.
        """
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
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    columns = (
        TextColumn(what),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
        # What is said last is cut where the terminal ends, and not the numbers.
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    with Bars(*columns, console=Console(stderr=True), expand=True) as bars:
        yield _Bar(bars, bars.add_task("", total=total, count=f"0/{total}"), total)


class _Lines:
    """The first line, one now and then, and the last."""

    def __init__(self, what: str, total: int):
        self._what, self._total, self._began = what, total, time.monotonic()
        self._done: int | None = None
        self._due = -math.inf
        self._left_out: str | None = None

    def update(self, done: int, text: str, total: int | None = None, share: Real | None = None) -> None:
        self._total = total or self._total
        if done == self._done and not text:  # already printed
            return
        self._done = done
        left = f" ({_duration((time.monotonic() - self._began) * (1 / share - 1))} left)" if share and share < 1 else ""
        self._left_out = f"{self._what} {done}/{self._total}  {text}{left}".rstrip()
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _SECONDS
            self.close()

    def close(self) -> None:
        """Prints the last line, if it was left out."""
        if self._left_out is not None:
            print(self._left_out, file=sys.stderr, flush=True)
            self._left_out = None


class _Bar:
    def __init__(self, bars: object, task: object, total: int):
        self._bars, self._task, self._total = bars, task, total
        self._first = None  # what was done when work of which there are shares began

    def update(self, done: int, text: str, total: int | None = None, share: Real | None = None) -> None:
        self._total = total or self._total
        self._first = done if self._first is None else self._first
        completed = done if share is None else self._first + share * (self._total - self._first)
        self._bars.update(  # pyright: ignore
            self._task,
            completed=completed,
            description=text,
            total=self._total,
            count=f"{done}/{self._total}",
        )


def _duration(seconds: Real) -> str:
    """So many seconds, in the unit that people would say."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
