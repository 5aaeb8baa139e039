"""The model of a run, from one of its checkpoints."""

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from equimu._errors import EquimuError, printable
from equimu._types import PyTree
from equimu._values import path_text
from equimu.files import expanded
from equimu.parameterization import to_json
from equimu.runs import CONFIG, RunConfig, WarmStart, config_from_dict, find_warm_start, is_of_source, refuse_inside_run
from equimu.sharding import make_mesh
from equimu.storage import Checkpoints, local_path
from equimu.tasks import LanguageModel, Task, task_to_dict
from equimu.training import Numbers, Program, TrainState, build_tree, program_for

_TOLD = 5  # runs that a message names


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Trained:
    """The state of a run at a step, on one device.

    - `folder`: of the run.
    - `step`: updates done.
    - `identity`: what the run is, in plain JSON types; see `equimu.runs.Run`.
    - `config`: of the run.
    - `program`, `numbers`, `leaves`: what its functions are, and what they take; see `equimu.training.Program`.
    """

    folder: Path
    step: int
    identity: Mapping[str, Any]
    config: RunConfig
    program: Program
    numbers: Numbers
    leaves: Sequence[Array]

    @functools.cached_property
    def evaluate(self) -> Callable[..., Mapping[str, tuple[Float[Array, ""], Float[Array, ""]]]]:
        """The compiled evaluation of a batch: (batch, row weights) → pairs of a sum and its weight, by name."""
        compiled = jax.jit(self.program.functions.evaluate)
        return lambda batch, weights: compiled(list(self.leaves), batch, weights, self.numbers)

    def __repr__(self) -> str:
        return f"Trained({self.folder.name[:12]}, {self.config.size}, step {self.step})"

    @property
    def state(self) -> TrainState:
        """Weights, optimizer state and buffers, as the checkpoint has them."""
        return self.program.state(self.leaves)

    @functools.cached_property
    def model(self) -> PyTree:
        """The model with its multipliers multiplied into its arrays, as `equimu.fold` does: to be called, not trained."""
        program = self.program

        def fold(leaves: Sequence[Array], numbers: Numbers) -> PyTree:
            state = program.state(leaves)
            return program.model(program.rules(numbers), state.params, state.buffers)

        return eqx.filter_jit(fold)(list(self.leaves), self.numbers)


def load(run: str | Path, task: type[Task] | Task | None = None, *, store: str | None = None) -> Trained:
    """The model of a run, from its newest checkpoint or another. Nothing is written.

    Args:
        run: the folder of a run, also of one that is still trained, or `RUN/checkpoints/step-N`.
        task: of the run, or its class, where it is not the language model.
        store: where its token store is; needed where that is not on this machine, as a run's folder may be anyone's.

    Returns:
        The state; its `model` is the model.

    Raises:
        EquimuError: there is no run, it has no checkpoint or a damaged one, or it is of another task.
    """
    source = _source(path_text("the run", run))
    folder = source.root.parent
    config = _with_store(_config(folder, source.saved, task), folder, store)
    if not is_of_source(folder, config.task):
        name = type(config.task).__name__
        message = (
            f"the source file of {name} has changed since {folder} was begun; its model is taken as the file is now"
        )
        print(f"equimu: {printable(message)}", file=sys.stderr, flush=True)
    rows = jax.tree.leaves(config.task.batch_like())[0].shape[0]
    tree = build_tree(config, rows)
    program, numbers = program_for(config, tree, make_mesh())
    wanted = {**source.saved, "rules": json.loads(to_json(tree))}
    restored = Checkpoints(source.root).restore(program.state(program.state_like), wanted, step=source.step)
    if restored is None:
        raise EquimuError(f"step-{source.step} is gone from {source.root}; the run goes on, try again")
    return Trained(
        folder=folder,
        step=restored.step,
        identity=source.saved,
        config=config,
        program=program,
        numbers=numbers,
        leaves=jax.tree.leaves(restored.arrays),
    )


def _source(run: str) -> WarmStart:
    """The checkpoint of a run, by its folder or its own."""
    place = expanded(run, "the run")
    folder = place.parent.parent if re.fullmatch(r"step-\d+", place.name) else place
    if not folder.exists():
        raise EquimuError(f"there is no {folder}; give the folder of a run, which `equimu train` prints")
    if not (folder / CONFIG).exists():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        if not inside:
            refuse_inside_run(place, str(place))
            raise EquimuError(f"{folder} is no run, it has no {CONFIG}; give the folder that `equimu train` prints")
        more = f" and {len(inside) - _TOLD} more" if len(inside) > _TOLD else ""
        raise EquimuError(f"{folder} is a folder of runs; name one of {', '.join(inside[:_TOLD])}{more}")
    return find_warm_start(run, what="")


def _config(folder: Path, identity: Mapping[str, Any], task: type[Task] | Task | None) -> RunConfig:
    try:
        own = identity["config"]["task"]
        name, module = own["name"], own.get("module")
    except (KeyError, TypeError):
        raise EquimuError(f"{folder / CONFIG} is not that of a run") from None
    if task is None and name != LanguageModel.__name__:
        file = f"{module}.py" if module else "my.py"
        raise EquimuError(f"{folder} is a run of the task {name!r}; name its class, too, e.g. {file}:{name}")
    if isinstance(task, type) and name != task.__name__:
        raise EquimuError(f"{folder} is a run of the task {name!r}, and not of {task.__name__}")
    if isinstance(task, Task) and own != task_to_dict(task):
        raise EquimuError(f"{folder} is a run of another task than the one that was given: {own}")
    return config_from_dict(identity["config"], task)


def _with_store(config: RunConfig, folder: Path, store: str | None) -> RunConfig:
    """The config with the token store where it is."""
    task = config.task
    if not isinstance(task, LanguageModel):
        if store is not None:
            raise EquimuError(f"a store is that of the language model's text, and {folder} is a run of another task")
        return config
    if store is None:
        if task.text.store is not None and local_path(task.text.store) is None:
            raise EquimuError(
                f"the run in {folder} has text.store={task.text.store!r}, which is not on this machine; give --store, too"
            )
        return config
    return dataclasses.replace(config, task=dataclasses.replace(task, text=dataclasses.replace(task.text, store=store)))
