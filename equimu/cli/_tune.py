"""`equimu tune`."""

import dataclasses
import re
from typing import Annotated

from equimu._errors import EquimuError
from equimu._progress import progress
from equimu._terminal import wrapped
from equimu._values import PathLike, Real, Size
from equimu.cli._command import Printing, print_data
from equimu.cli._flags import Flat
from equimu.cli._running import loss_text, one_core_each
from equimu.files import local_folder
from equimu.plans import training_flops
from equimu.runs import RunConfig
from equimu.training import RuntimeConfig
from equimu.tuning import TuneConfig, Tuned, carried_run, tune, write_tuned

_SIZES = re.compile(r"(\w+)=(\d+(?:,\d+)*)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tune(Printing):
    """The flags of `equimu tune`."""

    config_class = TuneConfig

    config: Annotated[TuneConfig, Flat] = TuneConfig()
    carry: tuple[str, ...] = ()
    """Sizes of the large run that takes the best numbers, e.g. width=1024 depth=24."""
    out: PathLike = "runs/tune"
    """Root of the run folders; the result is written there too."""
    workers: Size | None = None
    """Runs trained at the same time; by default one for each core on a CPU, 8 for each accelerator. Of local alone."""
    launcher: str = "local"
    """Where they are trained: local, slurm, ray, or such a name with fields, "slurm(partition=gpu, gpus=1, minutes=120)"."""
    runtime: RuntimeConfig = RuntimeConfig()

    def __call__(self) -> None:
        """Searches, and writes and prints what was found."""
        one_core_each(self.workers, self.launcher)
        sizes: dict[str, int] = {}
        for name, (value, *more) in sizes_of(self.carry, "--carry", "width=1024 depth=24").items():
            if more:
                both = ",".join(map(str, (value, *more)))
                raise EquimuError(f"--carry takes one value of each size, got {name}={both}; see compare --at")
            sizes[name] = value
        # Which finds sizes that do not fit before the search.
        flops = training_flops(carried_run(self.config.run, sizes))
        local_folder(self.out, "--out")
        with progress("tuning", 1) as bar:
            tuned = tune(
                self.config,
                out=self.out,
                workers=self.workers,
                launcher=self.launcher,
                runtime=self.runtime,
                on_trial=lambda run, done, most: bar.update(done, loss_text(run), most),
            )
        large = tuned.carried(**sizes)
        *pages, config = write_tuned(tuned, self.out, large)
        if self.json:
            print_data(pages)
            return
        print(tuned)
        print(wrapped(_cost(tuned, large, flops)))
        for path in pages:
            print(path)
        print(f"equimu train --config {config}")


def sizes_of(given: tuple[str, ...], flag: str, example: str) -> dict[str, tuple[int, ...]]:
    """Values of sizes, by name, from texts as width=64,128.

    Raises:
        EquimuError: a text is none of these.
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in given:
        match = _SIZES.fullmatch(text)
        if match is None:
            raise EquimuError(f"{flag} takes sizes by name, e.g. {flag} {example}; got {text!r}")
        found[match.group(1)] = tuple(map(int, match.group(2).split(",")))
    return found


def _cost(tuned: Tuned, large: RunConfig, flops: Real) -> str:
    share = tuned.flops / flops
    there = share / len(tuned.runs)
    sizes = " ".join(f"{name} {value}" for name, value in large.size.items())
    return (
        f"{len(tuned.runs)} runs in {tuned.seconds:.0f} s: {share:.3g} of the operations of one run at {sizes}, and "
        f"{there:.2g} of those of as many runs there"
    )
