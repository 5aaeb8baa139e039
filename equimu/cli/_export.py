"""`equimu export`."""

import dataclasses
import sys

from equimu._errors import printable
from equimu._values import PathLike
from equimu.cli._command import Command, Place
from equimu.exchange import export
from equimu.tasks import find_task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Command):
    """The flags of `equimu export`."""

    run: Place
    """Folder of a run, whose newest checkpoint is taken, or one of its checkpoints/step-N."""
    out: PathLike
    """Folder to make."""
    task: str | None = None
    """Of a run of a task of your own: my.py:NextByte, here or as the first word."""
    store: PathLike | None = None
    """Where the run's token store is now, if that is another place."""

    def __call__(self) -> None:
        """Writes the folder and prints its path."""
        task = None if self.task is None else find_task(self.task)
        made = export(self.run, self.out, task=task, store=self.store)
        if made.no_llama is not None:
            message = f"the model is not a Llama: {made.no_llama}; its arrays are written under their own names"
            print(f"equimu: {printable(message)}", file=sys.stderr)
        print(made.folder)
