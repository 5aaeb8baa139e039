"""Loaders: batches as a pure function of (seed, step, row), iteration, evaluation."""

import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from equimu._errors import EquimuError
from equimu.data import Batch, ByteTokenizer, Loader, OrderedLoader, PackedBatch, read_corpus, write_store

KINDS = ["concatenate", "document", "packed"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """120 documents, every one with its number in front, so that a row tells where it comes from."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(120):
        (folder / f"{i:03}.txt").write_text(f"{i:03}" + "text " * (i % 13))
    return write_store(folder / "store", read_corpus(f"{folder}/*.txt"), ByteTokenizer(), validation=0.2)


def equal(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def joined(batches):
    arrays = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    return (PackedBatch if len(arrays) == 4 else Batch)(*arrays)


@pytest.mark.parametrize("windows", KINDS)
def test_batches_do_not_depend_on_how_rows_are_divided(store, windows):
    one = Loader(store, seq=8, rows=12, seed=5, windows=windows)
    for hosts in (1, 2, 3, 4, 6, 12):
        # every host has a loader of its own, and asks for steps in an order of its own
        loaders = [Loader(store, seq=8, rows=12, seed=5, windows=windows) for _ in range(hosts)]
        share = 12 // hosts
        for step in (40, 0, 17):
            parts = [loader.batch(step, range(host * share, (host + 1) * share)) for host, loader in enumerate(loaders)]
            assert equal(joined(parts), one.batch(step))
    assert equal(one.batch(3, range(1, 12, 5)), [array[1::5] for array in one.batch(3)])


@pytest.mark.parametrize("windows", KINDS)
@pytest.mark.parametrize("rows", [1, 7, 500])
def test_every_window_once_an_epoch(store, windows, rows):
    """Also where batches do not divide an epoch, or are longer than one."""
    loader = Loader(store, seq=16, rows=rows, seed=2, windows=windows)
    count = loader.windows_per_epoch
    steps = -(-3 * count // rows)
    seen = [row.tobytes() for step in range(steps) for row in loader.batch(step).targets]
    epochs = [seen[i * count : (i + 1) * count] for i in range(3)]
    inside = OrderedLoader(store, seq=16, rows=1, windows=windows, split="train")
    rows_in_order = [batch.targets[0].tobytes() for batch in inside if batch.mask.all() or windows == "document"]
    assert len(rows_in_order) == count
    for epoch in epochs:
        assert sorted(epoch) == sorted(rows_in_order)
    assert epochs[0] != epochs[1] != epochs[2]


def test_seeds_give_other_orders(store):
    first = [Loader(store, seq=8, rows=32, seed=seed).batch(0) for seed in range(4)]
    assert not any(equal(a, b) for a, b in itertools.combinations(first, 2))
    assert equal(first[2], Loader(store, seq=8, rows=32, seed=2).batch(0))


def test_batches_are_a_pytree_of_numpy_arrays_of_the_stated_types(store):
    batch = Loader(store, seq=8, rows=4, seed=0).batch(0)
    leaves = jax.tree.leaves(batch)
    assert [(type(x), x.shape, x.dtype) for x in leaves] == [
        (np.ndarray, (4, 8), np.int32),
        (np.ndarray, (4, 8), np.int32),
        (np.ndarray, (4, 8), np.float32),
    ]
    assert isinstance(jax.tree.map(lambda x: x + 1, batch), Batch)
    assert equal(jax.device_get(jax.device_put(batch)), batch)


@pytest.mark.parametrize("in_memory", [True, False])
def test_iterating_is_batch_after_batch_from_any_step(store, in_memory, monkeypatch):
    if not in_memory:
        monkeypatch.setattr("equimu.data._windows._IN_MEMORY_BYTES", 0)
    loader = Loader(store, seq=8, rows=6, seed=1, windows="document")
    for start, rows in ((0, None), (23, None), (1_000_000, range(2, 4))):
        batches = list(itertools.islice(loader.iterate(start, rows), 30))
        assert all(isinstance(batch, Batch) for batch in batches)
        assert all(equal(b, loader.batch(start + i, rows)) for i, b in enumerate(batches))


def test_an_iterator_that_is_dropped_leaves_no_threads(store):
    before = threading.active_count()
    iterator = Loader(store, seq=8, rows=6, seed=1).iterate()
    next(iterator)
    del iterator
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.mark.parametrize("windows", KINDS)
def test_evaluation_sees_every_token_once_whatever_the_rows(store, windows):
    tokens = store.info.tokens["validation"]
    for rows in (1, 4, 7, 1000):
        loader = OrderedLoader(store, seq=64, rows=rows, windows=windows)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(array.shape == (rows, 64) for batch in batches for array in batch)
        # all documents are shorter than a row here, so nothing is truncated; the first token of a
        # concatenation is not predicted
        assert sum(batch.mask.sum() for batch in batches) == tokens - (windows == "concatenate")
        whole = joined(batches)
        counted = np.asarray(whole.mask.any(axis=1))
        assert counted[: counted.sum()].all()  # what is added comes last
        if rows == 1:
            first = whole
        assert equal([array[counted] for array in whole], first)
        assert (whole.targets[~counted] == store.info.eod).all() and (whole.inputs[~counted] == store.info.eod).all()


def test_evaluation_of_the_first_batches_and_of_some_rows(store):
    whole, first = (OrderedLoader(store, seq=8, rows=5, first=first) for first in (None, 2))
    assert len(first) == 2 and len(OrderedLoader(store, seq=8, rows=5, first=10_000)) == len(whole)
    for i, batch in enumerate(first):
        assert equal(batch, whole.batch(i))
    last = len(whole) - 1
    parts = [whole.batch(last, range(0, 2)), whole.batch(last, range(2, 5))]
    assert equal(joined(parts), whole.batch(last))


def test_training_never_meets_a_held_out_document(store):
    """Through the whole way: texts of rows, not file names."""

    def numbers(batches):
        return {bytes(row[:3].tolist()) for batch in batches for row in batch.targets[batch.mask.any(axis=1)]}

    loader = Loader(store, seq=8, rows=10, seed=0, windows="document")
    train = numbers(loader.batch(step) for step in range(-(-loader.windows_per_epoch // 10)))
    held_out = numbers(OrderedLoader(store, seq=8, rows=10, windows="document"))
    assert train.isdisjoint(held_out)
    assert len(train) + len(held_out) == 120


def test_mistakes(store):
    loader = Loader(store, seq=8, rows=4, seed=0)
    ordered = OrderedLoader(store, seq=8, rows=4)
    cases = [
        (lambda: Loader(store, seq=8, rows=0, seed=0), "rows must be at least 1"),
        (lambda: Loader(store, seq=0, rows=4, seed=0), "seq must be at least 1"),
        (lambda: Loader(store, seq=8, rows=4, seed=0, split="valid"), "did you mean 'validation'"),
        (lambda: Loader(store, seq=8, rows=4, seed=0, windows="doc"), "concatenate"),
        (lambda: Loader(store, seq=10**6, rows=4, seed=0), "too few"),
        (lambda: loader.batch(-1), "step must be at least 0"),
        (lambda: loader.iterate(-1), "step must be at least 0"),
        (lambda: loader.batch(0, range(2, 5)), "range within 0 and 4"),
        (lambda: loader.batch(0, range(0)), "range within 0 and 4"),
        (lambda: ordered.batch(len(ordered)), "does not exist"),
        (lambda: OrderedLoader(store, seq=8, rows=4, first=0), "first must be at least 1"),
    ]
    for call, words in cases:
        with pytest.raises(EquimuError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


def test_batches_cost_little(store):
    """5 000 batches of 8 x 128 a second are asked for: plain numpy makes 100 000, so a batch may cost twenty of those."""
    launched = Path(__file__).parent / "launched" / "batches.py"
    made = subprocess.run([sys.executable, launched, store.place], capture_output=True, text=True, check=True)
    assert float(made.stdout) < 20


def test_importing_the_package_loads_no_heavy_library():
    heavy = "{'grain', 'tensorstore', 'tokenizers'}"
    code = f"import sys, equimu.data; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
