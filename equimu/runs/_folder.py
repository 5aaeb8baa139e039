"""The folder of a run that is being trained, named by the hash of what the run is."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError, ExitCode, printable
from equimu._json import loads
from equimu.files import open_inside, read_inside, refuse_special, write_inside
from equimu.runs._config import RunConfig, digest, identity_of_run
from equimu.runs._files import CHECKPOINTS, CONFIG, DONE, LEFTOVER, METRICS, NAMES, PAUSED, RULES, SOURCE
from equimu.runs._lock import FolderLock
from equimu.runs._rows import Rows, is_mark, read_rows, seal, taken_up
from equimu.tasks import Task, source_digest


class StorageError(EquimuError):
    """The folder of a run that is being trained can no longer be written. What was saved before is as it was."""

    exit_code = ExitCode.STORAGE


class RunFolder:
    """The folder of one run, below a root. Nothing is created before it is `owned`.

    Args:
        root: where run folders are.
        config: the run.
        data: the fingerprint of its data. The same flags on other data are another run.
        begins: what it begins from, where not from fresh weights; plain JSON types.
    """

    def __init__(self, root: Path, config: RunConfig, data: str, begins: Mapping[str, Any] | None = None):
        self.identity: dict[str, Any] = {"config": identity_of_run(config), "data": data}
        if begins is not None:
            self.identity["from"] = dict(begins)
        self._root, self._name = root, digest(self.identity)
        self._source = source_digest(config.task)
        self.path: Path = root / self._name
        self._lock: FolderLock | None = None
        self._rows = Rows(self._name)

    def check(self) -> None:
        """Raises an `EquimuError` if the folder is there and holds another run, or a link where a file of the run should be.

        What a start left that was killed is not a run yet, and is taken over.
        """
        try:
            for path in (self.path, *(self.path / name for name in NAMES)):
                refuse_special(path)
            found = loads(self._read(CONFIG))
        except FileNotFoundError:
            if self.path.is_dir() and not all(LEFTOVER.fullmatch(each.name) for each in self.path.iterdir()):
                raise EquimuError(
                    f"{self.path} holds files but no {CONFIG}, so it is not a run; choose another --out"
                ) from None
            return
        except OSError as error:
            raise EquimuError(f"cannot take {error.filename}: {error.strerror}; choose another --out") from None
        except ValueError:
            raise EquimuError(
                f"{self.path / CONFIG} is not JSON; move the folder away, or choose another --out"
            ) from None
        if found != self.identity:
            raise EquimuError(f"{self.path} was written by another config; move it away, or choose another --out")

    @property
    def is_done(self) -> bool:
        """Whether the run has ended."""
        return os.path.lexists(self.path / DONE)

    @contextlib.contextmanager
    def owned(self) -> Generator[None, None, None]:
        """Context in which the folder is there and belongs to this process alone. An empty one is not left behind.

        Raises:
            EquimuError: another process owns it, or it cannot be made.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path)
        except OSError as error:
            _remove_empty(made)
            raise EquimuError(f"cannot write {self.path}: {error.strerror}; choose another --out") from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the folder is gone
                self._lock.release()
            self._lock = None
            _remove_empty(made)

    def start(self, rules: str, step: int, mark: Mapping[str, Any] | None) -> None:
        """Writes the config and the rules, and drops the rows of an interrupted run after the step that it goes on from.

        Args:
            rules: the tree of rules, as text.
            step: updates of this run so far.
            mark: what the checkpoint of that step says of the rows before it; None where it is of a version that said nothing.

        Raises:
            EquimuError: rows before the step are lost, and the checkpoint has no copy of them; or nothing can be written.
        """
        kept = self._kept(mark) if step else []
        self._rows = Rows(self._name)
        lines = [self._rows.add(row) for row in kept if row["step"] <= step and "validation_loss" not in row]
        self.check_source()
        try:
            self._write(RULES, rules.encode())
            if self._source is not None:
                self._write(SOURCE, self._source.encode())
            self._write(METRICS, b"".join(lines))
            self._write(CONFIG, json.dumps(self.identity, indent=1).encode())
        except OSError as error:
            raise EquimuError(f"cannot write {self.path}: {error.strerror}; choose another --out") from None

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row to the metrics. Numbers that are not finite become null.

        Raises:
            StorageError: it cannot be written.
            EquimuError: another process has taken the folder.
        """
        if self._lock is not None and self._lock.is_lost:
            raise EquimuError(f"{self.path} was taken by another process while this one was silent; it goes on there")
        with self._storing(row["step"]), self._metrics() as file:
            file.write(self._rows.add(row))

    def sync(self, step: int) -> None:
        """Waits until the rows are on the disk, as the checkpoint of this step that follows them will be.

        Raises:
            StorageError: they cannot be written.
        """
        with self._storing(step), self._metrics() as file:
            os.fsync(file.fileno())

    @property
    def mark(self) -> dict[str, Any]:
        """What a checkpoint is to say of the rows before it."""
        return self._rows.mark

    def finish(self, status: str, step: int) -> None:
        """Marks the run as ended.

        Raises:
            StorageError: it cannot be written.
        """
        sha256 = self._rows.sha256
        message = {"status": status, "sha256": sha256, "check": seal(self._name, status, sha256)}
        with self._storing(step):
            self._write(DONE, json.dumps(message).encode())

    def pause(self, step: int) -> None:
        """Notes that the run was saved after a step and left there, to be gone on with.

        Raises:
            StorageError: it cannot be written.
        """
        with self._storing(step):
            self._write(PAUSED, json.dumps({"step": step, **self._rows.mark, "text": None}).encode())

    def check_source(self) -> None:
        """Says on stderr, once for a root, if the file of the task is another than the run began with."""
        try:
            before = self._read(SOURCE).decode(errors="replace")
        except OSError:
            return
        if before != self._source:
            _say_of_source(self.identity["config"]["task"]["name"], self._root)

    @contextlib.contextmanager
    def _storing(self, step: int) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"training stopped at step {step}: cannot write {self.path}: {error.strerror}; "
                "what was saved before is as it was"
            ) from None

    def _metrics(self) -> Any:
        return open(open_inside(self._root, f"{self._name}/{METRICS}", os.O_WRONLY | os.O_APPEND), "ab")

    def _read(self, name: str) -> bytes:
        return read_inside(self._root, f"{self._name}/{name}")

    def _write(self, name: str, content: bytes) -> None:
        write_inside(self._root, f"{self._name}/{name}", content)

    def _kept(self, mark: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """The rows that were written before a checkpoint."""
        if mark is not None and not is_mark(mark):
            raise EquimuError(f"what the newest checkpoint of {self.path} says of rows is nothing that a run writes")
        try:
            content = self._read(METRICS)
            if mark is None:  # whatever was cut off was cut off at the end
                return read_rows(content[: content.rfind(b"\n") + 1], self._name, checked=False)
            begin = taken_up(content, mark)
            if begin is not None:
                return read_rows(begin, self._name, checked=True)
            read_rows(content[: mark["bytes"]], self._name, checked=True)
            wrong = f"{METRICS} is not what was there when the checkpoint was written"
        except OSError as error:
            wrong = f"{METRICS}: {error.strerror}"
        except ValueError as error:
            wrong = str(error)
        if mark is None or mark["text"] is None:
            raise EquimuError(
                f"rows of {self.path} that the checkpoint counts on are lost ({wrong}); bring {METRICS} back, move "
                f"{CHECKPOINTS} away to begin anew, or begin another run from it by --restore-from"
            )
        try:
            rows = read_rows(mark["text"].encode(), self._name, checked=True)
        except ValueError as error:
            raise EquimuError(f"the rows in the newest checkpoint of {self.path} are not this run's: {error}") from None
        message = f"rows of {self.path} are damaged ({wrong}); they are taken from the checkpoint"
        print(f"equimu: {printable(message)}", file=sys.stderr, flush=True)
        return rows


def is_of_source(folder: Path, task: Task) -> bool:
    """Whether the source file of a task is the one that the run in a folder began with, as far as it is known."""
    try:
        before = read_inside(folder, SOURCE).decode(errors="replace")
    except OSError:
        return True
    return before == source_digest(task)


@functools.cache
def _say_of_source(task: str, root: Path) -> None:
    message = (
        f"the source file of {task} has changed since runs in {root} were begun; what is done is taken as it is, and the rest "
        "is trained by the file as it is now (choose another --out to train all anew)"
    )
    print(f"equimu: {printable(message)}", file=sys.stderr, flush=True)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # it is not empty, or not there
            folder.rmdir()
