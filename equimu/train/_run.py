"""A run as a folder, named by the hash of what the run is: `config.json`, `rules.json`, `metrics.jsonl`, `done`.

`done` is written last, so a folder without it is a run that was interrupted. While it is trained there is a `lock`, and once it
was saved a folder `checkpoints`.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from equimu._errors import EquimuError, ExitCode
from equimu.data import StoreInfo
from equimu.train._config import RunConfig, config_from_dict, config_to_dict, digest
from equimu.train._lock import FolderLock


class StorageError(EquimuError):
    """The folder of a run that is being trained can no longer be written. What was saved before is as it was."""

    exit_code = ExitCode.STORAGE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run, as its folder tells it.

    - `status`: `"finished"`, or `"diverged"` where the loss was no number.
    - `validation_loss`: nats per counted token after the last step; infinite if diverged.
    - `rows`: the rows of `metrics.jsonl`.
    """

    folder: Path
    config: RunConfig
    status: Literal["finished", "diverged"]
    validation_loss: float
    rows: tuple[Mapping[str, Any], ...]


class RunFolder:
    """The folder of one run, below a root. Nothing is created before it is `owned`.

    Args:
        root: where run folders are.
        config: the run.
        store: its data. The same flags on other text are another run.
        begins: what it begins from, where not from fresh weights; plain JSON types.
    """

    def __init__(self, root: Path, config: RunConfig, store: StoreInfo, begins: Mapping[str, Any] | None = None):
        self.identity: dict[str, Any] = {"config": config_to_dict(config), "data": store.fingerprint}
        if begins is not None:
            self.identity["from"] = dict(begins)
        self.path = root / digest(self.identity)
        self._lock: FolderLock | None = None

    def check(self) -> None:
        """Raises an `EquimuError` if the folder is there and holds another run."""
        path = self.path / "config.json"
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            if self.path.is_dir() and any(self.path.iterdir()):
                raise EquimuError(
                    f"{self.path} holds files but no config.json, so it is no run; choose another --out"
                ) from None
            return
        except OSError as error:
            raise EquimuError(f"cannot read {path}: {error.strerror}; choose another --out") from None
        except ValueError:
            raise EquimuError(f"{path} is no JSON; move the folder away, or choose another --out") from None
        if found != self.identity:
            raise EquimuError(f"{self.path} was written by another config; move it away, or choose another --out")

    @property
    def is_done(self) -> bool:
        """Whether the run has ended."""
        return (self.path / "done").exists()

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

    def start(self, rules: str, step: int) -> None:
        """Writes the config and the rules, and drops the rows of an interrupted run behind the step that it goes on from."""
        rows = [row for row in self._rows() if row["step"] <= step and "validation_loss" not in row]
        try:
            _write_whole(self.path / "rules.json", rules)
            _write_whole(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            _write_whole(self.path / "config.json", json.dumps(self.identity, indent=1))
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
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with self._storing(row["step"]), open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(clean) + "\n")

    def sync(self, step: int) -> None:
        """Waits until the rows are on the disk, as the checkpoint of this step that follows them will be.

        Raises:
            StorageError: they cannot be written.
        """
        with self._storing(step), open(self.path / "metrics.jsonl", "a") as file:
            os.fsync(file.fileno())

    def finish(self, status: str, step: int) -> None:
        """Marks the run as ended.

        Raises:
            StorageError: it cannot be written.
        """
        with self._storing(step):
            _write_whole(self.path / "done", json.dumps({"status": status}))

    @contextlib.contextmanager
    def _storing(self, step: int) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"training stopped at step {step}: cannot write {self.path}: {error.strerror}; "
                "what was saved before is as it was"
            ) from None

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        """The rows that are there, up to one that was cut off."""
        try:
            lines = (self.path / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                return
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                return
            yield row


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None if it has not ended.

    Raises:
        EquimuError: a file of the run is missing or damaged.
    """
    if not (folder / "done").exists():
        return None
    try:
        status = json.loads((folder / "done").read_text())["status"]
        config = config_from_dict(RunConfig, json.loads((folder / "config.json").read_text())["config"])
        rows = tuple(json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
        loss = rows[-1]["validation_loss"] if status == "finished" else math.inf
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise EquimuError(f"{folder} is no readable run ({error}); move it away and run it again") from None
    return Run(folder=folder, config=config, status=status, validation_loss=loss, rows=rows)


def read_runs(root: Path) -> Iterator[Run]:
    """The finished runs in the folders below a root, in the order of their names."""
    for path in sorted(root.glob("*/done")):
        run = read_run(path.parent)
        if run is not None:
            yield run


def _write_whole(path: Path, text: str) -> None:
    """Writes a file such that it is there whole or not at all, also after a loss of power."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # it is not empty, or not there
            folder.rmdir()
