"""`export`: what a run has learnt as plain weights, in a folder that other libraries read."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from equimu._errors import EquimuError
from equimu._values import path_text
from equimu.data import tokenizer_from_name
from equimu.exchange._weights import Weights, folder_of, read_weights
from equimu.files import expanded, local_folder, read_regular, write_inside
from equimu.llama import arrays_to_llama, encode_tensors, llama_config_of, reason_against_llama
from equimu.runs import RunConfig, find_warm_start
from equimu.tasks import LanguageModel, Task

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


def export(run: str | Path, out: str | Path, *, task: type[Task] | None = None) -> Exported:
    """Writes the weights of a run's checkpoint, with the multipliers of its rules multiplied in: a plain model needs no rules.

    A language model with RMSNorm, SwiGLU and rotary embedding, without biases and other norms, becomes a checkpoint of
    Hugging Face's `LlamaForCausalLM` in float32, whose logits are those of the run's model in float32, to rounding. Any other
    model becomes a safetensors file of its arrays by their paths, with a `config.json` of ours.

    Args:
        run: folder of a run (its newest checkpoint is taken), or one of its `checkpoints/step-N`.
        out: folder to make. It is there whole or not at all.
        task: the class of the run's task, where it is not `LanguageModel`.

    Raises:
        EquimuError: there is no checkpoint, it is damaged, the run's task is another, the folder is there already or cannot
            be made, or safetensors is not installed.

    Example:
        >>> export("runs/0f3a9c", "exported")
    """
    folder = local_folder(out, "--out")
    if os.path.lexists(folder):
        raise EquimuError(f"{folder} is there already; choose another --out, or move it away")
    source = find_warm_start(path_text("the run", run), "the run ")
    weights = read_weights(source, task)
    if isinstance(weights.config.task, LanguageModel):
        reason = reason_against_llama(weights.tree)
    else:
        reason = f"its task is {type(weights.config.task).__name__}"
    where = {"run": folder_of(source).name, "step": source.step}
    _write_folder(folder, _llama_files(weights, where) if reason is None else _own_files(weights, source.saved, where))
    return Exported(folder, source.step, reason)


def _llama_files(weights: Weights, where: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    config = weights.config
    assert isinstance(config.task, LanguageModel)
    tokenizer = tokenizer_from_name(config.task.text.tokenizer)
    described = {
        **llama_config_of(weights.tree).to_dict(),
        "max_position_embeddings": config.task.text.seq,
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eod,
        "equimu": where,
    }
    yield "config.json", _json(described)
    yield from encode_tensors(arrays_to_llama(weights.tree, weights.arrays))
    yield from _tokenizer_files(config)


def _tokenizer_files(config: RunConfig) -> Iterator[tuple[str, bytes]]:
    name = getattr(getattr(config.task, "text", None), "tokenizer", "bytes")
    if name != "bytes":
        yield "tokenizer.json", read_regular(expanded(name, "the tokenizer"))
        yield "tokenizer_config.json", _json({"tokenizer_class": "PreTrainedTokenizerFast"})


def _own_files(weights: Weights, saved: Any, where: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    yield "config.json", _json({"model_type": "equimu", "format": _FORMAT, "equimu": where, "run": dict(saved)})
    yield from encode_tensors(weights.arrays)
    if isinstance(weights.config.task, LanguageModel):
        yield from _tokenizer_files(weights.config)


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
