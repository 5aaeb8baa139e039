"""What a run is: frozen dataclasses, whose fields are flags of the command line and part of the run's identity."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from equimu._errors import EquimuError, nearest
from equimu._values import (
    Count,
    PathLike,
    Seed,
    Size,
    check_keys,
    checked,
    hints_of,
)
from equimu.optim import AdamW, Optimizer, optimizer_from_dict, optimizer_to_dict
from equimu.parameterization import (
    Parameterization,
    canonical_text,
    parameterization_from_dict,
    parameterization_to_dict,
)
from equimu.tasks import LanguageModel, Task, checked_task, execution, is_execution, task_from_dict, task_to_dict


class Sizes(Mapping[str, int]):
    """The sizes of a model by name, as a value that can be hashed."""

    def __init__(self, sizes: Mapping[str, int] | None = None, **more: int):
        self._sizes = {**(sizes or {}), **more}

    def __getitem__(self, name: str) -> int:
        return self._sizes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __hash__(self) -> int:
        return hash(frozenset(self._sizes.items()))

    def __repr__(self) -> str:
        return repr(self._sizes)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._sizes.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run: a task at some sizes under a table of laws.

    Raises:
        EquimuError: a field that cannot be.
    """

    task: Task = LanguageModel()
    size: Mapping[str, int] = Sizes()
    """Sizes of the model; those left out are the defaults of the task's `make`."""
    base: Mapping[str, int] = Sizes()
    """Sizes of the small model, to which the rules are relative; those left out are the defaults of the task's `make`, or the
    run's own where these are smaller."""
    base_rows: Count | None = None
    """Rows of the small run's batches (of the same shape), for rules of batch and length; None for the run's own."""
    base_steps: Count | None = None
    """Steps of the small run; None for the run's own."""
    parameterization: str | Parameterization = "mup"
    """A table of laws, as the call that makes it: mup, mup(form=absolute), completep(alpha=0.5).tune(output, multiplier=4)."""
    optimizer: Optimizer = AdamW()
    """Its name says which flags it has: adamw, lion, sgd, adafactor, muon, or a registered one."""
    steps: Count = 150
    """Updates."""
    seed: Seed = 0
    """Of the initial weights, of the order of the data, and of random keys in the loss."""
    restore_from: PathLike | None = execution(None)
    """A run's folder or one of its checkpoints to begin from: weights, optimizer state and step. The rules must fit, the config
    may be another. Or `llama:FOLDER`, a checkpoint of Hugging Face's, of which the weights are taken, to train from step 0. A
    run begun this way is another run than without: its identity has the checkpoint's run and step, or a hash of the weights,
    wherever they are."""
    accumulate: Count = execution(1)
    """Micro-batches that a batch is computed in, one after the other, to save memory."""
    on_nonfinite: Literal["stop", "skip", "record"] = "stop"
    """When a loss or gradient is not finite: stop with an error, skip the update and count it, or record a diverged run."""
    log_every: Count = execution(10)
    """Steps from one row of metrics to the next."""
    validation_batches: Count | None = 32
    """Batches of the validation data at the end of the run; None for all."""

    def __post_init__(self) -> None:
        checked_task(self.task)
        for name in ("size", "base"):
            check_keys(name, getattr(self, name))
            whole = self.task.complete(self.size) if name == "size" else self._small()
            object.__setattr__(self, name, Sizes(whole))
        table = self.parameterization
        if isinstance(table, str):
            object.__setattr__(self, "parameterization", canonical_text(table))
        elif not isinstance(table, Parameterization):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EquimuError(
                f"parameterization must be a table, e.g. equimu.mup(), or the call that makes one, e.g. 'mup'; got {table!r}"
            )
        for name, hint in hints_of(type(self)).items():
            if name not in ("task", "size", "base", "parameterization"):
                object.__setattr__(self, name, checked(name, getattr(self, name), hint))

    def _small(self) -> dict[str, int]:
        """The sizes of the small model, those left out filled in."""
        defaults = self.task.sizes
        usual = {name: min(value, defaults[name] or value) for name, value in self.size.items()}
        return self.task.complete({**usual, **self.base}, "base")

    @property
    def parameterization_name(self) -> str:
        """By which tables and figures call its parameterization."""
        table = self.parameterization
        return table if isinstance(table, str) else table.name


def run_config(task: Task | RunConfig, size: Mapping[str, int] | None, fields: Mapping[str, Any]) -> RunConfig:
    """A run of a task with these fields; or the run that is given, without any.

    Args:
        task: the task, or a whole config.
        size: sizes of the model, by name; None for the task's defaults.
        fields: other fields of `RunConfig`.

    Raises:
        EquimuError: it is neither, or a field is unknown.
    """
    if isinstance(task, RunConfig):
        if size is not None or fields:
            more = ", ".join(["size"] * (size is not None) + list(fields))
            raise EquimuError(f"{more} goes into the RunConfig that was given; or give a task in its place")
        return task
    known = hints_of(RunConfig)
    for name in fields:
        if name not in known:
            raise EquimuError(f"a run has no field {name!r}: {nearest(name, known)}")
    return RunConfig(task=checked_task(task), size=Sizes(size), **fields)


def identity_of_run(config: RunConfig) -> dict[str, Any]:
    """What a run is, as plain JSON types: its config without what only says how it is carried out."""
    return _to_dict(config, whole=False)


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """A config as plain JSON types."""
    return _to_dict(config, whole=True)


def _to_dict(config: RunConfig, whole: bool) -> dict[str, Any]:
    table = config.parameterization
    found: dict[str, Any] = {
        "task": task_to_dict(config.task, whole=whole),
        "size": dict(config.size),
        "base": dict(config.base),
        "parameterization": table if isinstance(table, str) else parameterization_to_dict(table),
        "optimizer": optimizer_to_dict(config.optimizer),
    }
    for field in dataclasses.fields(config):
        if field.name not in found and (whole or not is_execution(field)):
            found[field.name] = getattr(config, field.name)
    return json.loads(json.dumps(found))


def config_from_dict(values: Mapping[str, Any], task: type[Task] | Task | None = None, where: str = "") -> RunConfig:
    """A config from plain JSON types; fields left out keep their defaults.

    Args:
        values: by the names of fields.
        task: the class of the task, where it is known, or the task itself; else `task.name` tells.
        where: in front of names in messages.

    Raises:
        EquimuError: an unknown key (with the nearest valid one), or a value of the wrong type.
    """
    hints = hints_of(RunConfig)
    found: dict[str, Any] = {}
    own = values.get("task", {})
    check_keys(f"{where}task", own)
    found["task"] = task if isinstance(task, Task) else task_from_dict(own, task, f"{where}task.")
    for key, value in values.items():
        if key not in hints:
            raise EquimuError(f"unknown key {where + key!r}: {nearest(key, hints)}")
        if key in ("size", "base"):
            check_keys(where + key, value)
            found[key] = Sizes({name: checked(f"{where}{key}.{name}", size, Size) for name, size in value.items()})
        elif key == "parameterization":
            found[key] = parameterization_from_dict(value) if isinstance(value, Mapping) else value
        elif key == "optimizer":
            check_keys(where + key, value)
            found[key] = optimizer_from_dict(value, f"{where}optimizer.")
        elif key != "task":
            found[key] = checked(where + key, value, hints[key])
    return RunConfig(**found)


def digest(value: Any) -> str:
    """A short hash of plain JSON types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
