"""The logger for Trackio."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimu.runs._background import Service
from equimu.runs._packages import import_for
from equimu.runs._scalars import scalars

_PROJECT = "equimu"


class Trackio(Service):
    """A run of Trackio named as the run's folder, in the group of the folder that this lies in, a sweep's.

    Where to is Trackio's own matter: `TRACKIO_DIR`, `TRACKIO_SPACE_ID`, `TRACKIO_SERVER_URL`; and which project,
    `TRACKIO_PROJECT`.
    """

    name = "trackio"

    def __init__(self) -> None:
        modules = import_for(self.name, "trackio", "trackio.run", "trackio.utils")
        self._package = modules[0]
        # It prints what it does, onto the standard output, which is the caller's.
        for each in modules:
            vars(each)["print"] = lambda *_args, **_options: None

    def begin(self, identity: Mapping[str, Any], folder: Path) -> int | None:
        """As `Service.begin`."""
        self._run = self._package.init(
            project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
            name=folder.name,
            group=folder.parent.name,
            config=dict(identity),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        # What it says here the folder may know better: it takes rows at once, and writes them a little later.
        return getattr(self._run, "_initial_last_step", None) or 0

    def send(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """As `Service.send`."""
        for row in rows:
            self._run.log(dict(scalars(row)), step=row["step"])

    def end(self, status: str) -> None:
        """As `Service.end`."""
        self._run.finish()
