"""Loggers that send rows to a service: in a thread of their own, so that no step waits for a server or a database."""

import abc
import contextlib
import json
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError
from equimu._json import loads
from equimu.files import read_inside, refuse_special, write_inside
from equimu.runs._files import METRICS

_MARK = "sent.json"
_BETWEEN_SECONDS = 5.0  # rows that come within this time are sent together: a transaction takes longer than a row
_END_SECONDS = 60.0
_MOST_WAITING = 10_000

_Key = tuple[
    int, bool
]  # of a row: its step, and whether it is the one of the validation, which comes after the last step's


class Service(abc.ABC):
    """What a service is told of one run. All calls are made in one thread, which may wait.

    - `name`: of the logger, and of its folder in the run's.
    """

    name: str

    @abc.abstractmethod
    def begin(self, identity: Mapping[str, Any], folder: Path) -> int | None:
        """Begins a run, or goes on with the one that the folder was begun with.

        Args:
            identity: as of `Logger.begin`.
            folder: of the run; that of the logger in it is there.

        Returns:
            The last step that the service has of the run, 0 for none; None where it does not say.
        """

    @abc.abstractmethod
    def send(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows that it has not been sent before."""

    @abc.abstractmethod
    def end(self, status: str) -> None:
        """As `Logger.end`."""


class Background:
    """A logger that sends rows to a service, each of them once.

    A run that goes on sends what the service lacks: also rows before its checkpoint that were not sent before it was killed.
    What goes wrong in the thread is raised by the next call.

    Args:
        service: of one run.
    """

    def __init__(self, service: Service):
        self._service = service
        self._waiting: queue.Queue[Mapping[str, Any] | str] = queue.Queue()
        self._ending = threading.Event()
        self._failure: Exception | None = None
        self._last: _Key = (0, False)

    def begin(self, identity: Mapping[str, Any], folder: Path, step: int, /) -> None:
        """As `Logger.begin`."""
        own = folder / self._service.name
        refuse_special(own)
        own.mkdir(exist_ok=True)
        before = _rows_until(folder, step) if step else []
        name = f"equimu-{self._service.name}-{folder.name[:8]}"
        # A service that hangs keeps no process from ending.
        self._thread = threading.Thread(target=self._run, args=(identity, folder, before), name=name, daemon=True)
        self._thread.start()

    def row(self, row: Mapping[str, Any], /) -> None:
        """As `Logger.row`."""
        self._raise()
        if self._waiting.qsize() >= _MOST_WAITING:
            raise EquimuError(f"it has not answered for {_MOST_WAITING} rows")
        self._waiting.put(row)

    def end(self, status: str, /) -> None:
        """As `Logger.end`."""
        self._waiting.put(status)
        self._ending.set()
        self._thread.join(_END_SECONDS)
        self._raise()
        if self._thread.is_alive():
            raise EquimuError(f"it has not taken the last rows within {_END_SECONDS:g} seconds")

    def _raise(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _run(self, identity: Mapping[str, Any], folder: Path, before: Sequence[Mapping[str, Any]]) -> None:
        try:
            known, mark = self._service.begin(identity, folder), self._mark(folder)
            self._last = mark if known is None or known == mark[0] else (known, False)
            self._send(before, folder)
            status = None
            while status is None:
                first = self._waiting.get()
                self._ending.wait(_BETWEEN_SECONDS)
                items = [first]
                with contextlib.suppress(queue.Empty):
                    while True:
                        items.append(self._waiting.get_nowait())
                self._send([item for item in items if not isinstance(item, str)], folder)
                status = next((item for item in items if isinstance(item, str)), None)
            self._service.end(status)
        except Exception as error:
            self._failure = error

    def _send(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        new = [row for row in rows if _key(row) > self._last]
        if new:
            self._service.send(new)
            self._last = _key(new[-1])
            write_inside(folder, f"{self._service.name}/{_MARK}", json.dumps(self._last).encode())

    def _mark(self, folder: Path) -> _Key:
        """The last row that was sent, as far as the folder knows."""
        try:
            step, validated = loads(read_inside(folder, f"{self._service.name}/{_MARK}"))
            return int(step), bool(validated)
        except (OSError, ValueError, TypeError):
            return (0, False)


def _key(row: Mapping[str, Any]) -> _Key:
    return row["step"], "validation_loss" in row


def _rows_until(folder: Path, step: int) -> list[dict[str, Any]]:
    """The rows of the run that goes on, which its folder has just been found to hold."""
    rows = [loads(line) for line in read_inside(folder, METRICS).splitlines()]
    return [{key: value for key, value in row.items() if key != "check"} for row in rows if row["step"] <= step]
