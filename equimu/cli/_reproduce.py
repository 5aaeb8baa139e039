"""`equimu reproduce`."""

import dataclasses

import tyro

from equimu._progress import progress
from equimu._terminal import print_rows
from equimu._values import PathLike, Size
from equimu.cli._command import Printing, print_data
from equimu.cli._running import loss_text, one_core_each
from equimu.files import local_folder
from equimu.presets import groups, reproduce, summary, summary_rows, write_reproduction
from equimu.runs import Run
from equimu.training import RuntimeConfig

_ALL = ("all", "2404.05728")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """Where the text comes from, in the place of what is on this machine."""

    corpus: PathLike | None = None
    """A file, a folder or a glob."""
    store: PathLike | None = None
    """A token store, of C4 for example; see `equimu data`."""
    tokenizer: PathLike | None = None
    """A tokenizers JSON file; by default bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduce(Printing):
    """The flags of `equimu reproduce`."""

    groups: tyro.conf.Positional[tuple[str, ...]]
    """Groups of experiments: baseline, sp, lion, ...; or all."""
    scale: str = "cpu"
    """cpu: minutes a group on two cores; gpu: an hour; paper: as it was, which needs a pod, C4 and T5's tokenizer."""
    seeds: Size | None = None
    """Of each cell; by default two, and one at the paper's scale, as there."""
    out: PathLike | None = None
    """Root of the run folders, and of the page; by default runs/paper-SCALE."""
    workers: Size | None = None
    """Runs trained at the same time; by default one for each core on a CPU, 8 for each accelerator. Of local alone."""
    launcher: str = "local"
    """Where they are trained: local, slurm, ray, or such a name with fields, "slurm(partition=gpu, gpus=1, minutes=120)"."""
    early_stopping: bool = False
    """Leave cells that cannot be the best of their curve; others are trained to their end where the verdict needs them."""
    text: Text = Text()
    runtime: RuntimeConfig = RuntimeConfig()

    def __call__(self) -> None:
        """Runs them, and writes and prints what came out."""
        names = groups() if set(self.groups) & set(_ALL) else self.groups
        out = f"runs/paper-{self.scale}" if self.out is None else self.out
        local_folder(out, "--out")
        one_core_each(self.workers, self.launcher)
        with progress("reproducing", 1) as bar:

            def tell(name: str, run: Run, done: int, total: int) -> None:
                rate = f"learning rate {run.learning_rate:.4g}"
                bar.update(done, f"{name}: {run.size}, {rate}, seed {run.seed}: {loss_text(run)}", total)

            found = reproduce(
                names,
                scale=self.scale,
                out=out,
                seeds=self.seeds,
                text={name: value for name, value in vars(self.text).items() if value is not None},
                workers=self.workers,
                launcher=self.launcher,
                runtime=self.runtime,
                early_stopping=self.early_stopping,
                on_cell=tell,
            )
        paths = write_reproduction(found, self.scale, out)
        if self.json:
            print_data(paths)
            return
        heading, *rows = summary_rows(found)
        print_rows(heading, rows, text=range(len(heading)), spare=(2, 1))
        for path in paths:
            print(path)
        print(summary(found))
