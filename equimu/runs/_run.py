"""Finished runs, as their folders tell them."""

import contextlib
import dataclasses
import hashlib
import math
import os
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from equimu._errors import EquimuError, printable
from equimu._json import loads
from equimu._values import Count, NotNegative, Real, Seed, Size, checked
from equimu.files import read_inside
from equimu.runs._config import RunConfig, Sizes, config_from_dict, digest
from equimu.runs._files import CONFIG, DONE, METRICS, PAUSED
from equimu.runs._rows import read_rows, seal, taken_up
from equimu.storage import one_line


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """A finished run, or one that was left at a step, as its folder tells it.

    - `identity`: what it is, in plain JSON types: its `config`, and a fingerprint of its `data`.
    - `task`, `parameterization`: by which names tables and figures call them.
    - `size`, `learning_rate`, `seed`, `steps`: of its config.
    - `status`: `"finished"`, `"diverged"` where the loss was not finite, or `"paused"` where `train` was given `until`.
    - `validation_loss`: after the last step, in what the task's loss is in; infinite if diverged, NaN if paused.
    - `rows`: the rows of `metrics.jsonl`.
    """

    folder: Path
    identity: Mapping[str, Any]
    task: str
    parameterization: str
    size: Sizes
    learning_rate: Real
    seed: int
    steps: int
    status: Literal["finished", "diverged", "paused"]
    validation_loss: Real
    rows: tuple[Mapping[str, Any], ...]

    def __repr__(self) -> str:
        # The rows and the identity are thousands of lines: what tells this run from the others of a sweep.
        end = f"validation_loss={self.validation_loss:.4f}" if self.status == "finished" else self.status
        return f"Run({self.folder.name[:12]}, {self.size}, seed {self.seed}, {end})"

    @property
    def validation_metrics(self) -> Mapping[str, Real | None]:
        """The metrics of the task after the last step, by name; None where one is not finite."""
        return self.rows[-1].get("validation_metrics", {}) if self.rows else {}

    @property
    def config(self) -> RunConfig:
        """The run's config.

        Raises:
            EquimuError: its task is none of this library's.
        """
        return config_from_dict(self.identity["config"])


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None if it has not ended.

    Raises:
        EquimuError: a file of the run is missing, damaged or another run's, or the folder has another name than its run.
    """
    if not os.path.lexists(folder / DONE):
        return None
    with _reading(folder):
        done = loads(read_inside(folder, DONE))
        name, identity, known = _identity(folder)
        content = read_inside(folder, METRICS)
        status = done["status"]
        # Before rows had checks, `done` held the status alone.
        checked = list(done) != ["status"]
        rows = read_rows(content, name, checked=checked)
        if checked:
            if done["check"] != seal(name, status, done["sha256"]):
                raise ValueError(f"{DONE} is not what this run wrote")
            if hashlib.sha256(content).hexdigest() != done["sha256"]:
                raise ValueError(f"{METRICS} is not the one that the run ended with")
        loss = _loss(status, rows)
        return Run(folder=folder, identity=identity, status=status, validation_loss=loss, rows=tuple(rows), **known)


def read_paused(folder: Path, step: int) -> Run | None:
    """The run in a folder up to a step, where it was left after that step or a later one; else None.

    Raises:
        EquimuError: as `read_run`.
    """
    if not os.path.lexists(folder / PAUSED):
        return None
    with _reading(folder):
        paused = loads(read_inside(folder, PAUSED))
        name, identity, known = _identity(folder)
        content = taken_up(read_inside(folder, METRICS), paused)
        if paused["step"] < step or content is None:  # or it began anew since then
            return None
        rows = tuple(row for row in read_rows(content, name, checked=True) if row["step"] <= step)
        return Run(folder=folder, identity=identity, status="paused", validation_loss=math.nan, rows=rows, **known)


@contextlib.contextmanager
def _reading(folder: Path) -> Generator[None, None, None]:
    """What is wrong with the files of a run, as an `EquimuError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        message = f"{error} is missing" if isinstance(error, KeyError) else one_line(error)
        raise EquimuError(f"{folder} is not a readable run ({message}); move it away and run it again") from None


def _identity(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The hash that names a run, what it is, and what everybody asks of it."""
    identity = loads(read_inside(folder, CONFIG))
    name = digest(identity)
    if folder.absolute().name != name:
        raise ValueError(f"its {CONFIG} is that of {name}, whose folder has that name")
    return name, identity, _known(identity["config"])


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
    """The finished runs in the folders below a root, by name. How many others there are is reported on stderr.

    Raises:
        EquimuError: as `read_run`; a folder is a link, the root cannot be read, or it holds no runs but folders that do.
    """
    try:
        with os.scandir(root) as entries:
            folders = sorted((entry.name, entry.is_symlink()) for entry in entries if entry.is_dir())
    except OSError as error:
        raise EquimuError(f"cannot read {root}: {error.strerror}") from None
    finished = unfinished = left = 0
    for name, is_link in folders:
        if is_link and os.path.lexists(root / name / DONE):
            raise EquimuError(
                f"{root / name} is a symbolic link, which is not followed; name the folder that it leads to"
            )
        run = None if is_link else read_run(root / name)
        if run is not None:
            finished += 1
            yield run
        if run is None and os.path.lexists(root / name / CONFIG):
            unfinished += 1
            left += os.path.lexists(root / name / PAUSED)
    deeper = [] if finished + unfinished else sorted({path.parent.parent.name for path in root.glob(f"*/*/{CONFIG}")})
    if deeper:
        raise EquimuError(f"{root} holds no runs, but folders of them: name one of {', '.join(deeper[:9])}")
    if unfinished:
        early = f" ({left} were stopped early)" if left else ""
        message = f"{unfinished} of the runs in {root} have not ended{early}, and are left out"
        print(f"equimu: {printable(message)}", file=sys.stderr, flush=True)


def _loss(status: Any, rows: list[dict[str, Any]]) -> float:
    if status == "diverged":
        return math.inf
    if status != "finished":
        raise ValueError(f"its status {status!r} is neither 'finished' nor 'diverged'")
    loss = rows[-1].get("validation_loss") if rows else None
    if loss is None:
        raise ValueError("its last row has no validation_loss")
    return float(loss)
