"""Which of the formats a file or folder is in, by what it holds."""

import os
from pathlib import Path

from equimu._errors import EquimuError
from equimu._values import path_text
from equimu.files import expanded, read_regular
from equimu.tables._folders import mlflow_rows, wandb_rows
from equimu.tables._row import Row
from equimu.tables._tensorboard import tensorboard_rows
from equimu.tables._text import csv_rows, json_rows

_MOST_BYTES = 2**28
_MOST_FILES = 200_000


def read_rows(place: str | Path) -> list[Row]:
    """The rows of a file, or of the runs below a folder.

    Args:
        place: a file of CSV (or with tabs or semicolons), JSON Lines or a JSON list; or a folder of Weights & Biases, MLflow
            or TensorBoard.

    Raises:
        EquimuError: there is nothing, it cannot be read, or it is none of these.
    """
    path = expanded(path_text("the table", place), "the table")
    try:
        return _folder_rows(path) if path.is_dir() else _file_rows(path)
    except OSError as error:
        raise EquimuError(
            f"cannot read {error.filename or path}: {error.strerror}; give a table of runs as CSV or "
            "JSON Lines, or a folder of wandb, mlruns or TensorBoard"
        ) from None


def _file_rows(path: Path) -> list[Row]:
    try:
        text = read_regular(path, _MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise EquimuError(
            f"{path} is not text in UTF-8; give a table as CSV or JSON Lines, or a folder of runs"
        ) from None
    return json_rows(path, text) if text.lstrip()[:1] in ("{", "[") else csv_rows(path, text)


def _folder_rows(folder: Path) -> list[Row]:
    names = _below(folder)
    formats = (
        (mlflow_rows, [name for name in names if name.endswith("/meta.yaml")]),
        (wandb_rows, [name for name in names if name.endswith("files/config.yaml")]),
        (tensorboard_rows, [name for name in names if ".tfevents." in name.rpartition("/")[2]]),
    )
    rows = next((read(folder, files) for read, files in formats if files), [])
    if not rows:
        raise EquimuError(
            f"{folder} holds no runs of Weights & Biases, MLflow or TensorBoard; export a table of the runs as CSV, or take "
            "`equimu report` for runs of this library"
        )
    return rows


def _below(folder: Path) -> list[str]:
    """The files below a folder, by their paths relative to it; links are not followed."""
    found: list[str] = []
    for above, folders, files in os.walk(folder):
        folders.sort()
        found += [f"{Path(above, file).relative_to(folder).as_posix()}" for file in sorted(files)]
        if len(found) > _MOST_FILES:
            raise EquimuError(f"{folder} holds more than {_MOST_FILES} files; name the folder of one sweep")
    return found
