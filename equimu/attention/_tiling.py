"""How the matrix of scores is cut into tiles, and which of the tiles are seen at all, or seen by all."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from equimu.attention._visible import Visibility, reached_only

Tree = TypeVar("Tree")

# Measured on two CPU cores with float32 and head_dim 128: few large kernels beat many small ones, but a block on
# the diagonal is half wasted, and a tile should stay in the cache.
SMALLEST, LARGEST = 64, 512  # positions in a block
SCORES = 1 << 20  # in the tiles of all heads
SHORT, STRIP = 512, 128  # positions: the longest sequence that is cut into strips, and the queries of one
KEPT = 3 << 20  # scores of the whole batch: as many as the strips may keep


class Strip(NamedTuple):
    """Some queries, and all keys from the first to the last that any of them sees: positions in their sequences."""

    queries: slice
    keys: slice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strips:
    """Strips of a short sequence, each as wide as what its queries see."""

    visibility: Visibility
    seq_q: int
    seq_k: int
    q_offset: int
    size: int  # queries in a strip

    @classmethod
    def of(cls, *, seq_q: int, seq_k: int, q_offset: int, visibility: Visibility) -> "Strips":
        """Strips of nearly equal height."""
        size = _even(seq_q, STRIP)
        return cls(visibility=visibility, seq_q=seq_q, seq_k=seq_k, q_offset=q_offset, size=size)

    @property
    def tile(self) -> int:
        """The scores of one head in the largest tile."""
        return self.size * self.seq_k

    def __iter__(self) -> Iterator[Strip]:
        return self._cut(slice(0, self.seq_q), self.size)

    def halves(self, strip: Strip) -> Iterator[Strip]:
        """A strip in two, the first narrower where queries see no more than what is after them."""
        return self._cut(strip.queries, math.ceil(self.size / 2))

    def _cut(self, all_queries: slice, size: int) -> Iterator[Strip]:
        for start in range(all_queries.start, all_queries.stop, size):
            queries = slice(start, min(start + size, all_queries.stop))
            left, right = self.visibility.keys(self.q_offset + start, self.q_offset + queries.stop - 1)
            begin = 0 if left is None else min(max(left, 0), self.seq_k - 1)
            end = self.seq_k if right is None else min(right + 1, self.seq_k)
            yield Strip(queries, slice(begin, max(end, begin + 1)))  # one key at least: an empty one has no maximum


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
    """Blocks of queries × blocks of keys; the last ones are padded."""

    visibility: Visibility
    seq_q: int
    seq_k: int
    block_q: int  # positions in a block of queries
    block_k: int
    offset_traced: bool = False

    @classmethod
    def of(cls, *, seq_q: int, seq_k: int, heads: int, visibility: Visibility, offset_traced: bool = False) -> "Tiling":
        """Blocks near the size that measured best."""
        size = min(LARGEST, max(seq_q, seq_k) / 4, math.sqrt(SCORES / heads), visibility.window or LARGEST)
        size = max(SMALLEST, 2 ** round(math.log2(size)))
        return cls(
            visibility=visibility,
            seq_q=seq_q,
            seq_k=seq_k,
            block_q=_even(seq_q, size),
            block_k=_even(seq_k, size),
            offset_traced=offset_traced,
        )

    @property
    def tile(self) -> int:
        """The scores of one head in a tile."""
        return self.block_q * self.block_k

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
        begin, end = _within(left, right, self.seq_k)
        return begin // self.block_k, -(-end // self.block_k)

    def clear_keys(self, i: Any, q_offset: Any) -> tuple[Array, Array]:
        """The blocks of keys that every query of block `i` sees wholly: none, or among those that it may see."""
        first = q_offset + i * self.block_q
        # Bounds of what all of them see: where the last one begins to see, up to where the first one ceases to.
        left, right = self.visibility.keys(first + self.block_q - 1, first)
        begin, end = _within(left, right, self.seq_k)
        begin = -(-begin // self.block_k)
        return begin, jnp.maximum(begin, end // self.block_k)

    def queries(self, j: Any, q_offset: Any) -> tuple[Array, Array]:
        """The blocks of queries, from one up to before another, that may see block `j` of the keys."""
        first = j * self.block_k - q_offset
        left, right = self.visibility.queries(first, first + self.block_k - 1)
        begin, end = _within(left, right, self.seq_q)
        return begin // self.block_q, -(-end // self.block_q)

    def reached_only(self, tree: Tree, j: Any, q_offset: Any) -> Tree:
        """Block `j` of the keys, heads first, with zeros where no query sees it by position, whatever is there."""
        offset = q_offset if self.offset_traced else 0
        first = j * self.block_k
        return reached_only(tree, visibility=self.visibility, q_offset=offset, seq_q=self.seq_q, first=first, axis=-2)

    def mask(self, i: Any, j: Any, q_offset: Any, group: int) -> Bool[Array, "queries keys"]:
        """Which keys of block `j` the queries of block `i` may see, for each query head of a group."""
        q = q_offset + i * self.block_q + np.repeat(np.arange(self.block_q, dtype=np.int32), group)[:, None]
        k = j * self.block_k + np.arange(self.block_k, dtype=np.int32)
        seen = self.visibility.mask(q, k)
        return seen & (k < self.seq_k) if self.seq_k % self.block_k else seen


def _even(seq: int, size: int) -> int:
    """Blocks of at most this size, even so that little is padded, but a multiple of the vector registers' width."""
    even = math.ceil(seq / math.ceil(seq / size))
    return min(seq, math.ceil(even / 16) * 16)


def _within(left: Array | None, right: Array | None, seq: int) -> tuple[Array, Array]:
    """The positions from `left` up to and with `right`, as far as there are such: the first, and the end."""
    begin = jnp.int32(0) if left is None else jnp.clip(left, 0, seq)
    end = jnp.int32(seq) if right is None else jnp.clip(right + 1, 0, seq)
    return begin, end
