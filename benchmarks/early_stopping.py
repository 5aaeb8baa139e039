"""Whether early stopping changes verdicts, and what it saves: full sweeps, recorded once, and replayed.

python -m benchmarks.early_stopping --record --out runs/early-stopping      # an hour on two cores
python -m benchmarks.early_stopping --out runs/early-stopping

Three tasks are swept in full over three widths, 13 learning rates and 6 seeds, under μP and the standard parameterization. A
replay is one such sweep with some of the seeds, early stopping deciding from the recorded rows which cells go on.
"""

import argparse
import collections
import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import equimu as mu
from benchmarks.carried import example
from equimu.reports import cells_of, report
from equimu.runs import Axes, Run, RunConfig, Runs, config_from_dict, read_runs
from equimu.sweeps import early_stopping
from equimu.tasks import Task

_AXES = Axes(fit="optimizer.learning_rate", over=("size.width",), scale="log2")
_LOG_EVERY, _SEEDS = 5, 6
_SUBSETS = (2, 3, 4)  # seeds of a replay


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A full sweep."""

    steps: int
    rates: tuple[float, ...]
    example: tuple[str, str] | None = None

    @property
    def task(self) -> Task:
        """Its task: of an example, or the decoder."""
        model, text = mu.tasks.ModelConfig(head_dim=32, unroll=2), mu.tasks.TextConfig(rows=8, seq=64)
        return mu.LanguageModel(model=model, text=text) if self.example is None else example(*self.example)

    def record(self, out: Path) -> None:
        """Trains it."""
        mu.sweep(
            self.task,
            over={"width": (32, 64, 128)},
            fit={"learning_rate": self.rates},
            panels=("mup", "sp"),
            seeds=_SEEDS,
            steps=self.steps,
            log_every=_LOG_EVERY,
            validation_batches=32,
            out=out,
        )


SWEEPS = {
    "decoder": Recorded(150, mu.octaves(-10, -4, 0.5)),
    "gru": Recorded(120, mu.octaves(-9, -3, 0.5), ("gru", "NextByte")),
    "vision": Recorded(80, mu.octaves(-9, -3, 0.5), ("vision_transformer", "Shapes")),
}


@dataclasses.dataclass(frozen=True)
class Replay:
    """What early stopping came to: of each panel the verdict of the full sweep and its own, and its share of the steps."""

    verdicts: tuple[tuple[str, str], ...]
    share: float


def replay(cells: Mapping[RunConfig, Run]) -> Replay:
    """Replays one sweep, whose cells were all trained to their end."""
    curves: dict[tuple[str, int], list[RunConfig]] = {}
    for cell, run in cells.items():
        curves.setdefault((run.parameterization, run.size["width"]), []).append(cell)
    trained: dict[RunConfig, int] = {}

    def train(until: Mapping[RunConfig, int]) -> dict[RunConfig, Run]:
        trained.update({cell: max(step, trained.get(cell, 0)) for cell, step in until.items()})
        return {cell: _left_at(cells[cell], step) for cell, step in until.items()}

    found = early_stopping(list(curves.values()), _AXES, train)
    full, mine = _verdicts(Runs(cells.values(), _AXES)), _verdicts(found)
    pairs = tuple((full[name], mine[name]) for name in full)
    steps = {cell: run.rows[-1]["step"] for cell, run in cells.items()}  # fewer where it diverged
    return Replay(pairs, sum(min(trained[cell], steps[cell]) for cell in trained) / sum(steps.values()))


def main() -> None:
    """Prints a row per task."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*SWEEPS, []], help="all by default")
    parser.add_argument("--record", action="store_true", help="train the full sweeps, or what is missing of them")
    parser.add_argument("--out", default="runs/early-stopping", type=Path)
    given = parser.parse_args()
    names = given.tasks or list(SWEEPS)
    if given.record:
        for name in names:
            SWEEPS[name].record(given.out / name)
        return
    print("| sweep | grid | seeds | verdicts | unchanged | steps | verdicts that changed |")
    print("|---|---|---:|---:|---:|---:|---|")
    for name in names:
        runs = _by_config(given.out / name, type(SWEEPS[name].task))
        for grid, step in (("half octaves", 1), ("octaves", 2)):
            rates = SWEEPS[name].rates[::step]
            for count in _SUBSETS:
                some = {cell: run for cell, run in runs.items() if run.learning_rate in rates}
                replays = [replay(cells) for cells in _subsets(some, count)]
                print(_row(name, grid, count, replays), flush=True)


def _by_config(root: Path, task: type[Task]) -> dict[RunConfig, Run]:
    # How often rows are written is not a part of what a run is.
    return {
        dataclasses.replace(config_from_dict(run.identity["config"], task), log_every=_LOG_EVERY): run
        for run in read_runs(root)
    }


def _subsets(runs: Mapping[RunConfig, Run], count: int) -> Iterable[dict[RunConfig, Run]]:
    for seeds in itertools.combinations(range(_SEEDS), count):
        yield {cell: run for cell, run in runs.items() if run.seed in seeds}


def _left_at(run: Run, step: int) -> Run:
    if step >= run.rows[-1]["step"]:
        return run
    return dataclasses.replace(
        run, status="paused", validation_loss=float("nan"), rows=tuple(row for row in run.rows if row["step"] <= step)
    )


def _verdicts(runs: Runs) -> dict[str, str]:
    return {panel.name: panel.verdict.kind for panel in report(cells_of(runs)).panels}


def _row(name: str, grid: str, count: int, replays: Sequence[Replay]) -> str:
    pairs = [pair for each in replays for pair in each.verdicts]
    changed = collections.Counter(f"{full} → {mine}" for full, mine in pairs if full != mine)
    share = sum(each.share for each in replays) / len(replays)
    unchanged = sum(full == mine for full, mine in pairs) / len(pairs)
    told = ", ".join(f"{text} ({number})" for text, number in changed.items())
    return f"| {name} | {grid} | {count} | {len(pairs)} | {unchanged:.1%} | {share:.1%} | {told} |"


if __name__ == "__main__":
    main()
