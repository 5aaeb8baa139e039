"""`equimu verdict`."""

import dataclasses
from pathlib import Path
from typing import Literal

from equimu._values import PathLike
from equimu.cli._command import Place, Printing
from equimu.cli._print_report import print_report
from equimu.files import local_folder
from equimu.reports import read_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict(Printing):
    """The flags of `equimu verdict`."""

    table: Place
    """A file of CSV or JSON Lines, or a folder of Weights & Biases, MLflow or TensorBoard."""
    size: str | None = None
    """Column of what the sweep is over; guessed among width, d_model, n_embd, hidden_size, ..., depth."""
    fit: str | None = None
    """Column of the number whose best value is looked for; guessed among learning_rate, lr, ..."""
    loss: str | None = None
    """Column of the loss; guessed among val_loss, eval_loss, ..., loss, train_loss."""
    panel: str | None = None
    """Column of what is compared; guessed among parametrization, mup, ..."""
    seed: str | None = None
    """Column of the seed; guessed."""
    step: str | None = None
    """Column of the step, in a table with several rows for a run, of which the last one counts; guessed."""
    scale: Literal["log2", "linear"] | None = None
    """Of the number that is fitted; by default the one that its values are spaced on."""
    out: PathLike | None = None
    """Folder for the report; by default the folder that was given, or one beside the file, named after it."""

    def __call__(self) -> None:
        """Reads the table, and writes and prints the report."""
        place = Path(self.table).expanduser()
        out = self.out or str(place if place.is_dir() else place.with_name(f"{place.stem}-report"))
        local_folder(out, "--out")
        runs = read_table(
            self.table,
            size=self.size,
            fit=self.fit,
            loss=self.loss,
            panel=self.panel,
            seed=self.seed,
            step=self.step,
            scale=self.scale,
        )
        if not self.json:
            print(runs)
        print_report(runs, out, as_json=self.json)
