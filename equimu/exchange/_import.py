"""The config of a run that begins from the weights of another library."""

import dataclasses
import os
from pathlib import Path

from equimu.files import local_folder
from equimu.llama import check_llama
from equimu.optim import AdamW
from equimu.runs import LLAMA, RunConfig, Sizes
from equimu.tasks import LanguageModel, ModelConfig, TextConfig

_LEARNING_RATE = 2.0**-15  # that of a fresh model would undo what was learned


def run_from_llama(folder: str | Path) -> RunConfig:
    """A run that begins from a checkpoint of Hugging Face's `LlamaForCausalLM`; its weights are found whole, but not read.

    The learning rate is one of fine-tuning, and rows are no longer than those of the checkpoint. All else that it does not say
    is at its default: text (but for the tokenizer, where the folder has a `tokenizer.json`), steps. The base has the sizes of
    the checkpoint, so that learning rates are used as they are given.

    Args:
        folder: with `config.json`, and `model.safetensors` or shards and their index.

    Raises:
        EquimuError: there is no such file, it is of a model that equimu does not read, or its weights are not whole.
    """
    place = local_folder(folder, "the folder of a llama").absolute()
    llama = check_llama(place)
    fields = llama.model_fields()
    size = Sizes({name.removeprefix("size."): value for name, value in fields.items() if name.startswith("size.")})
    model = {name.removeprefix("model."): value for name, value in fields.items() if name.startswith("model.")}
    tokenizer = place / "tokenizer.json"
    text = TextConfig(seq=min(TextConfig.seq, llama.max_position_embeddings))
    if os.path.lexists(tokenizer):
        text = dataclasses.replace(text, tokenizer=str(tokenizer))
    task = LanguageModel(model=ModelConfig(**model, norm_gain="vector"), text=text)
    optimizer = AdamW(learning_rate=_LEARNING_RATE)
    return RunConfig(task=task, size=size, base=size, optimizer=optimizer, restore_from=f"{LLAMA}{place}")
