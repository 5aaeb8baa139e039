"""`export`: what a run has learnt as plain weights, in a folder that other libraries read."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import ml_dtypes
import numpy as np

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu.data import tokenizer_from_name
from equimu.files import expanded, local_folder, read_regular, write_inside
from equimu.llama import arrays_to_llama, encode_tensors, llama_config_of, reason_against_llama
from equimu.parameterization import dotted
from equimu.tasks import LanguageModel, Task
from equimu.trained import Trained, load

_FORMAT = 1


class Exported(NamedTuple):
    """An export.

    - `folder`: that was written.
    - `step`: of the checkpoint.
    - `no_llama`: why it is not a checkpoint of `LlamaForCausalLM`, as the words after the model's name; None if it is one.
    """

    folder: Path
    step: int
    no_llama: str | None


def export(
    run: str | Path, out: str | Path, *, task: type[Task] | Task | None = None, store: str | None = None
) -> Exported:
    """Writes the weights of a run's checkpoint, with the multipliers of its rules multiplied in: a plain model needs no rules.

    A language model with RMSNorm, SwiGLU and rotary embedding, without biases and other norms, becomes a checkpoint of
    Hugging Face's `LlamaForCausalLM` in float32, whose logits are those of the run's model in float32, to rounding. Any other
    model becomes a safetensors file of its arrays by their paths, with a `config.json` of ours.

    Args:
        run: folder of a run (its newest checkpoint is taken), or one of its `checkpoints/step-N`.
        out: folder to make. It is there whole or not at all.
        task, store: as of `equimu.trained.load`.

    Raises:
        EquimuError: there is no checkpoint, it is damaged, the run's task is another, the folder is there already or cannot
            be made, or safetensors is not installed.

    Example:
        >>> export("runs/0f3a9c", "exported")
    """
    folder = local_folder(out, "--out")
    if os.path.lexists(folder):
        raise EquimuError(f"{folder} is there already; choose another --out, or move it away")
    trained = load(run, task, store=store)
    model, own = trained.model, trained.config.task
    reason = reason_against_llama(model) if isinstance(own, LanguageModel) else f"its task is {type(own).__name__}"
    _write_folder(folder, _llama_files(trained) if reason is None else _own_files(trained))
    return Exported(folder, trained.step, reason)


def _llama_files(trained: Trained) -> Iterator[tuple[str, bytes]]:
    task = trained.config.task
    assert isinstance(task, LanguageModel)
    tokenizer = tokenizer_from_name(task.text.tokenizer)
    described = {
        **llama_config_of(trained.model).to_dict(),
        "max_position_embeddings": task.text.seq,
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eod,
        "equimu": _where(trained),
    }
    yield "config.json", _json(described)
    yield from encode_tensors(arrays_to_llama(trained.model, _arrays(trained.model)))
    yield from _tokenizer_files(task)


def _own_files(trained: Trained) -> Iterator[tuple[str, bytes]]:
    described = {
        "model_type": "equimu",
        "format": _FORMAT,
        "equimu": _where(trained),
        "run": dict(trained.identity),
    }
    yield "config.json", _json(described)
    buffers = {f"state[{i}]": _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(trained.state.state))}
    yield from encode_tensors(_arrays(trained.model) | buffers)
    if isinstance(trained.config.task, LanguageModel):
        yield from _tokenizer_files(trained.config.task)


def _where(trained: Trained) -> dict[str, Any]:
    return {"run": trained.folder.name, "step": trained.step}


def _arrays(model: PyTree) -> dict[str, np.ndarray]:
    """The arrays of a model by path."""
    named = jax.tree_util.tree_flatten_with_path(model)[0]
    return {dotted(path): _plain(leaf) for path, leaf in named if eqx.is_array(leaf)}


def _plain(leaf: Any) -> np.ndarray:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def _tokenizer_files(task: LanguageModel) -> Iterator[tuple[str, bytes]]:
    if task.text.tokenizer != "bytes":
        yield "tokenizer.json", read_regular(expanded(task.text.tokenizer, "the tokenizer"))
        yield "tokenizer_config.json", _json({"tokenizer_class": "PreTrainedTokenizerFast"})


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=1).encode() + b"\n"


def _write_folder(folder: Path, files: Iterator[tuple[str, bytes]]) -> None:
    """Makes a folder of these files, whole or not at all."""
    draft = folder.with_name(f"{folder.name}.tmp")
    if os.path.lexists(draft):
        raise EquimuError(
            f"{draft} is there, of an export that was killed or goes on; remove it, or choose another --out"
        )
    above = [path for path in folder.parents if not path.exists()]
    try:
        draft.mkdir(parents=True)
        for name, content in files:
            write_inside(draft, name, content)
        os.rename(draft, folder)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        for path in above:
            with contextlib.suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError):
            raise EquimuError(
                f"cannot write {error.filename or folder}: {error.strerror}; choose another --out"
            ) from None
        raise
