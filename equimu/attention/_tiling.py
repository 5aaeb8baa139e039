"""How the matrix of scores is cut into tiles, and which of the tiles are seen at all."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from equimu.attention._visible import Visibility

# Measured on two CPU cores with float32 and head_dim 128: few large kernels beat many small ones, but a block on
# the diagonal is half wasted, and a tile should stay in the cache.
SMALLEST, LARGEST = 64, 512  # positions in a block
SCORES = 1 << 20  # in the tiles of all heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
    """Blocks of queries × blocks of keys; the last ones are padded."""

    visibility: Visibility
    seq_q: int
    seq_k: int
    block_q: int  # positions in a block of queries
    block_k: int

    @classmethod
    def of(cls, seq_q: int, seq_k: int, heads: int, visibility: Visibility) -> "Tiling":
        """Blocks near the size that measured best."""
        size = min(LARGEST, max(seq_q, seq_k) / 4, math.sqrt(SCORES / heads), visibility.window or LARGEST)
        size = max(SMALLEST, 2 ** round(math.log2(size)))
        return cls(
            visibility=visibility, seq_q=seq_q, seq_k=seq_k, block_q=_even(seq_q, size), block_k=_even(seq_k, size)
        )

    @property
    def blocks_q(self) -> int:
        """Blocks of queries."""
        return math.ceil(self.seq_q / self.block_q)

    @property
    def blocks_k(self) -> int:
        """Blocks of keys."""
        return math.ceil(self.seq_k / self.block_k)

    def keys(self, i: Any, q_offset: Any) -> tuple[Array, Array]:
        """The blocks of keys, from one up to before another, that block `i` of the queries may see."""
        first = q_offset + i * self.block_q
        left, right = self.visibility.keys(first, first + self.block_q - 1)
        return _blocks(left, right, self.seq_k, self.block_k)

    def queries(self, j: Any, q_offset: Any) -> tuple[Array, Array]:
        """The blocks of queries, from one up to before another, that may see block `j` of the keys."""
        first = j * self.block_k - q_offset
        left, right = self.visibility.queries(first, first + self.block_k - 1)
        return _blocks(left, right, self.seq_q, self.block_q)


def _even(seq: int, size: int) -> int:
    """Blocks of at most this size, even so that little is padded, but a multiple of the vector registers' width."""
    even = math.ceil(seq / math.ceil(seq / size))
    return min(seq, math.ceil(even / 16) * 16)


def _blocks(left: Array | None, right: Array | None, seq: int, block: int) -> tuple[Array, Array]:
    """The blocks that hold the positions `left` to `right`, as far as there are such."""
    begin = jnp.int32(0) if left is None else jnp.clip(left, 0, seq)
    end = jnp.int32(seq) if right is None else jnp.clip(right + 1, 0, seq)
    return begin // block, (end + block - 1) // block
