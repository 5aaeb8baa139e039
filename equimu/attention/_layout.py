"""Heads first: `(batch, seq, heads, ...)` as matrices, one for each key/value head of each sequence.

The query heads that share a key/value head become rows of one matrix, position by position: grouped heads are never
repeated, and a tile of scores is one matrix product.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Tree = TypeVar("Tree")


def to_heads(tree: Tree, kv_heads: int) -> Tree:
    """`(batch, seq, kv_heads * group, ...)` as `(batch * kv_heads, seq * group, ...)`."""

    def convert(x: Any) -> Array:
        batch, seq, heads, *rest = x.shape
        x = jnp.moveaxis(x.reshape(batch, seq, kv_heads, heads // kv_heads, *rest), 2, 1)
        return x.reshape(batch * kv_heads, -1, *rest)

    return jax.tree.map(convert, tree)


def from_heads(x: Array, batch: int, heads: int) -> Array:
    """The inverse of `to_heads`."""
    matrices, rows, *rest = x.shape
    kv_heads = matrices // batch
    group = heads // kv_heads
    x = jnp.moveaxis(x.reshape(batch, kv_heads, rows // group, group, *rest), 1, 2)
    return x.reshape(batch, rows // group, heads, *rest)


def whole_blocks(tree: Tree, size: int) -> Tree:
    """`(batch, seq, heads, ...)` with zeros at the end, where `seq` is not a multiple of the size of a block."""
    return jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (0, -x.shape[1] % size)] + [(0, 0)] * (x.ndim - 2)), tree)


def block(tree: Tree, i: Any, size: int, kv_heads: int) -> Tree:
    """Block `i` of `(batch, seq, heads, ...)`, heads first."""
    return to_heads(jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, i * size, size, axis=1), tree), kv_heads)


def put_block(tree: Tree, i: Any, blocks: Tree) -> Tree:
    """`(batch, seq, heads, ...)` with this block `i`, which is given heads first."""

    def put(x: Any, block_i: Any) -> Array:
        part = from_heads(block_i, x.shape[0], x.shape[2])
        return lax.dynamic_update_slice_in_dim(x, part, i * part.shape[1], axis=1)

    return jax.tree.map(put, tree, blocks)


def per_head(segments: Any, x: Any) -> Array | None:
    """The segments of `(batch, seq)`, repeated for each head of `x`."""
    return None if segments is None else jnp.broadcast_to(segments[..., None], x.shape[:-1])
