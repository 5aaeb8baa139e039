"""Prints what a batch of text costs, in batches that plain numpy cuts from an array: the seconds of this thread, divided.

In a process of its own, where annotations are not checked. Launched by `test_data_loader.py` with the place of a store.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

from equimu.data import Loader, open_store

SEQ, ROWS, STEPS = 128, 8, 200


def seconds(make: Callable[[int], object]) -> float:
    make(0)
    best = float("inf")
    for _ in range(5):
        start = time.thread_time()
        for step in range(STEPS):
            make(step)
        best = min(best, time.thread_time() - start)
    return best


def plain(_: int):
    rows = np.stack([tokens[row * SEQ : row * SEQ + SEQ + 1].astype(np.int32) for row in range(ROWS)])
    return rows[:, :-1], rows[:, 1:], np.ones((ROWS, SEQ), np.float32)


tokens = np.arange(ROWS * SEQ + 1, dtype=np.uint16)
loader = Loader(open_store(sys.argv[1]), seq=SEQ, rows=ROWS, seed=0)
print(seconds(loader.batch) / seconds(plain))
