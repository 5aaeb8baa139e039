"""`equimu show GROUP`."""

import dataclasses
from typing import Any

import tyro

from equimu._errors import EquimuError, nearest
from equimu.cli._command import Command
from equimu.presets import PAPER, group, groups
from equimu.runs import config_to_dict, flat
from equimu.sweeps import SweepConfig, cells

_FIRST = "baseline"
_CLAIMS = {True: "the best rate transfers", False: "it does not transfer", None: "nothing"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowGroup(Command):
    """The flags of `equimu show GROUP`."""

    name: tyro.conf.Positional[str]
    """Group of experiments of arXiv 2404.05728: baseline, sp, lion, ..."""
    scale: str = PAPER
    """cpu, gpu or paper."""

    def __call__(self) -> None:
        """Prints what the group changes, and what the paper says of it."""
        if self.name not in groups():
            raise EquimuError(
                f"{self.name[:99]!r} is neither a task, as my.py:NextByte is, nor a group of the paper: "
                f"{nearest(self.name, groups())}"
            )
        mine = group(self.name)
        own, first = _values(mine.sweep(self.scale)), _values(group(_FIRST).sweep(self.scale))
        print(f"{mine.name}: {mine.text}")
        best = f", with log2 α of {' '.join(map(str, mine.best))} at widths 128, 512, 2048" if mine.best else ""
        print(f"the paper says: {_CLAIMS[mine.claim]}{best}")
        shown = {path: value for path, value in own.items() if mine.name == _FIRST or value != first.get(path)}
        longest = max(map(len, shown), default=0)
        for path, value in shown.items():
            before = "" if mine.name == _FIRST else f"  (baseline: {first.get(path, 'none')})"
            print(f"  {path:{longest}}  {value}{before}")
        print(f"equimu reproduce {mine.name} --scale {self.scale}")


def _values(config: SweepConfig) -> dict[str, Any]:
    """What a sweep is, by paths."""
    run = dict(flat(config_to_dict(next(cells(config)))))
    for path in ("parameterization", "size.width", "optimizer.learning_rate", "seed"):  # the sweep's
        del run[path]
    rates = " ".join(f"{value:.4g}" for value in next(iter(config.fit.values())))
    widths = " ".join(map(str, next(iter(config.over.values()))))
    known = {path: value for path, value in run.items() if value is not None}
    return {"table": config.panels[0], "widths": widths, "learning rates": rates, **known}
