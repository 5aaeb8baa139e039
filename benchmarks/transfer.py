"""python -m benchmarks.transfer: does the best learning rate carry over? Of every parameterization, on real text.

python -m benchmarks.transfer                                  # over width, over depth, over batch and length
python -m benchmarks.transfer --part width --out runs/transfer --markdown table.md
python -m benchmarks.transfer --part depth --steps 600         # what sets depths apart shows late in training
python -m benchmarks.transfer --quick                          # the same grids cut down: does it run at all?

Small decoders learn the bytes of Python's standard library. Each part sweeps learning rates, fits the best one at each size,
and says how far it moves. Cells that are done are kept in the folder: interrupted, it goes on.
"""

import dataclasses
import math
import os
import sys
import time
from pathlib import Path
from typing import Literal

# As many steps side by side as there are cores, each on one.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()

import tyro  # noqa: E402

from benchmarks.throughput import machine, table  # noqa: E402
from equimu._errors import EquimuError  # noqa: E402
from equimu._progress import progress  # noqa: E402
from equimu.optim import AdamW, Muon, Optimizer, optimizer_name  # noqa: E402
from equimu.reports import Cell, Optimum, cells_of, report  # noqa: E402
from equimu.runs import RunConfig, Sizes
from equimu.sweeps import SweepConfig, octaves, sweep  # noqa: E402
from equimu.tasks import LanguageModel, ModelConfig, TextConfig  # noqa: E402

Rates = tuple[float, ...]
WIDTHS, DEPTHS, SEEDS = (32, 64, 128, 256), (2, 4, 8, 16), (0, 1)
ROWS, NARROW = 8, 32


# Over width: parameterizations that share a grid of rates and an optimizer. Absolute rates are larger by the width. Tables 3
# and 9 of TP-V train like Table 8 to the last digits, and CompleteP is Table 8 where the depth stays: one of the four is run.
GRIDS: list[tuple[tuple[str, ...], Optimizer, Rates]] = [
    (("sp",), AdamW(), octaves(-9, -4)),
    (("mup", "tpv(8)"), AdamW(), octaves(-8, -3)),
    (("mup(form=absolute)", "umup"), AdamW(), octaves(-2, 3)),
    (("spectral(form=relative)",), Muon(momentum=0.95), octaves(-5, 0)),
]
# Over depth, at one width.
DEEP = (("mup", "depth_mup", "completep"), octaves(-9, -3))
# Over batch and length: the base run, and what is changed of it: (rows, steps, width) each a multiple.
LARGER = {
    "4 × batch": (4, 0.25, 1),
    "4 × tokens": (1, 4, 1),
    "4 × batch and tokens": (4, 1, 1),
    "4 × batch, 4 × width": (4, 0.25, 4),
    "4 × tokens, 4 × width": (1, 4, 4),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Measures the transfer of the learning rate."""

    part: tuple[Literal["width", "depth", "run"], ...] = ("width", "depth", "run")
    """over what; `run` is batch size and training length"""
    steps: int = 150
    """of every run, but for those of other lengths in part `run`"""
    out: Path = Path("runs/transfer")
    """where the runs are kept"""
    markdown: Path | None = None
    """write the tables to this file"""
    quick: bool = False
    """ten steps, few sizes and rates, to see that all of it runs"""


def main(config: Config) -> None:
    """Trains, and prints a table for each part."""
    started = time.perf_counter()
    parts = {"width": over_width, "depth": over_depth, "run": over_runs}
    texts = [parts[part](config) for part in config.part]
    seconds = time.perf_counter() - started
    head = f"{machine()}\n\n`python -m benchmarks.transfer {' '.join(sys.argv[1:])}`: {seconds / 60:.0f} minutes"
    text = "\n\n".join([head, *texts])
    print(text)
    if config.markdown is not None:
        config.markdown.write_text(text + "\n")


_ADAMW = AdamW()


def base_run(
    config: Config, *, optimizer: Optimizer = _ADAMW, width: int = 128, rows: int = ROWS, head_dim: int = 32
) -> RunConfig:
    """What all runs of a sweep share."""
    return RunConfig(
        task=LanguageModel(model=ModelConfig(head_dim=head_dim, unroll=2), text=TextConfig(rows=rows, seq=64)),
        size=Sizes(width=width),
        optimizer=optimizer,
        steps=10 if config.quick else config.steps,
        validation_batches=8 if config.quick else 64,
    )


def over_width(config: Config) -> str:
    """The fitted optimum at each width, of each parameterization."""
    cells: list[Cell] = []
    for names, optimizer, rates in GRIDS:
        grid = SweepConfig(
            run=base_run(config, optimizer=optimizer),
            panels=names,
            over={"width": WIDTHS[:2] if config.quick else WIDTHS},
            fit={"learning_rate": rates[::2] if config.quick else rates},
            seeds=SEEDS,
        )
        name = optimizer_name(optimizer)
        named = "" if name == "adamw" else f" ({name})"
        cells += [
            dataclasses.replace(cell, panel=cell.panel + named)
            for cell in trained(grid, config.out / "width" / "-".join((name, *names)))
        ]
    return "## Over width\n\n" + summary(cells)


def over_depth(config: Config) -> str:
    """The fitted optimum at each depth."""
    names, rates = DEEP
    grid = SweepConfig(
        run=base_run(config, width=64, head_dim=16),
        panels=names,
        over={"depth": DEPTHS[:2] if config.quick else DEPTHS},
        fit={"learning_rate": rates[::2] if config.quick else rates},
        seeds=SEEDS,
    )
    # unroll must divide into the blocks of all depths; 2 does
    return "## Over depth\n\n" + summary(trained(grid, config.out / "depth"))


def over_runs(config: Config) -> str:
    """How far the best rate at another batch size or length is from that of the base run, with the rules for it and without."""
    rates = octaves(-8, -2)[:: 3 if config.quick else 1]
    base = base_run(config)
    # Narrow models are noisy, and cheap.
    many = SEEDS if config.quick else tuple(range(6))
    anchor = best(config, base, NARROW, rates, many, "base")
    rows: list[dict[str, object]] = []
    for name, (batch, length, width) in list(LARGER.items())[: 1 if config.quick else None]:
        run = dataclasses.replace(base_run(config, rows=batch * ROWS), steps=round(length * base.steps))
        ruled = dataclasses.replace(run, base_rows=ROWS, base_steps=base.steps)
        for label, one in (("with", ruled), ("without", run)):
            optimum = best(config, one, width * NARROW, rates, many if width == 1 else SEEDS, f"{name}, {label}")
            rows.append(
                {
                    "run": name,
                    "rules of batch and length": label,
                    "best log2 LR": text_of(optimum),
                    "octaves from the base run's": distance(optimum, anchor),
                    "loss": "" if optimum.lowest is None else f"{optimum.lowest:.3f}",
                }
            )
    head = f"Base run: {ROWS} rows × {base.steps} steps, width {NARROW}; its best log2 LR is {text_of(anchor)}."
    return f"## Over batch and length (completed_p)\n\n{head}\n\n{table(rows)}"


def best(config: Config, run: RunConfig, width: int, rates: Rates, seeds: tuple[int, ...], folder: str) -> Optimum:
    """The fitted best learning rate of one kind of run, at one width."""
    grid = SweepConfig(
        run=run,
        panels=("completed_p",),
        over={"width": (width,)},
        base=Sizes(width=NARROW),
        fit={"learning_rate": rates},
        seeds=seeds,
    )
    made = report(trained(grid, config.out / "run" / folder.replace(" ", "-")))
    return made.panels[0].fit.optima[0]


def trained(grid: SweepConfig, out: Path) -> list[Cell]:
    """The finished cells of a sweep."""
    with progress(out.name, 1) as bar:
        return cells_of(sweep(grid, out=out, on_cell=lambda run, done, total: bar.update(done, "", total)))


def summary(cells: list[Cell]) -> str:
    """A row for each parameterization."""
    made = report(cells)
    rows: list[dict[str, object]] = []
    for panel in made.panels:
        row: dict[str, object] = {"parameterization": panel.name}
        row |= {f"{made.along} {optimum.size:g}": text_of(optimum) for optimum in panel.fit.optima}
        law, last = panel.law, panel.fit.optima[-1]
        row["octaves per doubling"] = (
            "" if law is None else f"{law.slope:+.2f}" + ("" if law.plus_minus is None else f" ± {law.plus_minus:.2f}")
        )
        row["verdict"] = panel.verdict.kind
        regret = panel.regrets[-1].value if panel.regrets else None
        row["regret at the largest"] = "" if regret is None else f"{regret:.3f}"
        row["loss at the largest"] = "" if last.lowest is None else f"{last.lowest:.3f}"
        rows.append(row)
    return "Best log2 learning rate at each size, fitted, ± half of a 90 % interval; nats per byte.\n\n" + table(rows)


def text_of(optimum: Optimum) -> str:
    """A fitted optimum, or the best of the grid in brackets."""
    if optimum.point is None:
        return "" if optimum.best_point is None else f"({optimum.best_point:g})"
    return f"{optimum.point:.2f}" + ("" if optimum.plus_minus is None else f" ± {optimum.plus_minus:.2f}")


def distance(optimum: Optimum, anchor: Optimum) -> str:
    """Octaves between two optima."""
    if optimum.point is None or anchor.point is None:
        return ""
    found = optimum.point - anchor.point
    if optimum.plus_minus is None or anchor.plus_minus is None:
        return f"{found:+.2f}"
    return f"{found:+.2f} ± {math.hypot(optimum.plus_minus, anchor.plus_minus):.2f}"


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except EquimuError as error:
        print(f"benchmarks.transfer: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
