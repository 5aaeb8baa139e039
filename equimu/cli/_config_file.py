"""`--config FILE`: a config from TOML or JSON, which may be anyone's; or `--config paper:GROUP`, one of the paper's."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError
from equimu._json import loads
from equimu._values import path_text
from equimu.files import expanded, read_regular
from equimu.presets import PREFIX, group, group_meant, means_all
from equimu.runs import RunConfig, config_from_dict
from equimu.storage import local_path
from equimu.sweeps import SweepConfig, sweep_config_from_dict
from equimu.tasks import LanguageModel, Task
from equimu.tuning import TuneConfig, tune_config_from_dict

_MOST_BYTES = 2**26


def read_config(
    name: str, cls: type, task: type[Task] | None, flags: Sequence[str]
) -> RunConfig | SweepConfig | TuneConfig:
    """The config in a file, or of a group of the paper: of its sweep, or of its largest run.

    Args:
        name: path of the file, `.toml` or JSON; or `paper:` and the name of a group.
        cls: `RunConfig`, `SweepConfig` or `TuneConfig`.
        task: the class of the task, where the command line names it.
        flags: of the command line.

    Raises:
        EquimuError: there is no such group; the file is unreadable, or is not such a config; or it names data that are
            elsewhere, which the flags do not name.
    """
    if means_all([name]) and not Path(name).exists():
        raise EquimuError(f"--config takes one group of the paper, e.g. {PREFIX}baseline; equimu show all lists them")
    if name.startswith(PREFIX):
        return _of_the_paper(name.removeprefix(PREFIX), cls)
    path = expanded(path_text("--config", name), "--config")
    read = {SweepConfig: sweep_config_from_dict, TuneConfig: tune_config_from_dict}.get(cls, config_from_dict)
    config: RunConfig | SweepConfig | TuneConfig = read(_read(path), task)
    run = config if isinstance(config, RunConfig) else config.run
    _refuse_address(run.task, path, flags)
    return config


def _of_the_paper(name: str, cls: type) -> RunConfig | SweepConfig:
    found = group(name)
    if cls is TuneConfig:
        raise EquimuError(f"{PREFIX}{name} is a sweep, with nothing to search; give it to sweep, plan, train or show")
    return found.sweep() if cls is SweepConfig else found.largest()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = read_regular(path, _MOST_BYTES).decode()
        values = tomllib.loads(text) if path.suffix == ".toml" else loads(text)
    except OSError as error:
        meant = group_meant(path.name) if isinstance(error, FileNotFoundError) else None
        instead = f"give a TOML or JSON file, such as the config.json of a run, or {PREFIX}GROUP"
        hint = f"did you mean --config {PREFIX}{meant}?" if meant else instead
        raise EquimuError(f"cannot read the config {path}: {error.strerror}; {hint}") from None
    except (ValueError, RecursionError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON (or TOML in a .toml file)"
        raise EquimuError(f"the config {path} is not {kind}: {error}") from None
    if not isinstance(values, dict):
        raise EquimuError(f"the config {path} must be an object of keys and values")
    # The config.json of a run folder holds more than the config.
    return values["config"] if {"config", "data"} <= set(values) and isinstance(values["data"], str) else values


def _refuse_address(task: Task, path: Path, flags: Sequence[str]) -> None:
    """A config file may be anyone's: what it names is on this machine, or the user names it too."""
    store = task.text.store if isinstance(task, LanguageModel) else None
    if store is None or local_path(store) is not None or any("text.store" in flag for flag in flags):
        return
    raise EquimuError(
        f"the config {path} has text.store={store!r}, which is not on this machine; give --text.store, too"
    )
