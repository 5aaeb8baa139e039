"""The logger for Weights & Biases."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimu.runs._background import Service
from equimu.runs._packages import import_for
from equimu.runs._scalars import scalars

_PROJECT = "equimu"
_CONNECT_SECONDS, _FINISH_SECONDS = 30.0, 45.0


class WeightsAndBiases(Service):
    """A run of W&B whose id is the name of the run's folder, in the group of the folder that this lies in, a sweep's.

    Where to (`WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_BASE_URL`) and whether now (`WANDB_MODE=offline`) is W&B's own matter.
    Its files are in `wandb` in the run's folder.
    """

    name = "wandb"

    def __init__(self) -> None:
        (self._package,) = import_for(self.name, "wandb")

    def begin(self, identity: Mapping[str, Any], folder: Path) -> int | None:
        """As `Service.begin`. Steps that W&B has, it does not take again."""
        settings = self._package.Settings(
            silent=True,
            console="off",
            init_timeout=_CONNECT_SECONDS,
            login_timeout=_CONNECT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            finish_timeout_raises=True,
        )
        self._run = self._package.init(
            id=folder.name,
            resume="allow",
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            group=os.environ.get("WANDB_RUN_GROUP", folder.parent.name),
            config=dict(identity),
            dir=str(folder),
            # The runs of a sweep are trained side by side in one process.
            reinit="create_new",
            settings=settings,
        )
        return None

    def send(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """As `Service.send`."""
        for row in rows:
            self._run.log(dict(scalars(row)), step=row["step"])

    def end(self, status: str) -> None:
        """As `Service.end`."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=1 if status == "failed" else 0)
