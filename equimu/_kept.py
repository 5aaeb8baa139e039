"""What a block keeps for its backward pass on a GPU: results of matrix products and of attention, and not of the elementwise
operations that follow.

A normalised residual stream, say, is kept by default, as the gradient of the product after it needs it. To recompute it is one
read and one write, which XLA fuses with others of the backward pass.
"""

from typing import Any, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name

T = TypeVar("T")

_NAME = "kept"
_CHEAP = frozenset(
    "add add_any broadcast_in_dim concatenate convert_element_type cos custom_jvp_call div erf erfc exp exp2 expand_dims "
    "ge gt integer_pow iota jit le log logistic lt max min mul neg pow reshape rsqrt select_n sign sin slice sqrt square "
    "squeeze sub tanh transpose".split()
)


def kept(tree: T) -> T:
    """The same arrays, which `keeps` holds even if a cheap operation made them: where many of these follow each other."""
    return jax.tree.map(lambda x: checkpoint_name(x, _NAME), tree)


def keeps(primitive: Any, *_: Any, **params: Any) -> bool:
    """A policy of `jax.checkpoint`: whether the result of an operation is kept.

    Args:
        primitive: of the operation.
        params: its parameters.
    """
    return params.get("name") == _NAME if primitive.name == "name" else primitive.name not in _CHEAP
