"""The next token, drawn from its logits."""

import dataclasses
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._types import Key
from equimu._values import NotNegative, Range, Size, check_fields, takes_ints


class Numbers(NamedTuple):
    """The numbers of a `Sampling` as inputs of a compiled program; None for what is not done at all."""

    temperature: Float[Array, ""] | None
    top_k: Int[Array, ""] | None
    top_p: Float[Array, ""] | None


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. First the logits are divided by the temperature, then tokens are left out.

    Raises:
        EquimuError: a number that cannot be.
    """

    temperature: NotNegative = 1.0
    """0 takes the most likely token (of several, that of the lowest id), and nothing is drawn."""
    top_k: Size | None = None
    """Only so many of the most likely tokens; of equal ones those of lower id."""
    top_p: Annotated[float, Range(above=0, most=1)] | None = None
    """Only the most likely tokens that together reach this probability, at least one: nucleus sampling (arXiv 1904.09751). With
    `top_k`, it is the probability among those."""

    def __post_init__(self) -> None:
        check_fields(self, "sampling.")

    @property
    def numbers(self) -> Numbers:
        """As inputs of a compiled program."""
        if self.temperature == 0:
            return Numbers(None, None, None)
        top_p = None if self.top_p in (None, 1.0) else jnp.float32(self.top_p)
        return Numbers(jnp.float32(self.temperature), None if self.top_k is None else jnp.int32(self.top_k), top_p)


def choose(logits: Float[Array, " vocab"], key: Key, numbers: Numbers) -> Int[Array, ""]:
    """A token by its logits.

    Args:
        logits: of all tokens.
        key: random key; another one for each token.
        numbers: of a `Sampling`.
    """
    if numbers.temperature is None:
        return jnp.argmax(logits).astype(jnp.int32)
    logits = logits / numbers.temperature
    if numbers.top_k is None and numbers.top_p is None:
        return jax.random.categorical(key, logits).astype(jnp.int32)
    order = jnp.argsort(-logits)
    logits = logits[order]
    if numbers.top_k is not None:
        logits = jnp.where(jnp.arange(logits.size) < numbers.top_k, logits, -jnp.inf)
    if numbers.top_p is not None:
        share = jax.nn.softmax(logits)
        logits = jnp.where(jnp.cumsum(share) - share < numbers.top_p, logits, -jnp.inf)
    return order[jax.random.categorical(key, logits)].astype(jnp.int32)
