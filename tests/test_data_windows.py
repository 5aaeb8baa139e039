"""Windows: what a row holds and which of its targets count, against slow Python."""

import numpy as np
import pytest

from equimu._errors import EquimuError
from equimu.data import ByteTokenizer, PackedBatch, TokenStore, read_corpus, write_store
from equimu.data._windows import windows_of

TEXTS = ["a", "bc" * 9, "def", "ghijkl", "mnop", "qrs tuv wxyz 0123", "4", "five six", "7 8 9"]


class TwoIds(ByteTokenizer):
    """Bytes with beginning-of-document (1) and end-of-document (2) apart."""

    def __init__(self):
        for name, value in {
            "name": "two",
            "fingerprint": "two",
            "vocab_size": 256,
            "bos": 1,
            "eod": 2,
        }.items():
            object.__setattr__(self, name, value)


@pytest.fixture(params=[ByteTokenizer, TwoIds])
def store(request, tmp_path) -> TokenStore:
    folder = tmp_path / "text"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i}.txt").write_text(text)
    return write_store(tmp_path / "s", read_corpus(str(folder)), request.param(), validation=0.4)


@pytest.fixture(params=["memory", "disk"])
def where(request, monkeypatch):
    """Both ways to read rows; the second is what arrays larger than memory get."""
    if request.param == "disk":
        monkeypatch.setattr("equimu.data._windows._IN_MEMORY_BYTES", 0)
    return request.param


def documents(store, split):
    tokens, offsets = store.tokens(split).tolist(), store.offsets(split).tolist()
    return [tokens[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]


def everything(windows, reverse=True):
    """All rows, asked for in another order than they lie in."""
    order = np.arange(windows.count)[:: -1 if reverse else 1]
    batch = windows.batch(order)
    assert [array.dtype for array in batch] == [np.int32, np.int32, np.float32]
    return [array[::-1].tolist() if reverse else array.tolist() for array in batch]


def slow_document_row(document, seq, bos, eod):
    """The rule as it is stated: pad, shift, and count a target if nothing before it ends the document."""
    targets = (document + [eod] * seq)[:seq]
    inputs = [bos] + targets[:-1]
    mask = [float(all(t != eod for t in targets[:position])) for position in range(seq)]
    return inputs, targets, mask


@pytest.mark.parametrize("seq", [1, 2, 5, 6, 7, 40])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_document_rows_follow_the_stated_rule(store, where, split, seq):
    windows = windows_of(store, split, "document", seq, tail=False)
    assert windows.in_memory == (where == "memory")
    rows = [slow_document_row(d, seq, store.info.bos, store.info.eod) for d in documents(store, split)]
    assert windows.count == len(rows) == store.info.documents[split]
    inputs, targets, mask = everything(windows)
    assert (inputs, targets, mask) == tuple(map(list, zip(*rows, strict=True)))


def test_document_mask_counts_each_token_of_a_short_document_once(store):
    windows = windows_of(store, "train", "document", 64, tail=False)
    _, targets, mask = everything(windows)
    for document, row, counts in zip(documents(store, "train"), targets, mask, strict=True):
        assert [t for t, count in zip(row, counts, strict=True) if count] == document


@pytest.mark.parametrize("seq", [1, 3, 7, 10])
@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("tail", [False, True])
def test_concatenated_windows_predict_every_token_once(store, where, split, seq, tail):
    windows = windows_of(store, split, "concatenate", seq, tail=tail)
    stream = [token for document in documents(store, split) for token in document]
    inputs, targets, mask = map(np.array, everything(windows))
    assert inputs.shape == targets.shape == mask.shape == (windows.count, seq)
    counted = mask.astype(bool)
    read, predicted = inputs[counted].tolist(), targets[counted].tolist()
    assert predicted == stream[1 : 1 + len(predicted)]
    assert read == stream[: len(predicted)]
    left_out = len(stream) - 1 - len(predicted)
    assert left_out == 0 if tail else 0 <= left_out < seq
    assert tail or counted.all()
    # one token is the last input of a window that is not full; the rest of it is filled
    padding = np.flatnonzero(~counted.ravel())
    assert (targets.ravel()[padding] == store.info.eod).all()
    assert (inputs.ravel()[padding[1:]] == store.info.eod).all()


def slow_packed_rows(documents, seq, bos, eod):
    """Token by token: (input, target, mask, number of its document in the row), and what fills up the last row."""
    places = [(t, d, bos if i == 0 else d[i - 1], n) for n, d in enumerate(documents) for i, t in enumerate(d)]
    rows = []
    for start in range(0, len(places), seq):
        part = places[start : start + seq]
        numbers = [n - part[0][3] for *_, n in part]
        fill = seq - len(part)
        rows.append(
            (
                [read for _, _, read, _ in part] + [eod] * fill,
                [target for target, *_ in part] + [eod] * fill,
                [1.0] * len(part) + [0.0] * fill,
                numbers + [numbers[-1] + 1] * fill,
            )
        )
    return rows


@pytest.mark.parametrize("seq", [1, 3, 7, 10, 500])
@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("tail", [False, True])
def test_packed_rows_are_documents_one_after_the_other(store, where, split, seq, tail):
    rows = slow_packed_rows(documents(store, split), seq, store.info.bos, store.info.eod)
    if not tail and rows[-1][2][-1] == 0:
        rows.pop()
    if not rows:
        with pytest.raises(EquimuError, match="too few for a window of seq=500; write a smaller seq"):
            windows_of(store, split, "packed", seq, tail=tail)
        return
    windows = windows_of(store, split, "packed", seq, tail=tail)
    assert windows.count == len(rows) and windows.in_memory == (where == "memory")
    batch = windows.batch(np.arange(windows.count)[::-1])
    assert isinstance(batch, PackedBatch)
    assert [array.dtype for array in batch] == [np.int32, np.int32, np.float32, np.int32]
    assert [array[::-1].tolist() for array in batch] == list(map(list, zip(*rows, strict=True)))


@pytest.mark.parametrize("kind", ["concatenate", "document", "packed"])
def test_rows_do_not_share_memory(store, kind):
    """Whoever changes or donates one batch changes no other."""
    windows = windows_of(store, "train", kind, 4, tail=False)
    first = windows.batch(np.array([0, 1]))
    kept = [array.copy() for array in first]
    for array in windows.batch(np.array([0, 1])):
        array[:] = 77
    for array, copy in zip(map(np.asarray, first), kept, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert array.flags.c_contiguous and array.flags.writeable


def test_mistakes(store):
    cases = [
        (("train", "documents", 4), "did you mean 'document'"),
        (("test", "document", 4), "give one of train, validation"),
        (("train", "document", 0), "seq=0"),
        (("train", "concatenate", 10_000), "too few for a window of seq=10000"),
    ]
    for (split, kind, seq), words in cases:
        with pytest.raises(EquimuError, match=words):
            windows_of(store, split, kind, seq, tail=False)


def test_a_damaged_chunk_stops_a_reader_that_reads_from_disk(store, tmp_path, monkeypatch):
    from equimu.storage import _sequence as arrays

    monkeypatch.setattr("equimu.data._windows._IN_MEMORY_BYTES", 0)
    (path,) = (tmp_path / "s").glob("data-*/train/c/0")
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(bytes(content))
    arrays.cached_chunks.cache_clear()
    windows = windows_of(store, "train", "concatenate", 4, tail=False)
    with pytest.raises(EquimuError, match="cannot be read"):
        windows.batch(np.array([0]))
