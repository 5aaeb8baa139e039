"""A folder that Hugging Face's `LlamaForCausalLM` was saved in."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from equimu._errors import EquimuError
from equimu._json import loads
from equimu.files import read_inside
from equimu.llama._config import LlamaConfig, llama_config_from_dict
from equimu.llama._safetensors import read_shapes, read_tensors

_WHOLE = "give the whole folder that LlamaForCausalLM.save_pretrained wrote"


class LlamaCheckpoint(NamedTuple):
    """A Llama as it was saved.

    - `config`: its sizes and constants.
    - `tensors`: its arrays, in float32, by Hugging Face's names.
    - `digest`: a hash of its files of arrays.
    """

    config: LlamaConfig
    tensors: Mapping[str, np.ndarray]
    digest: str


def read_config(folder: Path) -> LlamaConfig:
    """What the `config.json` of a folder says.

    Raises:
        EquimuError: there is none, or it is of a model that equimu does not read.
    """
    try:
        values = loads(read_inside(folder, "config.json"))
        if not isinstance(values, dict):
            raise ValueError
    except OSError as error:
        raise EquimuError(f"cannot read {folder / 'config.json'}: {error.strerror}; {_WHOLE}") from None
    except ValueError:
        raise EquimuError(f"{folder / 'config.json'} is not a JSON object; {_WHOLE}") from None
    try:
        return llama_config_from_dict(values)
    except EquimuError as error:
        raise EquimuError(f"{folder}: {error}") from None


def read_llama(folder: Path) -> LlamaCheckpoint:
    """The checkpoint in a folder.

    Raises:
        EquimuError: it is none, of another architecture, or arrays are missing, of other shapes or too many.
    """
    config = read_config(folder)
    tensors, digest = read_tensors(folder)
    _check_shapes(folder, config, {name: array.shape for name, array in tensors.items()})
    return LlamaCheckpoint(config, {name: tensors[name].astype(np.float32) for name in config.shapes()}, digest)


def check_llama(folder: Path) -> LlamaConfig:
    """What the `config.json` of a folder says, whose weights are found to be there, whole and of these sizes, but not read.

    Raises:
        EquimuError: as `read_llama`.
    """
    config = read_config(folder)
    _check_shapes(folder, config, read_shapes(folder))
    return config


def _check_shapes(folder: Path, config: LlamaConfig, found: Mapping[str, tuple[int, ...]]) -> None:
    expected = config.shapes()
    for name, shape in expected.items():
        if name not in found:
            raise EquimuError(f"{folder} has no array {name}, which should have shape {list(shape)}; {_WHOLE}")
        if found[name] != shape:
            raise EquimuError(
                f"{folder}: {name} has shape {list(found[name])}, and by its config.json should have {list(shape)}; {_WHOLE}"
            )
    # Old checkpoints hold the frequencies of the rotary embedding, and some a tied array twice.
    tied = ("lm_head.weight",) if config.tie_word_embeddings else ()
    more = sorted(name for name in found if name not in (*expected, *tied) and not name.endswith("rotary_emb.inv_freq"))
    if more:
        raise EquimuError(f"{folder} has an array {more[0]}, which a llama has not ({len(more)} such); {_WHOLE}")
