"""The formulas of one tile of scores: some queries by some keys, in every head.

Matrices are `(heads, rows, head_dim)`, vectors over the queries `(heads, queries)`. The formulas of the backward pass
hold for a tile in either orientation, queries by keys or keys by queries: vectors over the queries are given to them as
a column or as a row. (Of a tile's two products with its transpose, each orientation saves one. That matters: a
transposed left operand costs XLA on the CPU half of its speed.)
"""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

Tree = TypeVar("Tree")
Seen = Bool[Array, "#heads #rows #columns"] | None  # None: all of the tile is seen


class Sums(NamedTuple):
    """What a block of queries has gathered from the keys that it met."""

    top: Float[Array, "heads queries"]  # the largest score
    total: Float[Array, "heads queries"]  # Σ exp(scale · (score - top))
    out: Float[Array, "heads queries head_dim"]  # the same sum, weighted with the values

    @classmethod
    def init(cls, shape: tuple[int, ...], dtype: jnp.dtype) -> "Sums":
        """Before the first key. The largest score starts lowest but finite, since differences with it are taken."""
        zeros = jnp.zeros(shape[:2], dtype)
        return cls(zeros + jnp.finfo(dtype).min, zeros, jnp.zeros(shape, dtype))

    def divisor(self) -> Float[Array, "heads queries"]:
        """The total, but 1 for a query that sees nothing, whose sums are 0."""
        return jnp.where(self.total > 0, self.total, 1)


def online_softmax_update(sums: Sums, scale: Any, q: Any, k: Any, v: Any, seen: Seen) -> tuple[Sums, Array]:
    """The sums with further keys in them, and `exp(scale · (score - top))` of the tile. The scale is positive."""
    s = dot(q, k, transpose=True)
    visible = s if seen is None else jnp.where(seen, s, jnp.finfo(s.dtype).min)
    top = jnp.maximum(sums.top, jnp.max(visible, axis=2))
    p = _mask(jnp.exp(scale * (s - column(top))), seen)
    shrink = jnp.exp(scale * (sums.top - top))
    total = shrink * sums.total + jnp.sum(p, axis=2)
    out = column(shrink) * sums.out + dot(p.astype(v.dtype), v)
    return Sums(top, total, out), p


def weights(scale: Any, rows: Any, columns: Any, lse: Any, seen: Seen) -> Array:
    """The attention weights between queries and keys, made again from `lse`."""
    return _mask(jnp.exp(scale * dot(rows, columns, transpose=True) - lse), seen)


def score_gradients(p: Any, rows: Any, columns: Any, delta: Any) -> Array:
    """The gradient of the scaled scores, from the weights, the gradient of the output and the values."""
    return (p * (dot(rows, columns, transpose=True) - delta)).astype(rows.dtype)


def dot(a: Any, b: Any, *, transpose: bool = False) -> Array:
    """`a b` or `a bᵀ` for each head, summed in float32 or better."""
    axes = (((2,), (2 if transpose else 1,)), ((0,), (0,)))
    return lax.dot_general(a, b, axes, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def transposed(tree: Tree) -> Tree:
    """Transposed copies. Without the barrier XLA would move the transpose back into the product that reads it."""
    return lax.optimization_barrier(jax.tree.map(jnp.matrix_transpose, tree))


def column(x: Array) -> Array:
    """A vector over the queries for a tile that is queries by keys."""
    return x[..., :, None]


def row(x: Array) -> Array:
    """A vector over the queries for a tile that is keys by queries."""
    return x[..., None, :]


def _mask(p: Array, seen: Seen) -> Array:
    return p if seen is None else jnp.where(seen, p, 0)
