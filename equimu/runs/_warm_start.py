"""What a run may begin from, by name: the checkpoint of another run, or the weights of a Llama."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from equimu._errors import EquimuError
from equimu._json import loads
from equimu.files import local_folder, read_inside, refuse_special
from equimu.llama import LlamaCheckpoint, read_llama
from equimu.runs._axes import flat
from equimu.runs._config import digest
from equimu.runs._files import CHECKPOINTS, CONFIG
from equimu.storage import Checkpoints

LLAMA = "llama:"
"""Before the folder of a Llama."""


class WarmStart(NamedTuple):
    """A checkpoint to begin from.

    - `root`: the folder of checkpoints that it is in.
    - `step`: its step.
    - `saved`: the identity of the run that saved it.
    """

    root: Path
    step: int
    saved: Mapping[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """What it adds to the identity of the run that begins from it: not where it is, but what it is."""
        return {"run": digest(self.saved), "step": self.step}


class LlamaStart(NamedTuple):
    """The weights of a Llama to begin from, at step 0 and with a fresh optimizer.

    - `checkpoint`: what was read.
    """

    checkpoint: LlamaCheckpoint

    @property
    def step(self) -> int:
        """Updates before it."""
        return 0

    @property
    def identity(self) -> dict[str, Any]:
        """As of `WarmStart`."""
        return {"llama": self.checkpoint.digest}


def find_start(path: str) -> WarmStart | LlamaStart:
    """What `restore_from` names: `llama:FOLDER`, or a checkpoint of a run.

    Args:
        path: `llama:FOLDER`, a run's folder, or `RUN/checkpoints/step-N`.

    Raises:
        EquimuError: it is not there, or not what it should be.
    """
    if not path.startswith(LLAMA):
        return find_warm_start(path)
    folder = local_folder(path.removeprefix(LLAMA), "restore_from")
    return LlamaStart(read_llama(folder))


def refuse_inside_run(place: Path, told: str) -> None:
    """Raises an `EquimuError` if a path is below the folder of a run.

    Args:
        place: the path.
        told: what was given, for the message.
    """
    run = next((above for above in place.parents if (above / CONFIG).is_file()), None)
    if run is not None:
        raise EquimuError(f"{told} is inside of a run; give the run, {run}, or its {CHECKPOINTS}/step-N")


def flags_that_differ(saved: Any, own: Mapping[str, Any]) -> str | None:
    """What makes the arrays of a run's checkpoint others than those of another run, and the flags to give.

    Args:
        saved: the config of the first, in plain JSON types, or whatever stands in its place.
        own: of the other.

    Returns:
        A sentence; None where their configs do not say.
    """
    there, here = dict(flat(saved if isinstance(saved, Mapping) else {})), dict(flat(own))
    different = [path for path in there if there[path] != here.get(path)]
    for kind in ("task.name", "size.", "task.model.", "task.", "optimizer.name", "optimizer."):
        flags = [path for path in different if path.startswith(kind)]
        if flags:
            theirs, ours = (" ".join(map(_flag, flags, map(each.get, flags))) for each in (there, here))
            return f"it was saved with {theirs}, and this run has {ours}; give {theirs}"
    return None


def _flag(path: str, value: Any) -> str:
    return f"--{path.removeprefix('task.').replace('_', '-')} {value}"


def find_warm_start(path: str, what: str = "restore_from=") -> WarmStart:
    """The checkpoint that a path names: a run's folder (its newest) or `RUN/checkpoints/step-N`.

    Args:
        path: that was given.
        what: in front of it in messages.

    Raises:
        EquimuError: there is none.
    """
    place = Path(path).expanduser().absolute()
    named = re.fullmatch(r"step-(\d+)", place.name)
    folder = place.parent.parent if named else place
    root = folder / CHECKPOINTS
    if not folder.exists():
        raise EquimuError(f"{what}{path} is not there; give the folder of a saved run, or its {CHECKPOINTS}/step-N")
    if not (folder / CONFIG).is_file():
        refuse_inside_run(place, f"{what}{path}")
    try:
        refuse_special(root)
    except OSError as error:
        raise EquimuError(f"{what}{path}: {root} is {error.strerror}") from None
    steps = Checkpoints(root).steps()
    if not steps:
        raise EquimuError(
            f"{what}{path} holds no checkpoint; give the folder of a saved run, or its checkpoints/step-N (one of "
            "less than a minute is saved if it is trained with --runtime.save-final True)"
        )
    if named and int(named[1]) not in steps:
        there = ", ".join(f"step-{step}" for step in steps)
        raise EquimuError(f"{what}{path} is not there; {root} has {there}")
    try:
        identity = loads(read_inside(folder, CONFIG))
        if not isinstance(identity, dict):
            raise ValueError
    except (OSError, ValueError):
        raise EquimuError(f"{what}{path}: {folder} has no readable config.json, so it is not a run") from None
    return WarmStart(root, int(named[1]) if named else steps[-1], identity)
