"""Token embeddings, and the embedding that is also the unembedding."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._axes import axes, register_axes
from equimu._types import Key


class Embedding(eqx.Module):
    """A table of one row per token, drawn with variance 1."""

    weight: Float[Array, "vocab d_model"]

    def __init__(self, vocab_size: int, d_model: int, *, key: Key):
        """
        Args:
            vocab_size: number of rows.
            d_model: width of a row.
            key: random key.
        """
        self.weight = jax.random.normal(key, (vocab_size, d_model))

    def __call__(self, tokens: Int[Array, " seq"]) -> Float[Array, "seq d_model"]:
        return self.weight[tokens]


class TiedEmbedding(eqx.Module):
    """One table read as embedding and, transposed, as unembedding.

    The two uses need two forward multipliers: the table carries the embedding's, and `readout_multiplier`, a scalar that is
    never trained, the unembedding's. It is 1/d_model at the start, as in Table 8 of TP-V, until a tree of rules sets it.
    """

    weight: Float[Array, "vocab d_model"]
    readout_multiplier: Float[Array, ""]

    def __init__(self, vocab_size: int, d_model: int, *, key: Key):
        """See `Embedding`."""
        self.weight = jax.random.normal(key, (vocab_size, d_model))
        self.readout_multiplier = jnp.asarray(1.0 / d_model)

    def __call__(self, tokens: Int[Array, " seq"]) -> Float[Array, "seq d_model"]:
        return self.weight[tokens]

    def unembed(self, x: Float[Array, "seq d_model"], *, dtype: Any = None) -> Float[Array, "seq vocab"]:
        """Scores of each token; `dtype` as in `Linear`."""
        scores = jnp.matmul(x, self.weight.T.astype(x.dtype), preferred_element_type=dtype)
        return scores * jax.lax.stop_gradient(self.readout_multiplier).astype(scores.dtype)


register_axes(Embedding, weight=("table", "out"))
register_axes(
    TiedEmbedding,
    weight=axes("table", "out", tied=("out", "in"), tied_multiplier="readout_multiplier"),
    readout_multiplier=(),
)
