"""Data of arrays and of records: batches by an independent derivation, splits, fingerprints, errors; text as data."""

# pyright: basic

import collections
import hashlib
import itertools
import threading

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equimu as mu
from equimu._errors import EquimuError
from equimu.data import ByteTokenizer, Data, TextData, TrainingBatches, ValidationBatches, write_store

COUNT, ROWS, HELD_OUT = 45, 8, 9  # 0.2 are held out; 36 rows to train on, in batches of 8: epochs end within one
X = np.arange(COUNT * 6, dtype=np.float32).reshape(COUNT, 2, 3)
Y = np.arange(COUNT)


class Records:
    """A source as PyTorch has them: only a length and a way to get one."""

    def __init__(self, records):
        self._records = list(records)
        self.threads = set()

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        assert type(index) is int
        self.threads.add(threading.get_ident())
        return self._records[index]


class HuggingFace(Records):
    """What `datasets.Dataset` has that others do not."""

    def __init__(self, records, fingerprint="f1"):
        super().__init__(records)
        self._fingerprint = fingerprint

    def select_columns(self, names):
        return HuggingFace([{name: record[name] for name in names} for record in self._records])


def as_records(x: np.ndarray = X, y: np.ndarray = Y):
    return Records({"x": x[i], "y": int(y[i])} for i in range(len(x)))


def from_arrays(**options):
    return mu.data.arrays(x=X, y=Y, **{"rows": ROWS, "validation": 0.2, **options})


def from_source(**options):
    return mu.data.source(as_records(), **{"rows": ROWS, "validation": 0.2, **options})


BOTH = pytest.mark.parametrize("make", [from_arrays, from_source])


def equal(a, b):
    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    same = all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(leaves, others, strict=True))
    return same and jax.tree.structure(a) == jax.tree.structure(b)


def drawn(count, seed, epoch):
    """The permutation of an epoch, as numpy promises never to change it."""
    digest = hashlib.sha256(f"equimu order {seed} {epoch}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, "<u4")).permutation(count)


@BOTH
def test_batches_are_those_of_an_independent_derivation(make):
    data = make()
    split = drawn(COUNT, 2**64, 0)
    order = np.concatenate([split[HELD_OUT:][drawn(COUNT - HELD_OUT, 3, epoch)] for epoch in range(3)])
    training = data.training(3)
    for step in range(3 * (COUNT - HELD_OUT) // ROWS):
        numbers = order[step * ROWS : (step + 1) * ROWS]
        assert equal(training.batch(step), {"x": X[numbers], "y": Y[numbers].astype(np.int32)})
    validation = data.validation()
    for number, numbers in enumerate((split[:8], split[[8, *[0] * 7]])):
        assert equal(validation.batch(number), {"x": X[numbers], "y": Y[numbers].astype(np.int32)})
    assert isinstance(training, TrainingBatches) and isinstance(validation, ValidationBatches)
    assert (data.rows, data.unit, data.units_per_row) == (ROWS, "examples", 1)


@BOTH
def test_a_process_gets_its_rows_of_the_whole(make):
    training, validation = make().training(1), make().validation()
    for step in (40, 0, 4):
        parts = [make().training(1).batch(step, rows) for rows in (range(0, 3), [3, 4], np.array([7, 5, 6]))]
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves)[[0, 1, 2, 3, 4, 6, 7, 5]], *parts)
        assert equal(joined, training.batch(step))
    for number in range(2):
        part = validation.batch(number, range(4, 8))
        assert equal(part, jax.tree.map(lambda leaf: leaf[4:], validation.batch(number)))
        np.testing.assert_array_equal(validation.weights(number, [5, 0]), validation.weights(number)[[5, 0]])


@BOTH
@pytest.mark.parametrize("place_by_place", [False, True])
def test_every_row_once_an_epoch_and_none_on_both_sides(make, place_by_place, monkeypatch):
    if place_by_place:
        monkeypatch.setattr("equimu.data._order._DRAWN_AT_ONCE", 0)
    data = make(rows=6)
    held_out = {
        y
        for number, batch in enumerate(data.validation())
        for y, weight in zip(batch["y"].tolist(), data.validation().weights(number), strict=True)
        if weight
    }
    assert len(held_out) == HELD_OUT
    epochs = [
        [y for step in range(6 * epoch, 6 * epoch + 6) for y in data.training(0).batch(step)["y"].tolist()]
        for epoch in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch) == sorted(set(range(COUNT)) - held_out)
    assert epochs[0] != epochs[1] != epochs[2]


@BOTH
def test_validation_is_complete_and_what_fills_it_up_weighs_nothing(make):
    for rows in (1, 4, 7, 36):
        validation = make(rows=rows).validation()
        weights = np.concatenate([validation.weights(number) for number in range(len(validation))])
        seen = np.concatenate([validation.batch(number)["y"] for number in range(len(validation))])
        assert weights.dtype == np.float32 and len(validation) == -(-HELD_OUT // rows)
        np.testing.assert_array_equal(weights, [1] * HELD_OUT + [0] * (len(weights) - HELD_OUT))
        assert len(set(seen[:HELD_OUT].tolist())) == HELD_OUT and set(seen[HELD_OUT:].tolist()) <= {seen[0]}
    first = make(rows=4).validation(2)
    assert len(first) == 2 and equal(first.batch(1), make(rows=4).validation().batch(1))
    assert len(make().validation(100)) == 2


@BOTH
def test_iterating_is_batch_after_batch_from_any_step(make):
    training = make().training(5)
    for start, rows in ((0, None), (23, [6, 1])):
        batches = list(itertools.islice(training.iterate(start, rows), 20))
        assert all(equal(batch, training.batch(start + i, rows)) for i, batch in enumerate(batches))


def test_records_are_read_ahead_by_several_threads():
    records = as_records()
    list(itertools.islice(mu.data.source(records, rows=4).training(0).iterate(), 50))
    assert len(records.threads) > 2


def test_a_set_sorted_by_class_gives_validation_of_all_classes():
    validation = mu.data.arrays(np.repeat(np.arange(5), 200), rows=10).validation()
    batches = [validation.batch(number) for number in range(len(validation))]
    counts = collections.Counter(np.concatenate(batches).tolist())
    assert sorted(counts) == [0, 1, 2, 3, 4] and 8 <= min(counts.values())


def test_batches_have_the_form_of_what_was_given():
    one, two = (mu.data.arrays(*arrays, rows=4).training(0).batch(0) for arrays in ((X,), (X, Y)))
    named = mu.data.arrays(a=X, b=Y, rows=4).training(0).batch(0)
    assert type(one) is np.ndarray and type(two) is tuple and list(named) == ["a", "b"]
    assert equal(one, two[0]) and equal(tuple(named.values()), two)
    records = [(X[i], {"n": Y[i], "list": [1, i], "jax": jnp.int32(i)}) for i in range(COUNT)]
    x, rest = mu.data.source(records, rows=4).training(0).batch(0)
    assert equal(x, one)
    assert equal(rest, {"n": two[1], "list": np.stack([np.ones(4, np.int32), two[1]], 1), "jax": two[1]})


@pytest.mark.parametrize(
    ("given", "held"),
    [("f8", "f4"), ("i8", "i4"), ("u8", "u4"), (">f4", "f4"), ("f2", "f2"), ("?", "?"), ("u1", "u1"), ("c16", "c8")]
    + [(jnp.bfloat16, jnp.bfloat16)],
)
def test_types_are_those_that_jax_holds(given, held):
    values = np.arange(20).astype(given)
    for data in (mu.data.arrays(values, rows=4), mu.data.source(values, rows=4)):
        batch = data.training(0).batch(0)
        assert batch.dtype == np.dtype(held) and batch.dtype.isnative and jnp.asarray(batch).dtype == held
        assert set(batch.tolist()) <= set(values.astype(held).tolist())


def test_types_of_64_bits_stay_where_jax_has_them():
    with jax.enable_x64(True):
        made = [mu.data.arrays(Y / 3, rows=4), mu.data.source(list(Y / 3), rows=4)]
    for data in made:  # also in threads, for which the context above is not
        assert next(data.training(0).iterate()).dtype == np.float64


def test_jax_arrays_and_validation_of_its_own():
    data = mu.data.arrays(jnp.asarray(X[:40]), Y[:40], rows=4, validation=(X[40:], jnp.asarray(Y[40:])))
    x, y = data.validation().batch(0)
    assert equal((x, y), (X[40:44], Y[40:44].astype(np.int32)))
    seen = [n for step in range(10) for n in data.training(0).batch(step)[1].tolist()]
    assert sorted(seen) == list(range(40))
    named = mu.data.arrays(x=X, y=Y, rows=4, validation={"y": Y[:3], "x": X[:3]}).validation()
    assert list(named.batch(0)) == ["x", "y"] and named.weights(0).tolist() == [1, 1, 1, 0]
    assert equal(mu.data.arrays(X, rows=4, validation=X[5:9]).validation().batch(0), X[5:9])
    sources = mu.data.source(as_records(), rows=4, validation=as_records(X[5:9], Y[5:9]))
    assert equal(sources.validation().batch(0), {"x": X[5:9], "y": Y[5:9].astype(np.int32)})


def test_a_memory_map_is_like_memory(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    memory, file = (mu.data.arrays(x[2:], Y[2:], rows=4) for x in (X, mapped))
    assert [vars(data)["_train"].in_memory for data in (memory, file)] == [True, False]
    assert equal(
        list(itertools.islice(file.training(0).iterate(), 30)), [memory.training(0).batch(i) for i in range(30)]
    )
    monkeypatch.setattr("equimu.data._memory._PIECE_BYTES", 48)  # two rows a piece, and one for the last
    assert file.fingerprint == memory.fingerprint
    assert mu.data.arrays(changed(X, -1)[2:], Y[2:], rows=4).fingerprint != file.fingerprint
    monkeypatch.undo()
    assert file.fingerprint == mu.data.arrays(X[2:], Y[2:], rows=9).fingerprint


def changed(array, place):
    """The array with one byte changed."""
    content = bytearray(array.tobytes())
    content[place] ^= 1
    return np.frombuffer(bytes(content), array.dtype).reshape(array.shape)


def test_fingerprints_of_arrays():
    made = [
        from_arrays(),
        *(mu.data.arrays(x=changed(X, i), y=Y, rows=8, validation=0.2) for i in (0, X.nbytes - 1)),
        mu.data.arrays(x=X, y=changed(Y, 77), rows=8, validation=0.2),
        mu.data.arrays(x=X, z=Y, rows=8, validation=0.2),
        mu.data.arrays(X, Y, rows=8, validation=0.2),
        mu.data.arrays(x=X.reshape(COUNT, 6), y=Y, rows=8, validation=0.2),
        mu.data.arrays(x=X.view(np.int32), y=Y, rows=8, validation=0.2),
        from_arrays(validation=0.3),
        from_arrays(validation={"x": X[:9], "y": Y[:9]}),
        from_arrays(validation={"x": changed(X[:9], 5), "y": Y[:9]}),
    ]
    assert len({data.fingerprint for data in made}) == len(made)
    assert from_arrays(rows=2).fingerprint == from_arrays().fingerprint
    assert mu.data.arrays(x=X.astype(">f4"), y=Y, rows=8, validation=0.2).fingerprint == from_arrays().fingerprint


def test_fingerprints_of_sources():
    hugging = [{"y": i} for i in range(COUNT)]
    made = [
        from_source(),
        from_source(validation=0.3),
        from_source(validation=as_records(X[:9], Y[:9])),
        mu.data.source(as_records(changed(X, 3), Y), rows=8, validation=0.2),
        mu.data.source(as_records(X[:-1], Y[:-1]), rows=8, validation=0.2),
        from_source(fingerprint="mine"),
        from_source(fingerprint="mine", validation=0.3),
        mu.data.source(HuggingFace(hugging), rows=8),
        mu.data.source(HuggingFace(hugging, "f2"), rows=8),
        mu.data.source(HuggingFace(hugging), rows=8, validation=HuggingFace(hugging, "f2")),
    ]
    assert len({data.fingerprint for data in made}) == len(made)
    assert from_source(rows=2).fingerprint == from_source().fingerprint
    # with a name, no record is read for it
    assert mu.data.source(HuggingFace([{"y": 2 * i} for i in range(COUNT)]), rows=8).fingerprint == made[7].fingerprint


def test_large_sources_are_sampled():
    def fingerprint(place):
        values = np.zeros(10_000)
        values[place] = 1
        return mu.data.source(values, rows=8).fingerprint

    assert len({fingerprint(place) for place in (0, 9_999, 1, 2, 3)}) == 3  # 1, 2, 3 are not seen


def test_sources_of_grain():
    class Source(grain.sources.RandomAccessDataSource):
        def __len__(self):
            return COUNT

        def __getitem__(self, record_key):
            return {"x": X[record_key], "y": int(record_key)}

    mapped = grain.MapDataset.range(COUNT).map(lambda i: {"x": X[i], "y": i})
    for source in (Source(), mapped):
        data = mu.data.source(source, rows=ROWS, validation=0.2)
        assert equal(data.training(4).batch(7), from_arrays().training(4).batch(7))
        assert equal(next(data.training(4).iterate(7)), from_arrays().training(4).batch(7))


def all_of(records):
    training = mu.data.source(Records(records), rows=44, validation=1 / 45).training(0)
    return [training.batch(0)]


MISTAKES = {
    "no arrays": (lambda: mu.data.arrays(rows=4), "needs an array"),
    "both ways": (lambda: mu.data.arrays(X, y=Y, rows=4), "not both"),
    "lengths": (lambda: mu.data.arrays(X, Y[1:], rows=4), "array 0 has 45, array 1 has 44"),
    "empty": (lambda: mu.data.arrays(X[:0], rows=4), "array 0 has no rows"),
    "rows": (lambda: mu.data.arrays(X, rows=42), "rows=42 is more than the 41 to train on"),
    "no rows": (lambda: mu.data.arrays(X, rows=0), "rows must be at least 1"),
    "objects": (lambda: mu.data.arrays(x=np.array([None, "a"]), rows=1), "array 'x' is of object"),
    "text": (lambda: mu.data.arrays(np.array(["a", "b"]), rows=1), "which JAX does not hold"),
    "keys": (lambda: mu.data.arrays(jax.random.split(jax.random.key(0), 9), rows=1), "which JAX does not hold"),
    "no array": (lambda: mu.data.arrays([1, 2, 3], rows=1), r"array 0 is \[1, 2, 3\], not an array; write np.asarray"),
    "masked": (lambda: mu.data.arrays(np.ma.array(Y), rows=1), "masked"),
    "number": (lambda: mu.data.arrays(np.float32(1) * np.ones(()), rows=1), "single number|not an array"),
    "one row": (lambda: mu.data.arrays(X[:1], rows=1), "leaves none to validate on"),
    "share": (lambda: mu.data.arrays(X, rows=1, validation=1.5), "validation must be above 0 and below 1"),
    "no share": (
        lambda: mu.data.arrays(X, rows=1, validation="10%"),
        "validation must be a share such as 0.1 or an array",
    ),
    "form": (lambda: mu.data.arrays(x=X, rows=1, validation=(X,)), "a dict of arrays by the same names"),
    "names": (lambda: mu.data.arrays(x=X, rows=1, validation={"z": X}), "validation has the arrays z"),
    "shapes": (lambda: mu.data.arrays(X, Y, rows=1, validation=(X[:, 0], Y)), r"float32\[3\].*float32\[2, 3\]"),
    "none": (lambda: mu.data.arrays(x=X, rows=1, validation={}), "validation has"),
    "large": (lambda: mu.data.arrays(Y + 2**40, rows=44, validation=0.01).training(0).batch(0), "int32 does not"),
    "no such rows": (lambda: from_arrays().training(0).batch(0, [8]), "not rows of a batch of 8"),
    "no such step": (lambda: from_arrays().training(0).iterate(-1), "step must be at least 0"),
    "no such batch": (lambda: from_arrays().validation().weights(2), "batch 2 does not exist"),
    "no seed": (lambda: from_arrays().training(2**63), "seed must be at least"),
    "first": (lambda: from_arrays().validation(0), "first must be at least 1"),
    "no source": (lambda: mu.data.source(iter([1]), rows=1), r"both len\(source\) and source\[i\]"),
    "no records": (lambda: mu.data.source([], rows=1), "source has no records"),
    "dict": (lambda: mu.data.source({"train": [1]}, rows=1), r"dataset\['train'\]"),
    "repeated": (lambda: mu.data.source(grain.MapDataset.range(9).repeat(), rows=1), "leave the repetition out"),
    "nothing": (lambda: mu.data.source([()] * 9, rows=1), "record 0 of source holds nothing"),
    "filtered": (lambda: mu.data.source([None] * 9, rows=1), "record 0 of source is None.*filter"),
    "string": (lambda: mu.data.source([(1, "a")] * 9, rows=1), r"\[1\] of record 0 of source is 'a'.*leave it out"),
    "ragged": (lambda: mu.data.source([[[1], [1, 2]]] * 9, rows=1), "all of record 0"),
    "columns": (
        lambda: mu.data.source(HuggingFace([{"text": "a", "y": 1, "x": [1, 2], "n": None}] * 9), rows=1),
        r"\['n'\] of record 0 of source is None.*write dataset.select_columns\(\['y', 'x'\]\)",
    ),
    "shape": (
        lambda: all_of([{"x": X[i] if i != 7 else X[i, 0], "y": i} for i in range(COUNT)]),
        r"\['x'\] of record 7 of source is float32\[3\], and of the first one float32\[2, 3\]",
    ),
    "type": (
        lambda: all_of([{"y": i if i != 7 else 0.5} for i in range(COUNT)]),
        r"\['y'\] of record 7 of source is float32\[\], and of the first one int32\[\]",
    ),
    "structure": (
        lambda: all_of([{"x" if i != 7 else "z": i} for i in range(COUNT)]),
        r"record 7 of source holds \['z'\], and the first one \['x'\]",
    ),
    "late string": (lambda: all_of([1 if i != 7 else "a" for i in range(COUNT)]), "all of record 7 of source is 'a'"),
    "validation kind": (lambda: mu.data.source([1, 2], rows=1, validation=[0.5]), "record 0 of validation is float32"),
    "validation": (lambda: mu.data.source([1, 2], rows=1, validation="all"), "validation is 'all'"),
    "no corpus": (lambda: mu.data.text(seq=8, rows=4), "text needs a corpus or a store"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case):
    call, words = MISTAKES[case]
    with pytest.raises(EquimuError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_record_that_differs_is_told_from_the_threads_too():
    records = [np.zeros(2 if i != 7 else 3) for i in range(COUNT)]
    with pytest.raises(EquimuError, match=r"all of record 7 of source is float32\[3\]"):
        list(itertools.islice(mu.data.source(records, rows=1, validation=1 / 45).training(0).iterate(), 45))


def test_text_as_data(corpus, tmp_path):
    data = mu.data.text(corpus, seq=16, rows=4)
    assert mu.data.text(corpus, seq=16, rows=4) is data
    assert (data.unit, data.units_per_row, data.rows, data.vocab_size) == ("tokens", 16, 4, 256)
    assert data.fingerprint == data.store.info.fingerprint and isinstance(data, Data)
    assert data == TextData(store=data.store, seq=16, rows=4)
    loader = mu.data.Loader(data.store, seq=16, rows=4, seed=3)
    assert equal(data.training(3).batch(5), loader.batch(5))
    validation = data.validation()
    last = len(validation) - 1
    assert equal(validation.batch(last), mu.data.OrderedLoader(data.store, seq=16, rows=4).batch(last))
    for number in (0, last):
        there = np.any(validation.batch(number).mask, axis=1)
        np.testing.assert_array_equal(validation.weights(number), there)
        np.testing.assert_array_equal(validation.weights(number, [2, 0]), there[[2, 0]])
    assert data.validation() is validation and len(data.validation(1)) == 1
    written = write_store(tmp_path / "store", mu.data.read_corpus(corpus), ByteTokenizer())
    other = mu.data.text(store=tmp_path / "store", seq=16, rows=4, tokenizer=ByteTokenizer(), windows="document")
    assert other.fingerprint == written.info.fingerprint == data.fingerprint and other.windows == "document"


def test_changed_text_is_other_data(tmp_path):
    for i in range(9):
        (tmp_path / f"{i}.txt").write_text(f"{i} " * 50)
    first = mu.data.text(tmp_path, seq=8, rows=2, validation=0.3)
    (tmp_path / "9.txt").write_text("more " * 50)
    second = mu.data.text(tmp_path, seq=8, rows=2, validation=0.3)
    assert first.fingerprint != second.fingerprint


def test_data_of_ones_own():
    class Ones(Data):
        rows = 2

        @property
        def fingerprint(self):
            return "ones"

        def training(self, seed):
            return mu.data.arrays(np.ones(9), rows=2).training(seed)

        def validation(self, first=None):
            return mu.data.arrays(np.ones(9), rows=2).validation(first)

    assert Ones().unit == "examples" and Ones().units_per_row == 1 and Ones().fingerprint == "ones"
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Data,), {"rows": 2})()
