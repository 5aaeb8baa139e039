"""The one glossary of the words in shape annotations, and the array types that several layers share.

| word | meaning |
|---|---|
| `batch` | sequences a step |
| `seq` | positions of a sequence (`seq_q`, `seq_k` where queries and keys differ) |
| `d_model` | width of the residual stream |
| `d_ff` | width of the MLP's hidden layer |
| `heads`, `kv_heads` | query heads; key/value heads (divides `heads`) |
| `head_dim` | width of one head |
| `vocab` | number of token ids |
| `layers` | blocks in the stack |
"""

from typing import Any, TypeAlias

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from equimu._values import Real

Scalar: TypeAlias = Real | Float[Array, ""]
Key: TypeAlias = PRNGKeyArray
PyTree: TypeAlias = Any


def is_array_or_shape(x: Any) -> bool:
    """Whether a leaf is an array or stands for one."""
    return eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)
