"""A run as a folder, named by the hash of what the run is: `config.json`, `rules.json`, `metrics.jsonl`, `done`.

`done` is written last, so a folder without it is a run that was interrupted. While it is trained there is a `lock`, and once it
was saved a folder `checkpoints`. Nothing of it is reached through a link; see `equimu._folder`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from equimu._errors import EquimuError, ExitCode, printable
from equimu._folder import open_inside, read_inside, refuse_special, write_inside
from equimu._json import loads
from equimu._storage import one_line
from equimu._values import Count, NotNegative, Seed, Size, checked
from equimu.tasks import source_digest
from equimu.training._begin import CHECKPOINTS, CONFIG
from equimu.training._config import RunConfig, Sizes, config_from_dict, digest, identity_of_run
from equimu.training._lock import NAME as LOCK
from equimu.training._lock import FolderLock
from equimu.training._rows import Rows, is_mark, read_rows, seal, taken_up

_RULES, _METRICS, _SOURCE, _DONE = "rules.json", "metrics.jsonl", "source", "done"
_NAMES = (CONFIG, _RULES, _METRICS, _SOURCE, _DONE, LOCK, CHECKPOINTS)
# What a start leaves that was killed before the config was there.
_BEGUN = re.compile(rf"{LOCK}(-[0-9a-f]+)?|({_RULES}|{_METRICS}|{_SOURCE})(\.tmp)?|{CONFIG}\.tmp")


class StorageError(EquimuError):
    """The folder of a run that is being trained can no longer be written. What was saved before is as it was."""

    exit_code = ExitCode.STORAGE


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """A finished run, as its folder tells it.

    - `identity`: what it is, in plain JSON types: its `config`, and a fingerprint of its `data`.
    - `task`, `parameterization`: by which names tables and figures call them.
    - `size`, `learning_rate`, `seed`, `steps`: of its config.
    - `status`: `"finished"`, or `"diverged"` where the loss was not finite.
    - `validation_loss`: after the last step, in what the task's loss is in; infinite if diverged.
    - `rows`: the rows of `metrics.jsonl`.
    """

    folder: Path
    identity: Mapping[str, Any]
    task: str
    parameterization: str
    size: Sizes
    learning_rate: float
    seed: int
    steps: int
    status: Literal["finished", "diverged"]
    validation_loss: float
    rows: tuple[Mapping[str, Any], ...]

    def __repr__(self) -> str:
        # The rows and the identity are thousands of lines: what tells this run from the others of a sweep.
        end = f"validation_loss={self.validation_loss:.4f}" if self.status == "finished" else self.status
        return f"Run({self.folder.name[:12]}, {self.size}, seed {self.seed}, {end})"

    @property
    def validation_metrics(self) -> Mapping[str, float | None]:
        """The metrics of the task after the last step, by name; None where one is not finite."""
        return self.rows[-1].get("validation_metrics", {}) if self.rows else {}

    @property
    def config(self) -> RunConfig:
        """The run's config.

        Raises:
            EquimuError: its task is none of this library's.
        """
        return config_from_dict(self.identity["config"])


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
        self.path = root / self._name
        self._lock: FolderLock | None = None
        self._rows = Rows(self._name)

    def check(self) -> None:
        """Raises an `EquimuError` if the folder is there and holds another run, or a link where a file of the run should be.

        What a start left that was killed is no run yet, and is taken over.
        """
        try:
            for path in (self.path, *(self.path / name for name in _NAMES)):
                refuse_special(path)
            found = loads(self._read(CONFIG))
        except FileNotFoundError:
            if self.path.is_dir() and not all(_BEGUN.fullmatch(each.name) for each in self.path.iterdir()):
                raise EquimuError(
                    f"{self.path} holds files but no {CONFIG}, so it is no run; choose another --out"
                ) from None
            return
        except OSError as error:
            raise EquimuError(f"cannot take {error.filename}: {error.strerror}; choose another --out") from None
        except ValueError:
            raise EquimuError(
                f"{self.path / CONFIG} is no JSON; move the folder away, or choose another --out"
            ) from None
        if found != self.identity:
            raise EquimuError(f"{self.path} was written by another config; move it away, or choose another --out")

    @property
    def is_done(self) -> bool:
        """Whether the run has ended."""
        return os.path.lexists(self.path / _DONE)

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
        """Writes the config and the rules, and drops the rows of an interrupted run behind the step that it goes on from.

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
            self._write(_RULES, rules.encode())
            if self._source is not None:
                self._write(_SOURCE, self._source.encode())
            self._write(_METRICS, b"".join(lines))
            self._write(CONFIG, json.dumps(self.identity, indent=1).encode())
        except OSError as error:
            raise EquimuError(f"cannot write {self.path}: {error.strerror}; choose another --out") from None

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row to the metrics. Numbers that are none become null.

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
        told = {"status": status, "sha256": sha256, "check": seal(self._name, status, sha256)}
        with self._storing(step):
            self._write(_DONE, json.dumps(told).encode())

    def check_source(self) -> None:
        """Says on stderr, once for a root, if the file of the task is another than the run began with."""
        try:
            before = self._read(_SOURCE).decode(errors="replace")
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
        return open(open_inside(self._root, f"{self._name}/{_METRICS}", os.O_WRONLY | os.O_APPEND), "ab")

    def _read(self, name: str) -> bytes:
        return read_inside(self._root, f"{self._name}/{name}")

    def _write(self, name: str, content: bytes) -> None:
        write_inside(self._root, f"{self._name}/{name}", content)

    def _kept(self, mark: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """The rows that were written before a checkpoint."""
        if mark is not None and not is_mark(mark):
            raise EquimuError(f"what the newest checkpoint of {self.path} says of rows is nothing that a run writes")
        try:
            content = self._read(_METRICS)
            if mark is None:  # whatever was cut off was cut off at the end
                return read_rows(content[: content.rfind(b"\n") + 1], self._name, checked=False)
            begin = taken_up(content, mark)
            if begin is not None:
                return read_rows(begin, self._name, checked=True)
            read_rows(content[: mark["bytes"]], self._name, checked=True)
            wrong = f"{_METRICS} is not what was there when the checkpoint was written"
        except OSError as error:
            wrong = f"{_METRICS}: {error.strerror}"
        except ValueError as error:
            wrong = str(error)
        if mark is None or mark["text"] is None:
            raise EquimuError(
                f"rows of {self.path} that the checkpoint counts on are lost ({wrong}); bring {_METRICS} back, move "
                f"{CHECKPOINTS} away to begin anew, or begin another run from it by --runtime.restore-from"
            )
        try:
            rows = read_rows(mark["text"].encode(), self._name, checked=True)
        except ValueError as error:
            raise EquimuError(f"the rows in the newest checkpoint of {self.path} are not this run's: {error}") from None
        told = f"rows of {self.path} are damaged ({wrong}); they are taken from the checkpoint"
        print(f"equimu: {printable(told)}", file=sys.stderr, flush=True)
        return rows


@functools.cache
def _say_of_source(task: str, root: Path) -> None:
    message = (
        f"the source file of {task} has changed since runs in {root} were begun; what is done is taken as it is, and the rest "
        "is trained by the file as it is now (choose another --out to train all anew)"
    )
    print(f"equimu: {printable(message)}", file=sys.stderr, flush=True)


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None if it has not ended.

    Raises:
        EquimuError: a file of the run is missing, damaged or another run's, or the folder has another name than its run.
    """
    if not os.path.lexists(folder / _DONE):
        return None
    try:
        done = loads(read_inside(folder, _DONE))
        identity = loads(read_inside(folder, CONFIG))
        name = digest(identity)
        if folder.absolute().name != name:
            raise ValueError(f"its {CONFIG} is that of {name}, whose folder has that name")
        known = _known(identity["config"])
        content = read_inside(folder, _METRICS)
        status = done["status"]
        # Before rows had checks, `done` held the status alone.
        checked = list(done) != ["status"]
        rows = read_rows(content, name, checked=checked)
        if checked:
            if done["check"] != seal(name, status, done["sha256"]):
                raise ValueError(f"{_DONE} is not what this run wrote")
            if hashlib.sha256(content).hexdigest() != done["sha256"]:
                raise ValueError(f"{_METRICS} is not the one that the run ended with")
        loss = _loss(status, rows)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else one_line(error)
        raise EquimuError(f"{folder} is no readable run ({told}); move it away and run it again") from None
    return Run(folder=folder, identity=identity, status=status, validation_loss=loss, rows=tuple(rows), **known)


def _known(config: Any) -> dict[str, Any]:
    """What everybody asks of a run's config, checked; its task need not be known here."""
    size = Sizes(
        {checked("a name", name, str): checked("a size", value, Size) for name, value in config["size"].items()}
    )
    table = config["parameterization"]
    return {
        "task": checked("task.name", config["task"]["name"], str),
        "parameterization": checked("parameterization", table if isinstance(table, str) else table["name"], str),
        "size": size,
        "learning_rate": checked("learning_rate", config["optimizer"]["learning_rate"], NotNegative),
        "seed": checked("seed", config["seed"], Seed),
        "steps": checked("steps", config["steps"], Count),
    }


def read_runs(root: Path) -> Iterator[Run]:
    """The finished runs in the folders below a root, in the order of their names. How many others there are is told on stderr.

    Raises:
        EquimuError: as `read_run`; a folder is a link, or the root cannot be read.
    """
    try:
        with os.scandir(root) as entries:
            folders = sorted((entry.name, entry.is_symlink()) for entry in entries if entry.is_dir())
    except OSError as error:
        raise EquimuError(f"cannot read {root}: {error.strerror}") from None
    unfinished = 0
    for name, is_link in folders:
        if is_link and os.path.lexists(root / name / _DONE):
            raise EquimuError(
                f"{root / name} is a symbolic link, which is not followed; name the folder that it leads to"
            )
        run = None if is_link else read_run(root / name)
        if run is not None:
            yield run
        unfinished += run is None and os.path.lexists(root / name / CONFIG)
    if unfinished:
        told = f"{unfinished} of the runs in {root} have not ended, and are left out"
        print(f"equimu: {printable(told)}", file=sys.stderr, flush=True)


def _loss(status: Any, rows: list[dict[str, Any]]) -> float:
    if status == "diverged":
        return math.inf
    if status != "finished":
        raise ValueError(f"its status {status!r} is neither 'finished' nor 'diverged'")
    loss = rows[-1].get("validation_loss") if rows else None
    if loss is None:
        raise ValueError("its last row has no validation_loss")
    return float(loss)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # it is not empty, or not there
            folder.rmdir()
