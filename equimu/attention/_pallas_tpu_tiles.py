"""Which tiles of the scores the TPU kernels visit, and which of these need a mask.

A kernel instance holds one block of queries and one chunk of the keys (all of them, where they fit) in fast memory and
visits the chunk tile by tile, `block_k` keys by `block_q` queries, with the keys down the rows.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from equimu.attention._visible import Visibility

LANES = 128  # of a vector register: blocks and head axes are multiples of it or are padded to it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    """The sizes of what is computed at a time, all in positions.

    - `block_q`: queries of a tile.
    - `block_k`: keys of a tile.
    - `strip`: positions in a part of a tile.
    - `chunk`: keys in fast memory at a time.
    """

    block_q: int
    block_k: int
    strip: int  # keys or queries in a part of a tile
    chunk: int  # keys in fast memory

    @classmethod
    def of(cls, seq_q: int, seq_k: int, *, largest: int, resident: int) -> "Blocks":
        """Blocks of at most `largest` queries, even so that little is padded; at most `resident` keys at a time."""
        block_q = _even(seq_q, largest)
        block_k = block_q if seq_q == seq_k else _even(seq_k, largest)
        block_k = block_k // 2 if block_k > 512 else block_k
        unit = math.lcm(block_q, block_k) if seq_q == seq_k else block_k
        chunk = min(max(resident // unit, 1), math.ceil(seq_k / unit)) * unit
        strip = 256 if block_q % 256 == 0 and block_k % 256 == 0 else LANES
        return cls(block_q=block_q, block_k=block_k, strip=strip, chunk=chunk)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiles:
    """The tiles of one call. Block `i` of the queries, chunk `c` of the keys; both may be traced."""

    visibility: Visibility
    q_offset: int
    seq_q: int
    seq_k: int
    segments: bool
    blocks: Blocks

    @property
    def blocks_q(self) -> int:
        """Blocks of queries."""
        return math.ceil(self.seq_q / self.blocks.block_q)

    @property
    def chunks(self) -> int:
        """Chunks of keys."""
        return math.ceil(self.seq_k / self.blocks.chunk)

    @property
    def padded_q(self) -> int:
        """Queries in whole blocks."""
        return self.blocks_q * self.blocks.block_q

    @property
    def padded_k(self) -> int:
        """Keys in whole chunks."""
        return self.chunks * self.blocks.chunk

    @property
    def diagonal(self) -> bool:
        """Whether each block of queries meets its own keys in one square, masked above its diagonal, and sees all before."""
        plain = self.visibility == Visibility(causal=True, window=None) and not self.segments
        square = self.q_offset == 0 and self.seq_q == self.seq_k
        return plain and square and self.blocks.chunk % self.blocks.block_q == 0

    def positions(self, i: Any) -> tuple[Any, Any]:
        """The positions of the first and of the last query of a block."""
        first = self.q_offset + i * self.blocks.block_q
        return first, lax.min(first + self.blocks.block_q, jnp.int32(self.q_offset + self.seq_q)) - 1

    def chunks_seen(self, i: Any) -> tuple[Array, Array]:
        """The first and the last chunk that a block of queries sees; one at least is named."""
        left, right = self.visibility.keys(*self.positions(i))
        first, end = _between(left, right, self.seq_k)
        last = lax.max(end - 1, 0) // self.blocks.chunk
        return lax.min(first // self.blocks.chunk, last), last

    def queries_seeing(self, c: Any) -> tuple[Array, Array]:
        """The first and the last block of queries that see a chunk; one at least is named."""
        first = c * self.blocks.chunk - self.q_offset
        left, right = self.visibility.queries(first, first + self.blocks.chunk - 1)
        first, end = _between(left, right, self.seq_q)
        last = lax.max(end - 1, 0) // self.blocks.block_q
        return lax.min(first // self.blocks.block_q, last), last

    def spans(self, i: Any, c: Any) -> list[tuple[Array, Array, bool]]:
        """Spans of tiles of a chunk that a block of queries sees: from one up to before another, and whether masked.

        The square on the diagonal is not among them.
        """
        first, last = self.positions(i)
        begin, end = self._within(*self.visibility.keys(first, last), c)
        # What all queries of the block see: from where the last one's view begins to where the first one's ends.
        inner_begin, inner_end = self._within(
            self.visibility.keys(last, last)[0], self.visibility.keys(first, first)[1], c
        )
        size = self.blocks.block_k
        begin, end = begin // size, (end + size - 1) // size
        if self.segments:
            return [(begin, end, True)]
        full_begin = _clip((inner_begin + size - 1) // size, begin, end)
        full_end = _clip(inner_end // size, full_begin, end)
        spans = [(full_begin, full_end, False)]
        if self.visibility.window is not None:
            spans.append((begin, full_begin, True))
        ragged = self.visibility.causal or self.visibility.window is not None or self.seq_k % size != 0
        if ragged and not self.diagonal:
            spans.append((full_end, end, True))
        return spans

    def mask(self, q_at: Any, k_at: Any, q_ids: Any, k_ids: Any) -> Array:
        """Where queries see keys, given positions and segments that broadcast."""
        seen = self.visibility.mask(q_at, k_at)
        if self.padded_k > self.seq_k:
            seen &= k_at < self.seq_k
        return seen & (q_ids == k_ids) if self.segments else seen

    def _within(self, left: Any, right: Any, c: Any) -> tuple[Array, Array]:
        """The positions of a chunk from `left` up to and with `right`, as far as there are such keys."""
        begin, end = _between(left, right, self.seq_k)
        start = c * self.blocks.chunk
        return _clip(begin - start, 0, self.blocks.chunk), _clip(end - start, 0, self.blocks.chunk)


def _between(left: Any, right: Any, size: int) -> tuple[Array, Array]:
    """From `left` up to and with `right`, where None means no bound, as far as it is from 0 up to before `size`."""
    begin = jnp.int32(0) if left is None else _clip(left, 0, size)
    end = jnp.int32(size) if right is None else _clip(right + 1, 0, size)
    return begin, end


def _clip(x: Any, low: Any, high: Any) -> Array:
    return lax.min(lax.max(x, jnp.int32(low)), jnp.int32(high))


def _even(seq: int, largest: int) -> int:
    """Blocks of at most this size, a multiple of the vector registers' width, and of its double if longer than 512."""
    even = math.ceil(seq / math.ceil(seq / largest))
    unit = LANES if even <= 512 else 2 * LANES
    return math.ceil(even / unit) * unit
