"""The order of training rows: one permutation an epoch, a pure function of (seed, epoch)."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int

_Places: TypeAlias = Int[np.ndarray, " places"]

# Up to here an epoch's permutation is drawn at once and kept (8 MB); beyond, it is evaluated place by place.
_DRAWN_AT_ONCE = 2**20


class ShuffledOrder:
    """An endless sequence of row numbers in which every epoch holds each row once.

    Args:
        count: number of rows.
        seed: any integer.
    """

    def __init__(self, count: int, seed: int):
        self._count, self._seed = count, seed
        self._epoch = functools.lru_cache(maxsize=4)(self._permutation)

    def __call__(self, places: _Places) -> _Places:
        """The rows at these places of the sequence."""
        epochs, within = np.divmod(places, self._count)
        rows = np.empty_like(within)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._epoch(int(epoch))(within[chosen])
        return rows

    def _permutation(self, epoch: int) -> Callable[[_Places], _Places]:
        # Seed and epoch are hashed together: were they added, adjacent seeds would share epochs.
        digest = hashlib.sha256(f"equimu order {self._seed} {epoch}".encode()).digest()
        if self._count <= _DRAWN_AT_ONCE:
            # RandomState because numpy promises that its numbers never change.
            drawn = np.random.RandomState(np.frombuffer(digest, "<u4")).permutation(self._count)
            return drawn.__getitem__
        # No memory, 7 us a place; slower for few rows, since its cipher works on at least 2^16.
        import grain

        shuffled: Any = grain.MapDataset.range(self._count).shuffle(seed=int.from_bytes(digest[:4]))
        return lambda places: np.array([shuffled[place] for place in places.tolist()])
