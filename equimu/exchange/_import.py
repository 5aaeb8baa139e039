"""The config of a run that begins from the weights of another library."""

import os
from pathlib import Path

from equimu.files import local_folder
from equimu.llama import read_config
from equimu.runs import LLAMA, RunConfig, Sizes
from equimu.tasks import LanguageModel, ModelConfig, TextConfig


def run_from_llama(folder: str | Path) -> RunConfig:
    """A run that begins from a checkpoint of Hugging Face's `LlamaForCausalLM`; nothing but its `config.json` is read.

    All that the checkpoint does not say is at its default: text (but for the tokenizer, where the folder has a
    `tokenizer.json`), optimizer, steps. The base has the sizes of the checkpoint, so that learning rates are used as they are
    given.

    Args:
        folder: with `config.json`, and `model.safetensors` or shards and their index.

    Raises:
        EquimuError: there is no such file, or it is of a model that equimu does not read.
    """
    place = local_folder(folder, "the folder of a llama").absolute()
    fields = read_config(place).model_fields()
    size = Sizes({name.removeprefix("size."): value for name, value in fields.items() if name.startswith("size.")})
    model = {name.removeprefix("model."): value for name, value in fields.items() if name.startswith("model.")}
    tokenizer = place / "tokenizer.json"
    text = TextConfig(tokenizer=str(tokenizer)) if os.path.lexists(tokenizer) else TextConfig()
    task = LanguageModel(model=ModelConfig(**model, norm_gain="vector"), text=text)
    return RunConfig(task=task, size=size, base=size, restore_from=f"{LLAMA}{place}")
