"""Whether early stopping changes verdicts, and what it saves: full sweeps, recorded once, and replayed.

python -m benchmarks.early_stopping --record --out runs/early-stopping      # half an hour on two cores
python -m benchmarks.early_stopping --out runs/early-stopping > page.md

Three tasks are swept in full over three widths, 13 learning rates and 6 seeds, under μP and the standard parameterization. A
replay is one such sweep with some of the seeds, early stopping deciding from the recorded rows which cells go on. Beside how
often the verdict is that of the full sweep stands how often full sweeps of other seeds agree with each other.

Synthetic sweeps are those of `benchmarks.verdicts`, whose truth is known: how often verdicts are wrong, of the full sweep and
with early stopping.
"""

import argparse
import collections
import dataclasses
import itertools
import math
import platform
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

import equimu as mu
from benchmarks.carried import example
from benchmarks.verdicts._judge import SLOPES, compare
from benchmarks.verdicts._sweeps import KINDS, Sweep, draw
from equimu.reports import Cell, Panel, cells_of, report
from equimu.runs import Axes, Run, RunConfig, Runs, Sizes, config_from_dict, read_runs
from equimu.sweeps import early_stopping
from equimu.tasks import Task

_AXES = Axes(fit="optimizer.learning_rate", over=("size.width",), scale="log2")
_LOG_EVERY, _SEEDS = 5, 6
_STEPS = 100  # of a synthetic run
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
    """What early stopping came to: each panel of the full sweep beside its own, and its share of the steps."""

    panels: tuple[tuple[Panel, Panel], ...]
    share: float

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        """Of each panel, both verdicts."""
        return [(full.verdict.kind, mine.verdict.kind) for full, mine in self.panels]


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
    full, mine = (report(cells_of(runs)).panels for runs in (Runs(cells.values(), _AXES), found))
    assert [panel.name for panel in full] == [panel.name for panel in mine]
    steps = {cell: run.rows[-1]["step"] for cell, run in cells.items()}  # fewer where it diverged
    done = sum(min(step, steps[cell]) for cell, step in trained.items())
    return Replay(tuple(zip(full, mine, strict=True)), done / sum(steps.values()))


def main() -> None:
    """Prints a page of two tables."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*SWEEPS, []], help="all by default")
    parser.add_argument("--record", action="store_true", help="train the full sweeps, or what is missing of them")
    parser.add_argument("--out", default="runs/early-stopping", type=Path)
    parser.add_argument("--synthetic", type=int, default=50, metavar="N", help="synthetic sweeps of each kind")
    given = parser.parse_args()
    names = given.tasks or list(SWEEPS)
    if given.record:
        for name in names:
            SWEEPS[name].record(given.out / name)
        return
    print("# Early stopping\n")
    print(f"Python {platform.python_version()}; `python -m benchmarks.early_stopping` says what is counted.\n")
    print("## Recorded sweeps, replayed\n")
    print("| sweep | grid | seeds | verdicts | unchanged | steps | other seeds agree | verdicts that changed |")
    print("|---|---|---:|---:|---:|---:|---:|---|")
    for grid, step in (("half octaves", 1), ("octaves", 2)):
        together: list[Replay] = []
        for name in names:
            runs = _by_config(given.out / name, type(SWEEPS[name].task))
            some = {cell: run for cell, run in runs.items() if run.learning_rate in SWEEPS[name].rates[::step]}
            for count in _SUBSETS:
                replays = [replay(cells) for cells in _subsets(some, count)]
                together += replays
                print(_row(name, grid, str(count), replays, _agreement(replays)), flush=True)
        print(_row("all", grid, "2 to 4", together, ""), flush=True)
    print("\n## Synthetic sweeps\n")
    _print_synthetic(given.synthetic)


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


def _agreement(replays: Sequence[Replay]) -> str:
    """How often the full verdicts of two of them are alike."""
    alike = [
        one[0] == other[0]
        for a, b in itertools.combinations(replays, 2)
        for one, other in zip(a.verdicts, b.verdicts, strict=True)
    ]
    return f"{sum(alike) / len(alike):.1%}"


def _row(name: str, grid: str, seeds: str, replays: Sequence[Replay], agreement: str) -> str:
    pairs = [pair for each in replays for pair in each.verdicts]
    changed = collections.Counter(f"{full} → {mine}" for full, mine in pairs if full != mine)
    share = sum(each.share for each in replays) / len(replays)
    unchanged = sum(full == mine for full, mine in pairs) / len(pairs)
    told = ", ".join(f"{text} ({number})" for text, number in changed.items())
    return f"| {name} | {grid} | {seeds} | {len(pairs)} | {unchanged:.1%} | {share:.1%} | {agreement} | {told} |"


def _print_synthetic(count: int) -> None:
    """A row per kind: steps, and wrong verdicts of both, a false transfer or a false drift."""
    print("| kind | steps | unchanged | false transfers | with early stopping | false drifts | with early stopping |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    totals: collections.Counter[str] = collections.Counter()
    for kind in KINDS:
        of_kind: collections.Counter[str] = collections.Counter()
        for number in range(count):
            of_kind.update(_synthetic(kind, number))
        totals.update(of_kind)
        print(_synthetic_row(kind, of_kind, count), flush=True)
    print(_synthetic_row("all", totals, count * len(KINDS)), flush=True)


def _synthetic_row(kind: str, found: Mapping[str, float], count: int) -> str:
    keys = ("share", "unchanged", "false transfers", "early false transfers", "false drifts", "early false drifts")
    return " | ".join([f"| {kind}", *(f"{found.get(key, 0) / count:.1%}" for key in keys)]) + " |"


def _synthetic(kind: str, number: int) -> dict[str, float]:
    rng = np.random.default_rng([KINDS.index(kind), number])
    slope = SLOPES[number % len(SLOPES)]
    truth = draw(kind, slope, rng)
    early = rng.uniform(-1.0, 1.5)  # octaves that the best rate falls by in training
    cells = {
        RunConfig(
            size={"width": int(cell.size)},
            optimizer=mu.AdamW(learning_rate=cell.value),
            seed=cell.seed,
            steps=_STEPS,
            log_every=_LOG_EVERY,
        ): _synthetic_run(cell, truth, early)
        for cell in truth.cells
    }
    found = replay(cells)
    row = {"share": found.share, "unchanged": float(len({*found.verdicts[0]}) == 1)}
    for name, panel in zip(("", "early "), found.panels[0], strict=True):
        outcome = compare(panel, truth)
        # Half of the sweeps drift, and half do not.
        row |= {
            f"{name}false transfers": 2.0 * outcome.false_transfer,
            f"{name}false drifts": 2.0 * outcome.false_drift,
        }
    return row


def _synthetic_run(cell: Cell, truth: Sweep, early: float) -> Run:
    """The run of a cell, whose loss in training is that of a curve that moves on to where it ends."""
    width, rate = int(cell.size), math.log2(cell.value)
    has_diverged = not math.isfinite(cell.loss)
    error = 0.0 if has_diverged else cell.loss - truth.losses[width](rate)
    steps = (1, *range(_LOG_EVERY, (_STEPS // 2 if has_diverged else _STEPS) + 1, _LOG_EVERY))
    left = {step: 1 - step / _STEPS for step in steps}
    rows = [
        {"step": step, "loss": left[step] + truth.losses[width](rate - early * left[step]) + error} for step in steps
    ]
    config = {
        "task": {"name": "synthetic"},
        "parameterization": cell.panel,
        "size": {"width": width},
        "seed": cell.seed,
    }
    return Run(
        folder=Path(f"{width}-{cell.value}-{cell.seed}"),
        identity={"config": {**config, "optimizer": {"name": "adamw", "learning_rate": cell.value}}},
        task="synthetic",
        parameterization=cell.panel,
        size=Sizes(width=width),
        learning_rate=cell.value,
        seed=cell.seed,
        steps=_STEPS,
        status="diverged" if has_diverged else "finished",
        validation_loss=math.inf if has_diverged else cell.loss,
        rows=tuple(rows),
    )


if __name__ == "__main__":
    main()
