"""A real grid of 60 runs, and the best rates beyond it, measured directly."""

from collections.abc import Mapping
from pathlib import Path

from equimu.reports import Cell, cells_of, joint_law, report
from equimu.runs import RunConfig, Runs
from equimu.sweeps import octaves, sweep
from equimu.tasks import LanguageModel, ModelConfig, TextConfig

_WIDTHS, _STEPS, _ROWS = (32, 64, 128), (100, 400), (8, 32)
_LOWEST = {100: -7, 400: -8}  # log2 of the lowest of five rates, by length: longer runs want lower ones
# What is predicted, and measured with as many rates about the prediction and two seeds.
_TARGETS = ({"width": 512, "steps": 400, "rows": 8}, {"width": 128, "steps": 1600, "rows": 8})
_SEEDS = 2


def measure(out: Path, quick: bool) -> str:
    """Trains the grid, predicts, trains at the targets, and compares. Runs that are done are kept in `out`.

    Args:
        out: where the runs are kept.
        quick: a tenth of the steps, and no width above 128.
    """
    shorter = 10 if quick else 1
    cells: list[Cell] = []
    for steps in _STEPS:
        over = {"width": _WIDTHS, "steps": (steps // shorter,), "rows": _ROWS}
        lowest = _LOWEST[steps] + 2 * quick
        cells += cells_of(_train(over, octaves(lowest, lowest + 4), 1, out / f"steps-{steps}"))
    law = joint_law(cells)
    lines = [f"Real runs, {len(cells)} cells:", "", "```", f"{report(cells)!r}", "```", ""]
    lines += ["| target | predicted | measured | error | inside its interval |", "| --- | ---: | ---: | ---: | --- |"]
    for target in _TARGETS:
        sizes = {**target, "steps": target["steps"] // shorter, "width": min(target["width"], 128 if quick else 512)}
        predicted = law.at(**sizes)
        middle = round(predicted.point)
        rates = octaves(middle - 2, middle + 2)
        name = "-".join(f"{key}-{value}" for key, value in sizes.items())
        truth = _train({key: (value,) for key, value in sizes.items()}, rates, _SEEDS, out / name)
        optimum = report(truth).panels[0].fit.optima[0]
        half = "unknown" if predicted.plus_minus is None else f"{predicted.plus_minus:.2f}"
        known = ["not known", "", ""]
        if optimum.point is not None:
            error = predicted.point - optimum.point
            inside = predicted.plus_minus is not None and abs(error) <= predicted.plus_minus
            own = "unknown" if optimum.plus_minus is None else f"{optimum.plus_minus:.2f}"
            known = [f"{optimum.point:.2f} ± {own}", f"{error:+.2f}", "yes" if inside else "no"]
        at = ", ".join(f"{key} {value}" for key, value in sizes.items())
        lines.append(f"| {' | '.join([at, f'{predicted.point:.2f} ± {half}', *known])} |")
    return "\n".join(lines)


def _train(over: Mapping[str, tuple[int, ...]], rates: tuple[float, ...], seeds: int, out: Path) -> Runs:
    task = LanguageModel(model=ModelConfig(head_dim=16), text=TextConfig(seq=64))
    run = RunConfig(task=task)
    return sweep(
        run, over=over, fit={"learning_rate": rates}, panels=("mup",), seeds=seeds, base={"width": _WIDTHS[0]}, out=out
    )
