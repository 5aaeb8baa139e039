"""`equimu eval`."""

import dataclasses
import json
from typing import Any, Literal

from equimu._progress import progress
from equimu._values import PathLike, Size
from equimu.cli._command import Place, Printing
from equimu.tasks import find_task
from equimu.trained import Evaluation, evaluate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval(Printing):
    """The flags of `equimu eval`."""

    run: Place
    """Folder of a run, whose newest checkpoint is taken, or RUN/checkpoints/step-N."""
    task: str | None = None
    """Of a run of a task of your own: my.py:NextByte, here or as the first word."""
    split: Literal["validation", "train"] = "validation"
    """Which part of the data."""
    rows: Size | None = None
    """Of a batch; the run's own by default. They change the time, not the result."""
    store: PathLike | None = None
    """Where the run's token store is now, if that is another place."""

    def __call__(self) -> None:
        """Evaluates, and prints the means."""
        task = None if self.task is None else find_task(self.task)
        with progress("evaluating", 1) as bar:
            found = evaluate(
                self.run,
                task,
                split=self.split,
                rows=self.rows,
                store=self.store,
                on_batch=lambda done, total: bar.update(done, "", total),
            )
        print(json.dumps(_fields(found)) if self.json else _text(found))


def _fields(found: Evaluation) -> dict[str, Any]:
    return dataclasses.asdict(found) | {"folder": str(found.folder)}


def _text(found: Evaluation) -> str:
    parts = [f"loss {found.loss:.4f}", *(f"{name} {value:.4f}" for name, value in found.metrics.items())]
    if found.bits_per_byte is not None:
        parts.append(f"{found.bits_per_byte:.4f} bits per byte")
    return f"{found.split} {', '.join(parts)}\nall {found.count} {found.unit}, after step {found.step}"
