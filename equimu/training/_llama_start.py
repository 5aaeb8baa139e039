"""The weights of a Llama as those of a run, whose multipliers are divided out of them."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from equimu._errors import EquimuError
from equimu.llama import LlamaCheckpoint, arrays_from_llama
from equimu.nn import Transformer
from equimu.parameterization import Tree, initialize, rules_of, scaled


def weights_from_llama(tree: Tree[Any], checkpoint: LlamaCheckpoint) -> Mapping[str, np.ndarray]:
    """The arrays of a run's model, by path, with which the scaled model has the logits of a Llama.

    Args:
        tree: of rules.
        checkpoint: the Llama.

    Raises:
        EquimuError: the model is another, or a multiplier is zero.
    """
    if not isinstance(tree, Transformer):
        raise EquimuError(f"restore_from=llama: fills a Transformer, and the run trains a {type(tree).__name__}")
    try:
        arrays = arrays_from_llama(tree, checkpoint.config, checkpoint.tensors, _readout_multiplier(tree))
    except EquimuError as error:
        raise EquimuError(f"restore_from: {error}") from None
    found: dict[str, np.ndarray] = {}
    for rule in rules_of(tree):
        if rule.path in arrays:
            if rule.multiplier == 0:
                raise EquimuError(f"restore_from: the table multiplies {rule.path} by 0, whatever is in it")
            found[rule.path] = arrays[rule.path] / np.float32(rule.multiplier)
    return found


def _readout_multiplier(tree: Any) -> float:
    """What a tied embedding is multiplied by as an unembedding, beside the embedding's own multiplier; else 1."""
    if tree.unembedding is not None:
        return 1.0
    # Compiled, nothing else is drawn.
    multiplier = eqx.filter_jit(lambda key: scaled(tree, initialize(tree, key)).embedding.readout_multiplier)
    return float(multiplier(jax.random.key(0)))
