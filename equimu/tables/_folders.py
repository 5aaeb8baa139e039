"""The folders that MLflow and Weights & Biases keep on the machine that trains."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from equimu._errors import EquimuError
from equimu._json import loads
from equimu.files import read_inside
from equimu.tables._row import Row
from equimu.tables._text import flattened

# MLflow's RunStatus, as meta.yaml has it.
_STATUS = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}
_META = re.compile(r"^(status|lifecycle_stage): *'?(\w+)'?", re.MULTILINE)
# A key of config.yaml, and the line of its value: numbers and texts; lists and objects begin on a line of their own.
_CONFIG = re.compile(r"^(\S+):[ \t]*\n(?:[ \t]+desc:.*\n)?[ \t]+value:[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)


def mlflow_rows(folder: Path, metas: Iterable[str]) -> list[Row]:
    """The runs of a file store (`mlruns`), a row each, with columns as `mlflow.search_runs` names them.

    Args:
        folder: the root.
        metas: the files `meta.yaml` below it, of runs and of experiments.
    """
    rows: list[Row] = []
    for meta in metas:
        run = PurePosixPath(meta).parent
        below = folder / run
        found = dict(_META.findall(_text(folder, meta)))
        if "status" not in found or found.get("lifecycle_stage") == "deleted":
            continue
        values: dict[str, object] = {"run_id": run.name, "status": _STATUS.get(found["status"], found["status"])}
        for kind in ("params", "metrics"):
            for path in sorted(below.joinpath(kind).rglob("*")):
                if path.is_file():
                    name = path.relative_to(below / kind).as_posix()
                    text = _text(folder, path.relative_to(folder).as_posix()).strip()
                    values[f"{kind}.{name}"] = text if kind == "params" else _last(text)
        rows.append(Row(where=f"run {run}", values=values))
    return rows


def wandb_rows(folder: Path, configs: Iterable[str]) -> list[Row]:
    """The runs of a folder `wandb`, a row each; one without a summary is taken to be running.

    Args:
        folder: the root.
        configs: the files `config.yaml` below it.
    """
    rows: list[Row] = []
    for config in configs:
        files = PurePosixPath(config).parent
        values: dict[str, object] = {"ID": files.parent.name}
        pairs = _CONFIG.findall(_text(folder, config))
        values |= {"config." + key.strip("'\""): value.strip("'\"") for key, value in pairs}
        summary = str(files / "wandb-summary.json")
        try:
            found = loads(_text(folder, summary))
            if not isinstance(found, dict):
                raise ValueError("not an object")
        except FileNotFoundError:
            values["State"] = "running"
        except ValueError as error:
            raise EquimuError(f"{folder / summary} is not a JSON summary: {error}; leave the run out") from None
        else:
            values |= {f"summary.{key}": value for key, value in flattened(found)}
        rows.append(Row(where=f"run {files.parent}", values=values))
    return rows


def _last(text: str) -> str:
    """The last value of a metric, of which there is a line for each step: time, value, step."""
    fields = text.rpartition("\n")[2].split()
    return fields[1] if len(fields) > 1 else ""


def _text(folder: Path, name: str) -> str:
    return read_inside(folder, name, 2**26).decode(errors="replace")
