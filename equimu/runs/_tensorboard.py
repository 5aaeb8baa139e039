"""The logger for TensorBoard."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equimu.files import refuse_special
from equimu.runs._packages import import_for
from equimu.runs._scalars import scalars

_FOLDER = "tensorboard"


class TensorBoard:
    """Writes the numbers of each row as scalars, into `tensorboard` in the run's folder: `tensorboard --logdir runs`.

    Of a run that goes on, TensorBoard forgets what it was sent after the checkpoint.
    """

    def __init__(self) -> None:
        (self._package,) = import_for("tensorboard", "tensorboardX")

    def begin(self, identity: Mapping[str, Any], folder: Path, step: int, /) -> None:
        """As `Logger.begin`."""
        refuse_special(folder / _FOLDER)
        self._writer = self._package.SummaryWriter(str(folder / _FOLDER), purge_step=step + 1)
        indented = json.dumps(identity, indent=1).replace("\n", "\n    ")
        self._writer.add_text("identity", f"    {indented}", step)

    def row(self, row: Mapping[str, Any], /) -> None:
        """As `Logger.row`."""
        for tag, value in scalars(row):
            self._writer.add_scalar(tag, value, row["step"])
        self._writer.flush()

    def end(self, status: str, /) -> None:
        """As `Logger.end`."""
        self._writer.close()
