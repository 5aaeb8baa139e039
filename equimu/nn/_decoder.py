"""A transformer that goes on with a sequence, token by token, without reading again what it has read."""

import operator
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._values import Size, check
from equimu.nn._cache import KeyValues
from equimu.nn._transformer import Block, Transformer

Cache: TypeAlias = tuple[KeyValues, ...]
"""One for each layer."""


class Decoder(eqx.Module):
    """A `Transformer` for decoding, on one device. Unbatched, as the transformer is.

    Its blocks are taken out of their stack: in a loop over tokens each step of a scan over the stack would copy the weights of
    its block, which take longer to copy than to multiply by one token.

    Example:
        >>> decoder = Decoder(model)
        >>> features, cache = decoder.extend(prompt, decoder.empty_cache(512), 0)
        >>> token = jnp.argmax(decoder.unembed(features[-1]))
        >>> features, cache = decoder.extend(token[None], cache, len(prompt))
    """

    blocks: tuple[Block, ...]
    ends: Transformer

    def __init__(self, model: Transformer):
        """
        Args:
            model: with its multipliers applied; see `equimu.scaled`.
        """
        arrays, static = eqx.partition(model.blocks, eqx.is_array)
        layers = jax.tree.leaves(arrays)[0].shape[0]
        each = (jax.tree.map(operator.itemgetter(layer), arrays) for layer in range(layers))
        self.blocks = tuple(eqx.combine(own, static) for own in each)
        self.ends = eqx.tree_at(lambda model: model.blocks, model, None)

    def empty_cache(self, room: int) -> Cache:
        """The cache of a sequence that has not begun.

        Args:
            room: positions that it can hold.

        Raises:
            EquimuError: `room` is below 1.
        """
        check(Size, room=room)
        attention = self.blocks[0].attention
        dtype = self.ends.embedding.weight.dtype if self.ends.dtype is None else self.ends.dtype
        zeros = jnp.zeros((room, attention.n_kv_head, attention.head_dim), dtype)
        return (KeyValues(zeros, zeros),) * len(self.blocks)

    def extend(
        self, tokens: Int[Array, " seq"], cache: Cache, length: int | Int[Array, ""]
    ) -> tuple[Float[Array, "seq d_model"], Cache]:
        """The features of tokens that follow others, as `Transformer.features` of all of them gives them.

        The same call reads a prompt, after 0 others, and each token that is drawn. A row of a batch may be filled up behind its
        end: what is read there is overwritten by the tokens that follow, and none of them sees it.

        Args:
            tokens: that follow.
            cache: of the tokens before them, with room for these.
            length: how many tokens are before them. For rows of different lengths, `jax.vmap` over the batch.

        Returns:
            The features, and the cache with these tokens.
        """
        x = self.ends.embed(tokens)
        layers: list[KeyValues] = []
        for block, own in zip(self.blocks, cache, strict=True):
            x, own = block.extend(x, own, length)
            layers.append(own)
        return self.ends.norm(x), tuple(layers)

    def unembed(self, x: Float[Array, "*seq d_model"]) -> Float[Array, "*seq vocab"]:
        """Logits of each token, float32 or better, from features."""
        return self.ends.unembed(x)
