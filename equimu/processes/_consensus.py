"""What all processes of a run decide alike: to stop, because one of them was asked to, and to save, because it is time.

They must do either after the same step. Each process has flags; their maximum is computed on the devices, and is looked at one
agreement later, when it has long been there, so nobody waits for it.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Agreements are about so far apart; steps that are longer have one each.
_SECONDS = 0.5
_MOST_STEPS = 1000


class StopVote(NamedTuple):
    """What a process would have: the number of the signal it got, or 0, and whether the run should be saved.

    - `signum`: the number of the signal, or 0.
    - `save`: whether to save.
    """

    signum: int
    save: bool


class Consensus:
    """The wishes of all processes, joined.

    Args:
        mesh: of the run.
        wish: what this process wishes now. That of the first process decides on saving by time.
    """

    def __init__(self, mesh: Mesh, wish: Callable[[], StopVote]):
        self._wish = wish
        self._alone = jax.process_count() == 1
        if self._alone:
            return
        flat = Mesh(mesh.devices.reshape(-1), ("all",))
        self._spread = NamedSharding(flat, PartitionSpec("all"))
        whole = NamedSharding(flat, PartitionSpec())
        like = jax.ShapeDtypeStruct((flat.size, 3), jnp.int32, sharding=self._spread)
        self._join = jax.jit(lambda flags: flags.max(axis=0), out_shardings=whole).lower(like).compile()
        self._shape = like.shape
        self._pending: jax.Array | None = None
        self._next, self._last, self._last_time = 0, 0, time.monotonic()

    def __call__(self, step: int) -> StopVote:
        """What all wish, to be asked in front of every step; the same answer in all processes."""
        if self._alone:
            return self._wish()
        if step < self._next:
            return StopVote(0, False)
        found = np.zeros(3, np.int32) if self._pending is None else np.asarray(self._pending.addressable_data(0))
        now = time.monotonic()
        wish = self._wish()
        gap = 1
        if self._pending is not None and step > self._last:
            gap = int(np.clip(_SECONDS * (step - self._last) / max(now - self._last_time, 1e-6), 1, _MOST_STEPS))
        first = jax.process_index() == 0
        flags = np.array([[wish.signum, wish.save and first, gap if first else 0]], np.int32)
        self._pending = self._join(jax.make_array_from_callback(self._shape, self._spread, lambda index: flags))
        self._next = step + max(1, int(found[2]))
        self._last, self._last_time = step, now
        return StopVote(int(found[0]), bool(found[1]))
