"""Which keys a query may see by position, and between which positions such keys, or such queries, lie."""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

Tree = TypeVar("Tree")
Position = TypeVar("Position", int, Array)  # known before the program runs, or traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visibility:
    """A query at position p sees the keys at positions up to p (`causal`) and less than `window` away."""

    causal: bool
    window: int | None

    def mask(self, q: Int[Array, "..."], k: Int[Array, "..."]) -> Bool[Array, "..."]:
        """True where a query at position `q` may see a key at position `k`; the two broadcast."""
        seen = q >= k if self.causal else jnp.ones(jnp.broadcast_shapes(q.shape, k.shape), bool)
        if self.window is not None:
            seen &= jnp.abs(q - k) < self.window
        return seen

    def keys(self, first: Position, last: Position) -> tuple[Position | None, Position | None]:
        """The first and the last position that queries at `first` to `last` see; None: no bound."""
        reach = None if self.window is None else self.window - 1
        left = None if reach is None else first - reach
        right = last if self.causal else None if reach is None else last + reach
        return left, right

    def queries(self, first: Position, last: Position) -> tuple[Position | None, Position | None]:
        """The first and the last position from which keys at `first` to `last` are seen; None: no bound."""
        reach = None if self.window is None else self.window - 1
        left = first if self.causal else None if reach is None else first - reach
        right = None if reach is None else last + reach
        return left, right


def reached_only(
    tree: Tree, *, visibility: Visibility, q_offset: int | Array, seq_q: int, first: int | Array = 0, axis: int = -3
) -> Tree:
    """Keys and values with zeros where no query sees them by its position: hidden weights are 0, and 0 · NaN is NaN.

    `first` is the position of the first of them. A Python number as offset needs nothing: what it hides was cut off.
    """
    if isinstance(q_offset, int):
        return tree
    left, right = visibility.keys(q_offset, q_offset + seq_q - 1)

    def only(x: Array) -> Array:
        positions = first + jnp.arange(x.shape[axis])
        seen = jnp.ones(positions.shape, bool) if left is None else positions >= left
        seen = seen if right is None else seen & (positions <= right)
        return jnp.where(jnp.expand_dims(seen, tuple(range(axis + 1, 0))), x, 0)

    return jax.tree.map(only, tree)
