"""How fast batches come: of the default corpus, straight and through the prefetching iterator.

python -m benchmarks.suites.loader
"""

import tempfile
import time

from benchmarks._timing import interleave
from equimu.data import ByteTokenizer, Loader, prepare

SHAPES = ((8, 128), (256, 1024))  # rows × seq
BATCHES = 64  # a sample, well over what the iterator prepares ahead


def measure(*, rounds: int = 20) -> dict[str, float]:
    """Times the building of the store once, and batches of two shapes.

    Returns:
        `store_seconds`; for each shape `batch` and `iterate`, batches a second by `Loader.batch` and `Loader.iterate`.
    """
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        store = prepare("stdlib", ByteTokenizer(), folder)
        figures["store_seconds"] = time.perf_counter() - started
        for rows, seq in SHAPES:
            for windows in ("concatenate", "document"):
                loader = Loader(store, rows=rows, seq=seq, seed=0, windows=windows)
                ahead, steps = loader.iterate(), iter(range(10**9))
                one = {"batch": lambda: loader.batch(next(steps)), "iterate": lambda: next(ahead)}  # noqa: B023
                many = {name: lambda call=call: [call() for _ in range(BATCHES)] and None for name, call in one.items()}
                timings = interleave(many, rounds=rounds)
                figures |= {f"{rows}x{seq} {windows} {k}": BATCHES / t.median for k, t in timings.items()}
    return figures


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name}: {value:.3g}")
