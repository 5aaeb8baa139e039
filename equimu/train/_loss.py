"""Next-token cross-entropy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy_sum(
    logits: Float[Array, "*batch seq vocab"],
    targets: Int[Array, "*batch seq"],
    mask: Float[Array, "*batch seq"],
) -> Float[Array, ""]:
    """The sum of -log p(target) over the positions where the mask is 1, in nats, in the logits' dtype.

    Args:
        logits: scores, float32 or better.
        targets: the right token of each position.
        mask: 1 where a target counts, else 0.
    """
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(mask * (jax.nn.logsumexp(logits, axis=-1) - picked))
