"""`equimu compare`."""

import dataclasses
from typing import Annotated

from equimu._progress import progress
from equimu._terminal import print_rows, wrapped
from equimu._values import PathLike, Size
from equimu.cli._command import Printing, print_data
from equimu.cli._flags import Flat
from equimu.cli._running import loss_text, one_core_each
from equimu.cli._tune import sizes_of
from equimu.files import local_folder
from equimu.runs import Run
from equimu.training import RuntimeConfig
from equimu.tuning import RATES, Comparison, TuneConfig, compare, comparison_table, write_comparison


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Printing):
    """The flags of `equimu compare`."""

    config_class = TuneConfig

    config: Annotated[TuneConfig, Flat] = TuneConfig()
    at: tuple[str, ...] = ()
    """Larger values of one size, e.g. width=64,128,256; by default twice and four times the first size."""
    against: str = "sp"
    """The other table, as run.parameterization; itself for the one that was tuned, with the numbers that were found."""
    rates: tuple[float, ...] = RATES
    """Learning rates at which the other table is trained at each size."""
    out: PathLike = "runs/compare"
    """Root of the run folders; the result is written there too."""
    workers: Size | None = None
    """Runs trained at the same time; by default one for each core on a CPU, 8 for each accelerator. Of local alone."""
    launcher: str = "local"
    """Where they are trained: local, slurm, ray, or such a name with fields, "slurm(partition=gpu, gpus=1, minutes=120)"."""
    runtime: RuntimeConfig = RuntimeConfig()

    def __call__(self) -> None:
        """Trains, and writes and prints what was found."""
        one_core_each(self.workers, self.launcher)
        at = sizes_of(self.at, "--at", "width=64,128,256") if self.at else None
        local_folder(self.out, "--out")
        with progress("comparing", 1) as bar:

            def tell(what: str, run: Run, done: int, most: int) -> None:
                bar.update(done, f"{what}: {loss_text(run)}", most)

            found = compare(
                self.config,
                at=at,
                against=None if self.against == "itself" else self.against,
                rates=self.rates,
                out=self.out,
                workers=self.workers,
                launcher=self.launcher,
                runtime=self.runtime,
                on_run=tell,
            )
        paths = write_comparison(found, self.out)
        if self.json:
            print_data(paths)
            return
        print(found.tuned)
        _print(found)
        for path in paths:
            print(path)
        print(wrapped(found.sentence))


def _print(found: Comparison) -> None:
    rows = comparison_table(found)
    # The names of the ways to train stand above the table: beside each other they are too wide for a terminal.
    for letter, name in zip("ABC", rows[0][1:], strict=True):
        print(f"  {letter}: {name}")
    print_rows([rows[0][0], "A", "B", "C"], rows[1:], text=())
