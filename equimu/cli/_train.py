"""`equimu train`."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from equimu._progress import progress
from equimu._values import PathLike
from equimu.cli._command import Command
from equimu.cli._flags import Flat
from equimu.cli._running import loss_text
from equimu.processes import is_process_zero
from equimu.runs import RunConfig
from equimu.training import RuntimeConfig, train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Command):
    """The flags of `equimu train`."""

    config_class = RunConfig

    config: Annotated[RunConfig, Flat] = RunConfig()
    out: PathLike = "runs"
    """Root of the run folders."""
    runtime: RuntimeConfig = RuntimeConfig()

    def __call__(self) -> None:
        """Trains, and prints the loss and the folder."""
        begun: list[int] = []
        with progress("training", self.config.steps) as bar:

            def begin(step: int) -> None:
                begun.append(step)
                bar.update(step, f"resumed after step {step}" if step else "")

            run = train(
                self.config,
                out=self.out,
                runtime=self.runtime,
                on_row=lambda row: bar.update(row["step"], _row(row)),
                on_begin=begin,
            )
        if is_process_zero():
            how = "" if begun and not begun[0] else f" (resumed after step {begun[0]})" if begun else " (already done)"
            print(f"validation {loss_text(run)}{how}")
            print(run.folder)


def _row(row: Mapping[str, Any]) -> str:
    if "loss" not in row:
        return ""
    speed = next((name for name in row if name.endswith("_per_second")), None)
    return f"loss {row['loss']:.4f}" + (f"  {row[speed]:.0f} {speed.removesuffix('_per_second')}/s" if speed else "")
