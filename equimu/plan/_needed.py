"""What the mathematics of a step needs, whatever program does it: operations of the matrix products and of attention."""

import math

from equimu._types import PyTree
from equimu.parameterization._leaves import Leaf, locate
from equimu.train import RunConfig


def parameter_count(params: PyTree) -> int:
    """Entries of all arrays of a model, or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in locate(params))


def matrix_entries(params: PyTree) -> int:
    """Entries of the arrays that each token is multiplied by: not of tables that it is looked up in, nor of vectors."""
    return sum(math.prod(leaf.shape) for leaf in locate(params) if _is_matrix(leaf))


def attention_flops(config: RunConfig) -> float:
    """Operations of the scores and of the sums of values, forward, of all layers over the batch; of what is seen only."""
    model, data = config.model, config.data
    seen = data.seq * (data.seq + 1) / 2
    return 4.0 * model.n_layer * model.width * seen * data.rows


def model_flops(config: RunConfig, params: PyTree) -> float:
    """Operations of a training step without recomputation: two an entry and token forward, four backward, and attention."""
    tokens = config.data.rows * config.data.seq
    return 6.0 * matrix_entries(params) * tokens + 3 * attention_flops(config)


def kernel_flops(name: str, forward: float) -> float:
    """Operations of one call of an attention kernel, of what is seen.

    Args:
        name: of the kernel. Forward it has two products; backward, where the scores are made again, three for the gradient of
            the queries and four for those of keys and values.
        forward: operations of the two products.
    """
    if "dkv" in name:
        return 2.0 * forward
    return 1.5 * forward if "dq" in name else forward


def _is_matrix(leaf: Leaf) -> bool:
    uses = () if leaf.axes is None else (leaf.axes.words, leaf.axes.tied or ())
    return any("in" in words and not {"out", "inner"}.isdisjoint(words) for words in uses)
