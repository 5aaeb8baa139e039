"""Loggers: what is sent the rows of a run while it is trained; their names, and how a run feeds them."""

import contextlib
import copy
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from equimu._errors import EquimuError, Interrupted, printable
from equimu._values import check_function, checked
from equimu.runs._background import Background
from equimu.runs._mlflow import MLflow
from equimu.runs._packages import MissingPackages
from equimu.runs._tensorboard import TensorBoard
from equimu.runs._trackio import Trackio
from equimu.runs._wandb import WeightsAndBiases

Status = Literal["finished", "diverged", "paused", "interrupted", "failed"]


class Logger(Protocol):
    """What is sent a run while it is trained, on process 0 alone. Each run has a logger of its own.

    A run that was interrupted and goes on in another process has a new logger there, whose `begin` is given the step of the
    checkpoint that it goes on from. The rows after that step are computed anew, and sent anew, if they had been sent before
    the interruption: what is keyed by step must take the later. Within one process no row is sent twice, and nothing is sent
    of a run that was done before.

    The cells of a sweep are trained in threads: several loggers of one name may be called at the same time, each in a thread
    of its own.
    """

    def begin(self, identity: Mapping[str, Any], folder: Path, step: int, /) -> None:
        """Training begins, or goes on.

        Args:
            identity: what the run is, in plain JSON types: its `config`, and a fingerprint of its `data`.
            folder: of the run, whose name is the hash of the identity. A logger may make a folder of its own in it.
            step: updates so far; 0 for a new run.
        """
        ...

    def row(self, row: Mapping[str, Any], /) -> None:
        """A row of `metrics.jsonl`, just written: `step`, `loss` and so on, a number each; `metrics`, `validation_metrics` and
        `leaves` are mappings of such. Numbers that are not finite are as they are, where the file has null.
        """
        ...

    def end(self, status: Status, /) -> None:
        """Training ends. `paused`, `interrupted` by a signal or `failed`, it can go on; one that is killed sends no end."""
        ...


_REGISTERED: dict[str, Callable[[], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": lambda: Background(WeightsAndBiases()),
    "mlflow": lambda: Background(MLflow()),
    "trackio": lambda: Background(Trackio()),
}
_OWN = frozenset(_REGISTERED)


def register_logger(name: str, factory: Callable[[], Logger]) -> None:
    """Gives a logger a name, by which configs name it: `--runtime.loggers mine`, `RuntimeConfig(loggers=("mine",))`.

    Registering a name again replaces its factory.

    Args:
        name: not one of this library's.
        factory: makes the logger of one run, on process 0, before the run begins; a class, say. What it raises (an
            `EquimuError` for a package that is not installed) keeps the run from beginning; what the logger raises later is
            said once on stderr, and the run goes on without it.

    Raises:
        EquimuError: the name is taken.
    """
    check_function("factory", factory, "of nothing, which makes a logger")
    if checked("the name of a logger", name, str) in _OWN:
        raise EquimuError(f"{name!r} is a logger of equimu's own; choose another name")
    _REGISTERED[name] = factory


def logger_names() -> tuple[str, ...]:
    """The names of all loggers."""
    return tuple(_REGISTERED)


class LoggerFeed(contextlib.AbstractContextManager["LoggerFeed"]):
    """Sends a run to its loggers. None of them can stop the run: one that raises is dropped, and stderr says so once."""

    def __init__(self) -> None:
        self._loggers: dict[str, Logger] = {}
        self._begun = False

    def add(self, names: Iterable[str]) -> None:
        """Makes the loggers of these names; on process 0.

        Raises:
            EquimuError: one of them cannot be made.
        """
        missing: dict[str, str] = {}
        for name in names:
            try:
                self._loggers[name] = _REGISTERED[name]()
            except MissingPackages as error:
                missing |= error.packages
            except EquimuError:
                raise
            except Exception as error:
                raise EquimuError(
                    f"the logger {name} cannot be made ({_told(error)}); leave it out of loggers"
                ) from error
        if missing:
            raise MissingPackages(missing)

    def begin(self, identity: Mapping[str, Any], folder: Path, step: int) -> None:
        """As `Logger.begin`."""
        self._begun = True
        self._send(lambda logger: logger.begin(copy.deepcopy(identity), folder, step))

    def row(self, row: Mapping[str, Any]) -> None:
        """As `Logger.row`."""
        self._send(lambda logger: logger.row(copy.deepcopy(row)))

    def end(self, status: Status) -> None:
        """As `Logger.end`. What follows is not sent."""
        if self._begun:
            self._send(lambda logger: logger.end(status))
        self._loggers.clear()

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.end("interrupted" if kind is not None and issubclass(kind, Interrupted) else "failed")

    def _send(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except Exception as error:
                del self._loggers[name]
                message = f"the logger {name} failed ({_told(error)}); the run goes on without it"
                print(f"equimu: {printable(message)}", file=sys.stderr, flush=True)


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200].removesuffix(": ")
