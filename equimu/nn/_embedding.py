"""Token embeddings, and the embedding that is also the unembedding."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._types import Key
from equimu._values import Size, check, check_key
from equimu.declarations import axes, register_axes
from equimu.sharding import TENSOR, own_positions, scatter_positions, tensor_parallel_size


class Embedding(eqx.Module):
    """A table of one row per token, drawn with variance 1."""

    weight: Float[Array, "vocab d_model"]
    vocab_size: int = eqx.field(static=True)

    def __init__(self, vocab_size: int, d_model: int, *, key: Key):
        """
        Args:
            vocab_size: number of rows.
            d_model: width of a row.
            key: random key.

        Raises:
            EquimuError: a size or key that cannot be.
        """
        check(Size, vocab_size=vocab_size, d_model=d_model)
        check_key("key", key)
        self.weight = jax.random.normal(key, (vocab_size, d_model))
        self.vocab_size = vocab_size

    def __call__(self, tokens: Int[Array, " seq"]) -> Float[Array, "own d_model"]:
        return _rows(self.weight, self.vocab_size, tokens)


class TiedEmbedding(eqx.Module):
    """One table read as embedding and, transposed, as unembedding.

    The two uses need two forward multipliers: the table carries the embedding's, and `readout_multiplier`, a scalar that is
    never trained, the unembedding's. It is 1/d_model at the start, as in Table 8 of TP-V, until a tree of rules sets it.
    `vocab_size`, `d_model` and `key` are those of `Embedding`.
    """

    weight: Float[Array, "vocab d_model"]
    readout_multiplier: Float[Array, ""]
    vocab_size: int = eqx.field(static=True)

    def __init__(self, vocab_size: int, d_model: int, *, key: Key):
        """See `Embedding`.

        Raises:
            EquimuError: a size or key that cannot be.
        """
        check(Size, vocab_size=vocab_size, d_model=d_model)
        check_key("key", key)
        self.weight = jax.random.normal(key, (vocab_size, d_model))
        self.readout_multiplier = jnp.asarray(1.0 / d_model)
        self.vocab_size = vocab_size

    def __call__(self, tokens: Int[Array, " seq"]) -> Float[Array, "own d_model"]:
        return _rows(self.weight, self.vocab_size, tokens)

    def unembed(self, x: Float[Array, "*seq d_model"], *, dtype: Any = None) -> Float[Array, "*seq share"]:
        """Scores of each token; `dtype` as in `Linear`."""
        scores = jnp.matmul(x, self.weight.T.astype(x.dtype), preferred_element_type=dtype)
        return scores * jax.lax.stop_gradient(self.readout_multiplier).astype(scores.dtype)


def _rows(
    table: Float[Array, "share d_model"], vocab_size: int, tokens: Int[Array, " seq"]
) -> Float[Array, "own d_model"]:
    """The tokens' rows; where devices share the work along `tensor`, those of the device's own positions."""
    n = tensor_parallel_size(table)
    if table.shape[0] == vocab_size:
        return table[own_positions(tokens, n)]
    # Each device has the rows of other tokens: it gives zeros for those that it has not.
    local = tokens - table.shape[0] * jax.lax.axis_index(TENSOR)
    known = (local >= 0) & (local < table.shape[0])
    return scatter_positions(jnp.where(known[:, None], table[jnp.where(known, local, 0)], 0))


register_axes(Embedding, weight=lambda embedding: axes("table", "out", split=(0, embedding.vocab_size)))
register_axes(
    TiedEmbedding,
    weight=lambda embedding: axes(
        "table", "out", tied=("out", "in"), tied_multiplier="readout_multiplier", split=(0, embedding.vocab_size)
    ),
    readout_multiplier=(),
)
