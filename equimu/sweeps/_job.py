"""A cell as a job: what another process, on another machine, needs to train it. Plain JSON types go there."""

import contextlib
import dataclasses
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError
from equimu._values import fields_from_dict
from equimu.runs import RunConfig, config_from_dict, config_to_dict
from equimu.tasks import files_of, find_task, import_files, where_of
from equimu.training import RuntimeConfig, train

_importing = False


def job_of(cell: RunConfig, until: int, out: Path, runtime: RuntimeConfig) -> dict[str, Any]:
    """The arguments of `train_cell` in the other process.

    Raises:
        EquimuError: the task's class, or the optimizer's, is in no file that another process could import.
    """
    arguments: dict[str, Any] = {
        "task": where_of(type(cell.task)),
        "config": config_to_dict(cell),
        "files": files_of([type(cell.optimizer)]),
        "until": until,
        "out": str(out.absolute()),
        "runtime": dataclasses.asdict(runtime),
    }
    return json.loads(json.dumps(arguments))


def train_cell(
    *, config: Mapping[str, Any], task: str, files: Mapping[str, str], until: int, out: str, runtime: Mapping[str, Any]
) -> str:
    """Trains a cell in this process, or goes on with it.

    Args:
        config: of the run.
        task: where its class is, as of `equimu.tasks.find_task`.
        files: modules that register what the config names, with their files.
        until: as of `train`.
        out: root of the run folders.
        runtime: the fields of the `RuntimeConfig`.

    Returns:
        The name of the run's folder.

    Raises:
        EquimuError: as of `train`.
        Interrupted: a signal came; what there was is saved.
    """
    with _as_job():
        cls = find_task(task)
        import_files(files)
    cell = config_from_dict(config, cls)
    carried_out = fields_from_dict(RuntimeConfig, runtime, "runtime.")
    return train(cell, out=out, runtime=carried_out, until=until).folder.name


def refuse_in_job() -> None:
    """Raises an `EquimuError` where a job imports the user's file, and that starts a sweep: the jobs would start jobs."""
    if _importing:
        raise EquimuError(
            "the file of the task starts a sweep when it is imported, as each job does; put that call below "
            "if __name__ == '__main__':"
        )


@contextlib.contextmanager
def _as_job() -> Generator[None, None, None]:
    global _importing
    _importing = True
    try:
        yield
    finally:
        _importing = False
