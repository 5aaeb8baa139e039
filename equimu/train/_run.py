"""A run as a folder, named by the hash of what the run is: `config.json`, `rules.json`, `metrics.jsonl`, `done`.

`done` is written last, so a folder without it is a run that was interrupted.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from equimu._errors import EquimuError
from equimu.data import StoreInfo
from equimu.train._config import RunConfig, config_from_dict, config_to_dict, digest


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
    """The folder of one run, below a root. Nothing is created before `start`."""

    def __init__(self, root: Path, config: RunConfig, store: StoreInfo):
        # The same flags on other text are another run.
        self.identity = {"config": config_to_dict(config), "data": store.fingerprint}
        self.path = root / digest(self.identity)

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
        except ValueError:
            raise EquimuError(f"{path} is no JSON; move the folder away, or choose another --out") from None
        if found != self.identity:
            raise EquimuError(f"{self.path} was written by another config; move it away, or choose another --out")

    @property
    def is_done(self) -> bool:
        """Whether the run has ended."""
        return (self.path / "done").exists()

    def start(self, rules: str) -> None:
        """Makes the folder, with the config and the rules; rows of an interrupted run are dropped."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "rules.json").write_text(rules)
            (self.path / "metrics.jsonl").write_text("")
            _write_whole(self.path / "config.json", json.dumps(self.identity, indent=1))
        except OSError as error:
            raise EquimuError(f"cannot write {self.path}: {error.strerror}; choose another --out") from None

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row to the metrics. Numbers that are none become null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(clean) + "\n")

    def finish(self, status: str) -> None:
        """Marks the run as ended."""
        _write_whole(self.path / "done", json.dumps({"status": status}))


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
    """Writes a file such that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
