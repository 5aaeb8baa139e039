"""Heads first: `(batch, seq, heads, ...)` as matrices, one for each key/value head of each sequence.

The query heads that share a key/value head become rows of one matrix, position by position: grouped heads are never
repeated, and a tile of scores is one matrix product.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

Tree = TypeVar("Tree")


def to_heads(tree: Tree, kv_heads: int) -> Tree:
    """`(batch, seq, kv_heads * group, ...)` as `(batch * kv_heads, seq * group, ...)`."""

    def convert(x: Any) -> Array:
        batch, seq, heads, *rest = x.shape
        x = jnp.moveaxis(x.reshape(batch, seq, kv_heads, heads // kv_heads, *rest), 2, 1)
        return x.reshape(batch * kv_heads, -1, *rest)

    return jax.tree.map(convert, tree)


def from_heads(x: Array, batch: int, seq: int) -> Array:
    """The inverse of `to_heads`."""
    kv_heads, group = x.shape[0] // batch, x.shape[1] // seq
    x = jnp.moveaxis(x.reshape(batch, kv_heads, seq, group, *x.shape[2:]), 1, 2)
    return x.reshape(batch, seq, kv_heads * group, *x.shape[4:])


def to_blocks(tree: Tree, kv_heads: int, block: int) -> Tree:
    """`(batch, seq, ...)`, padded with zeros, as `(blocks, batch * kv_heads, block * group, ...)`."""

    def convert(x: Any) -> Array:
        x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % block), *[(0, 0)] * (x.ndim - 2)])
        blocks, x = x.shape[1] // block, to_heads(x, kv_heads)
        return jnp.moveaxis(x.reshape(x.shape[0], blocks, -1, *x.shape[2:]), 1, 0)

    return jax.tree.map(convert, tree)


def from_blocks(x: Array, batch: int, seq: int, block: int) -> Array:
    """The inverse of `to_blocks`."""
    blocks, matrices = x.shape[:2]
    x = jnp.moveaxis(x, 0, 1).reshape(matrices, -1, *x.shape[3:])
    return from_heads(x, batch, blocks * block)[:, :seq]


def per_head(segments: Any, x: Any) -> Array | None:
    """The segments of `(batch, seq)`, repeated for each head of `x`."""
    return None if segments is None else jnp.broadcast_to(segments[..., None], x.shape[:-1])
