"""The logger for MLflow."""

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from equimu._json import loads
from equimu.files import read_inside, write_inside
from equimu.runs._axes import flat
from equimu.runs._background import Service
from equimu.runs._packages import import_for
from equimu.runs._scalars import scalars

_RUN = "mlflow/run.json"
_AT_ONCE = 1000  # metrics, or 100 parameters, are the most that a call may have
_PARAMETERS_AT_ONCE = 100
_MOST_CHARACTERS = 500  # of a parameter's value
_TRIES, _SECONDS = "1", "20"
_ENDS = {"finished": "FINISHED", "diverged": "FINISHED", "failed": "FAILED"}


class MLflow(Service):
    """A run of MLflow, in the experiment named after the folder that the run's lies in, a sweep's.

    Where to is MLflow's own matter: `MLFLOW_TRACKING_URI`, or its usual database in the current folder. `mlflow/run.json` in
    the run's folder says which run it is there.
    """

    name = "mlflow"

    def __init__(self) -> None:
        self._package, self._entities = import_for(self.name, "mlflow", "mlflow.entities")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        # By default it tries for half an hour to reach a server.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _TRIES)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _SECONDS)

    def begin(self, identity: Mapping[str, Any], folder: Path) -> int | None:
        """As `Service.begin`."""
        self._client = self._package.MlflowClient()
        uri = self._package.get_tracking_uri()
        known = self._known(folder, uri)
        if known is not None:
            self._id = known
            self._client.update_run(known, "RUNNING")
            return max((metric.step for metric in self._client.get_metric_history(known, "loss")), default=0)
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", folder.parent.name)
        self._id = self._client.create_run(
            self._experiment(experiment), run_name=folder.name, tags={"equimu.run": folder.name}
        ).info.run_id
        write_inside(folder, _RUN, json.dumps({"tracking_uri": uri, "run_id": self._id}).encode())
        parameters = [
            self._entities.Param(_name(name), str(value)[:_MOST_CHARACTERS]) for name, value in flat(identity)
        ]
        for some in _parts(parameters, _PARAMETERS_AT_ONCE):
            self._client.log_batch(self._id, params=some)
        return 0

    def send(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """As `Service.send`."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(_name(name), value, now, row["step"]) for row in rows for name, value in scalars(row)
        ]
        for some in _parts(metrics, _AT_ONCE):
            self._client.log_batch(self._id, metrics=some)

    def end(self, status: str) -> None:
        """As `Service.end`."""
        self._client.set_tag(self._id, "equimu.status", status)
        self._client.set_terminated(self._id, _ENDS.get(status, "KILLED"))

    def _known(self, folder: Path, uri: str) -> str | None:
        """The run that was begun with the folder, where this server has it."""
        try:
            found = loads(read_inside(folder, _RUN))
            run = str(found["run_id"]) if found["tracking_uri"] == uri else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if run is None:
            return None
        try:
            return None if self._client.get_run(run).info.lifecycle_stage == "deleted" else run
        except self._package.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _experiment(self, name: str) -> str:
        """The experiment of a name, made where there is none; another run of the sweep may make it just now."""
        for is_second in (False, True):
            found = self._client.get_experiment_by_name(name)
            if found is not None:
                return found.experiment_id
            try:
                return self._client.create_experiment(name)
            except self._package.MlflowException:
                if is_second:
                    raise
        raise AssertionError


def _name(text: str) -> str:
    """A name without the characters that MLflow does not allow."""
    return re.sub(r"[^\w./ :-]", "_", text)[:250]


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
