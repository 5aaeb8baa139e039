"""How nonlinear training is in the weights of one part of a model: what tells CompleteP's alpha of 1/2 from that of 1."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from equimu._types import PyTree


def linearization_error(before: PyTree, after: PyTree, *args: Any) -> Float[Array, ""]:
    """By how much the output of a module changed otherwise than its linearization in its arrays says, relative to the change.

    Near 0 the module learnt lazily, as its tangent at the start would; of order 1 its features changed. Of one block of a
    residual network over the depth L it falls as L^(alpha−1), the size of the relative change of its weights: as L^-1/2 under
    depth-μP and not at all under CompleteP with alpha 1 (arXiv 2505.01618, complete feature learning), where coordinate checks
    see no difference. The blocks must be taken one by one, at the same input: their joint effect is nonlinear in both.

    Args:
        before, after: the module, with its multipliers applied, before training and after it.
        *args: what it is called with.

    Returns:
        Root mean square of what the linearization misses, over that of the change; 0 where nothing changed.
    """
    start, static = eqx.partition(before, eqx.is_inexact_array)
    end, _ = eqx.partition(after, eqx.is_inexact_array)

    def call(arrays: PyTree) -> Array:
        return eqx.combine(arrays, static)(*args)

    output, linear = jax.jvp(call, (start,), (jax.tree.map(jnp.subtract, end, start),))
    change = call(end) - output
    missed, whole = jnp.mean((change - linear) ** 2), jnp.mean(change**2)
    return jnp.where(missed == 0, 0.0, jnp.sqrt(missed / whole))
