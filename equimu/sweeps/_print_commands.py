"""The cells of a sweep as commands for any scheduler."""

import dataclasses
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from equimu.files import write_files
from equimu.runs import RunConfig, config_to_dict
from equimu.storage import local_path
from equimu.sweeps._grid import SweepConfig, cells
from equimu.sweeps._pool import checked_cells, unfinished
from equimu.sweeps._runner import check_trees
from equimu.tasks import LanguageModel, where_of
from equimu.training import RuntimeConfig

FOLDER = "commands"


def commands(config: SweepConfig, *, out: str | Path, runtime: RuntimeConfig | None = None) -> list[str]:
    """A line of shell for each cell that is not done, which trains it; they may run in any order, and side by side.

    Args:
        config: the sweep.
        out: root of the run folders. The configs of the cells are written to its folder `commands`.
        runtime: how to carry out each cell.

    Raises:
        EquimuError: whatever is wrong with any cell; a task that is in no file.
    """
    root, runtime = checked_cells(config.run, out, runtime)
    grid = list(cells(config))
    check_trees(grid)
    left = {cell: f"{name}.json" for name, cell in unfinished(grid, root).items()}
    contents = {name: json.dumps(_with_place(cell), indent=1).encode() for cell, name in left.items()}
    if contents:
        write_files(root / FOLDER, contents)
    where = root.absolute()
    flags = ["--out", str(where), *flags_of(runtime, "runtime.")]
    return [
        shlex.join(["equimu", "train", "--config", str(where / FOLDER / name), *flags, *_store(cell)])
        for cell, name in left.items()
    ]


def _with_place(cell: RunConfig) -> dict[str, Any]:
    """The config, whose task is called by where its class is."""
    place = where_of(type(cell.task))
    config = config_to_dict(cell)
    return {**config, "task": {**config["task"], "name": place}}


def _store(cell: RunConfig) -> list[str]:
    """A store that is not on this machine is taken from the command line alone."""
    store = cell.task.text.store if isinstance(cell.task, LanguageModel) else None
    return [] if store is None or local_path(store) is not None else ["--text.store", store]


def flags_of(config: Any, prefix: str = "") -> Iterator[str]:
    """The flags by which a command takes a dataclass: those of what is not by default.

    Args:
        config: the dataclass; a field may be one in turn.
        prefix: of its fields' names, ending in a dot.
    """
    for field in dataclasses.fields(config):
        value: Any = getattr(config, field.name)
        name = f"{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            yield from flags_of(value, f"{name}.")
        elif value != field.default:
            yield f"--{name}"
            yield from () if value is True else map(str, value if isinstance(value, tuple) else (value,))  # pyright: ignore
