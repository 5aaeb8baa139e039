"""What a search found, on disk: a page, data, and the config of the large run."""

import json
import math
from pathlib import Path
from typing import Any

from equimu._interval import CONFIDENCE
from equimu._values import Real
from equimu.files import local_folder, write_files
from equimu.runs import RunConfig, config_to_dict
from equimu.tuning._result import Tuned, effect_text


def write_tuned(tuned: Tuned, folder: str | Path, large: RunConfig | None = None) -> tuple[Path, Path, Path]:
    """Writes what a search found.

    Args:
        tuned: what `tune` returned.
        folder: where to; made if it does not exist.
        large: the run that takes the best numbers, as `Tuned.carried` gives it; None for the small run.

    Returns:
        The paths of `tuned.md`, `tuned.json` and `run.json`, which is the config of that run.

    Raises:
        EquimuError: they cannot be written.
    """
    config = tuned.config if large is None else large
    contents = {
        "tuned.md": f"# Tuned\n\n{markdown(tuned)}",
        "tuned.json": json.dumps(to_json(tuned), indent=1, allow_nan=False) + "\n",
        "run.json": json.dumps(config_to_dict(config), indent=1) + "\n",
    }
    found = {name: content.encode() for name, content in contents.items()}
    page, data, run = write_files(local_folder(folder, "the folder of the search"), found)
    return page, data, run


def markdown(tuned: Tuned) -> str:
    """The numbers as text."""
    against = (
        "the run that nobody tuned diverges"
        if tuned.default_plus_minus is None
        else f"{tuned.default_loss:.4f} ± {tuned.default_plus_minus:.4f} with the defaults"
    )
    end = "more of them would not have helped" if tuned.is_settled else "they were used up while the loss still fell"
    lines = [
        f"Validation loss **{tuned.loss:.4f} ± {tuned.plus_minus:.4f}**, {against}; the noise of one run is {tuned.noise:.4f}. "
        f"± is half of a {CONFIDENCE:.0%} interval over seeds that the search did not see.",
        "",
        "| number | best | default | loss lost by the default |",
        "|---|---:|---:|---|",
        *(f"| {e.name} | {e.value:.4g} | {e.default:.4g} | {effect_text(e)} |" for e in tuned.effects),
        "",
        f"{tuned.trials} trials, {tuned.diverged} diverged; {end}. {len(tuned.runs)} runs, {tuned.flops:.3g} operations.",
    ]
    return "\n".join(lines) + "\n"


def to_json(tuned: Tuned) -> dict[str, Any]:
    """The numbers as plain data; those that are not finite are None."""
    return {
        "values": dict(tuned.values),
        "loss": tuned.loss,
        "plus_minus": tuned.plus_minus,
        "default_loss": _finite(tuned.default_loss),
        "default_plus_minus": tuned.default_plus_minus,
        "noise": tuned.noise,
        "effects": [
            {
                "name": e.name,
                "value": e.value,
                "default": e.default,
                "lost": _finite(e.lost),
                "plus_minus": e.plus_minus,
            }
            for e in tuned.effects
        ],
        "trials": tuned.trials,
        "diverged": tuned.diverged,
        "is_settled": tuned.is_settled,
        "runs": [run.folder.name for run in tuned.runs],
        "flops": tuned.flops,
        "config": config_to_dict(tuned.config),
    }


def _finite(value: Real) -> Real | None:
    return value if math.isfinite(value) else None
