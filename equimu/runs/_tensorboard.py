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
        self._package, summary, messages = import_for(
            "tensorboard", "tensorboardX", "tensorboardX.summary", "tensorboardX.proto.summary_pb2"
        )
        self._scalar, self._summary = summary.scalar, messages.Summary

    def begin(self, identity: Mapping[str, Any], folder: Path, step: int, /) -> None:
        """As `Logger.begin`."""
        refuse_special(folder / _FOLDER)
        self._writer = self._package.SummaryWriter(str(folder / _FOLDER), purge_step=step + 1)
        indented = json.dumps(identity, indent=1).replace("\n", "\n    ")
        self._writer.add_text("identity", f"    {indented}", step)

    def row(self, row: Mapping[str, Any], /) -> None:
        """As `Logger.row`."""
        # One event of a row: the checksums of an event for each number took three times as long.
        values = [each for tag, value in scalars(row) for each in self._scalar(tag, value).value]
        self._writer.file_writer.add_summary(self._summary(value=values), row["step"])
        self._writer.flush()

    def end(self, status: str, /) -> None:
        """As `Logger.end`."""
        self._writer.close()
