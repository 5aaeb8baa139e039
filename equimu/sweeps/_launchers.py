"""The launchers by name, and as texts: the calls that make them."""

import dataclasses
from pathlib import Path

from equimu._call import call_of
from equimu._errors import EquimuError, nearest
from equimu._values import Size, check, fields_from_dict, shown
from equimu.runs import RunConfig
from equimu.sweeps._job import refuse_in_job
from equimu.sweeps._pool import Launcher, Pool
from equimu.sweeps._ray import Ray
from equimu.sweeps._runner import Local
from equimu.sweeps._slurm import Slurm
from equimu.training import RuntimeConfig

_LAUNCHERS: dict[str, type[Launcher]] = {launcher.name: launcher for launcher in (Local, Slurm, Ray)}


def launcher_from_text(text: str) -> Launcher:
    """The launcher that a text names: `slurm`, or with fields of its own `slurm(partition=gpu, gpus=1)`.

    Raises:
        EquimuError: the text is not such a call; an unknown name or field, with the nearest valid one.
    """
    call = call_of(text)
    if call is None:
        raise EquimuError(f"{shown(text)} is not a launcher; write a name, or a call: slurm(partition=gpu, gpus=1)")
    name, fields = call
    if name not in _LAUNCHERS:
        raise EquimuError(f"launcher {name[:99]!r} is unknown: {nearest(name, _LAUNCHERS)}")
    return fields_from_dict(_LAUNCHERS[name], fields, f"{name}.")


def pool_of(
    launcher: str | Launcher | None,
    run: RunConfig,
    *,
    out: str | Path,
    workers: int | None,
    runtime: RuntimeConfig | None,
) -> Pool:
    """What trains the cells of a sweep, a search or a comparison.

    Args:
        launcher, out, workers, runtime: as of `sweep`.
        run: what all cells share.

    Raises:
        EquimuError: the launcher is none, what it needs is not there, or the run cannot be a cell.
    """
    refuse_in_job()
    check(Size | None, workers=workers)
    if isinstance(launcher, str):
        launcher = launcher_from_text(launcher)
    elif launcher is None:
        launcher = Local()
    elif not isinstance(launcher, Launcher):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EquimuError(f"launcher must be a launcher, e.g. equimu.Slurm() or 'slurm', got {shown(launcher)}")
    if workers is not None:
        if not isinstance(launcher, Local):
            raise EquimuError(
                f"workers={workers} is for the launcher local; "
                f"{launcher.name} has fields of its own for how many runs go on together"
            )
        launcher = dataclasses.replace(launcher, workers=workers)
    return launcher.pool(run, out, runtime)
