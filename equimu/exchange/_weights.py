"""The weights of a run's checkpoint, with their multipliers applied."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import ml_dtypes
import numpy as np

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu.parameterization import dotted, fold, from_json, is_rule
from equimu.runs import RunConfig, WarmStart, config_from_dict
from equimu.storage import Checkpoints
from equimu.tasks import LanguageModel, Task
from equimu.training import Programs, build_tree, program_for


class Weights(NamedTuple):
    """What a run has learnt.

    - `config`: of the run.
    - `tree`: its rules.
    - `arrays`: of its model by path, multipliers applied; the model's `eqx.nn.State` as `state[0]`, `state[1]` and so on.
    """

    config: RunConfig
    tree: PyTree
    arrays: dict[str, np.ndarray]


def read_weights(source: WarmStart, task: type[Task] | None) -> Weights:
    """The weights in a checkpoint.

    Args:
        source: the checkpoint.
        task: the class of the run's task; None for the library's own.

    Raises:
        EquimuError: the task is another, or the checkpoint is damaged.
    """
    try:
        values = source.saved["config"]
        name = str(values["task"]["name"])
    except (KeyError, TypeError):
        raise EquimuError(f"{source.root.parent}/config.json says nothing of a run") from None
    if name != (LanguageModel if task is None else task).__name__:
        given = "" if task is None else f", not {task.__name__}"
        raise EquimuError(f"the run is of the task {name}{given}; name it, e.g. --task my.py:{name}")
    config = config_from_dict(values, task)
    tree = build_tree(config, _rows(config))
    program, _ = program_for(config, tree, programs=Programs(most=1))
    like = program.state(program.state_like)
    restored = Checkpoints(source.root).restore(like, source.saved, step=source.step)
    if restored is None:
        raise EquimuError(f"step-{source.step} is gone from {source.root}")
    if "rules" in restored.manifest:  # those it was trained by, should this version make others
        tree = from_json(json.dumps(restored.manifest["rules"]), like=tree)
    state = restored.arrays
    static = jax.tree.map(lambda leaf: None if is_rule(leaf) else leaf, tree)
    model = fold(tree, eqx.combine(state.params, state.buffers, static))
    arrays = {dotted(path): _plain(leaf) for path, leaf in _named(model) if eqx.is_array(leaf)}
    own = jax.tree.leaves(state.state)
    return Weights(config, tree, arrays | {f"state[{i}]": _plain(leaf) for i, leaf in enumerate(own)})


def _named(model: PyTree) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(model)[0]


def _plain(leaf: Any) -> np.ndarray:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def _rows(config: RunConfig) -> int:
    """Rows of a batch, where rules depend on them."""
    if config.base_rows is None and config.base_steps is None:
        return 1
    return jax.tree.leaves(config.task.batch_like())[0].shape[0]


def folder_of(source: WarmStart) -> Path:
    """The folder of the run."""
    return source.root.parent
