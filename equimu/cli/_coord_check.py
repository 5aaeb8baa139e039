"""`equimu coord-check`."""

import dataclasses
from typing import Annotated

from equimu._progress import progress
from equimu._values import Count, PathLike, Positive, Size
from equimu.cli._command import Printing, print_data
from equimu.cli._flags import Flat
from equimu.diagnostics import CheckFailedError, check_run, print_check, write_check
from equimu.files import local_folder
from equimu.runs import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordCheck(Printing):
    """The flags of `equimu coord-check`."""

    config_class = RunConfig

    config: Annotated[RunConfig, Flat] = RunConfig()
    """The size that varies, learning rate, schedule and steps are not used."""
    over: str | None = None
    """Name of the size that varies; the task's first by default."""
    sizes: tuple[Size, ...] = (64, 128, 256)
    """Its values, ascending."""
    learning_rate: Positive = 2**-9
    """So small that a few steps are far from the end of training."""
    check_steps: Count = 3
    """Updates."""
    seeds: Count = 6
    """How many initial weights; the intervals come from their spread."""
    out: PathLike = "runs/coord-check"
    """Folder for the table, the figure and the data."""

    def __call__(self) -> None:
        """Trains, prints, writes."""
        local_folder(self.out, "--out")
        over = self.over or next(iter(self.config.task.sizes))
        with progress("checking", len(self.sizes)) as bar:
            check = check_run(
                self.config,
                over=over,
                sizes=self.sizes,
                learning_rate=self.learning_rate,
                steps=self.check_steps,
                seeds=self.seeds,
                on_size=lambda done, size: bar.update(done, f"{over} {size}"),
            )
        paths = write_check(check, self.out)
        if self.json:
            print_data(paths)
        else:
            print_check(check)
            for path in paths:
                print(path)
        if not check.passed:
            raise CheckFailedError(check.verdict)
