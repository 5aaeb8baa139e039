"""Token stores: content, split, commit, corruption, errors."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from equimu._errors import EquimuError
from equimu.data import (
    ByteTokenizer,
    Corpus,
    default_cache,
    open_store,
    prepare,
    read_corpus,
    write_store,
)
from equimu.data._orphans import being_written
from equimu.storage import _sequence as arrays


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i:02}.txt").write_text(f"document {i} " + "ab cd\n" * (i % 7))
    return read_corpus(str(folder))


class Wide(ByteTokenizer):
    """Bytes moved to the top of a large vocabulary."""

    def __init__(self, vocab_size):
        object.__setattr__(self, "name", "wide")
        object.__setattr__(self, "fingerprint", f"wide-{vocab_size}")
        object.__setattr__(self, "vocab_size", vocab_size)
        object.__setattr__(self, "bos", vocab_size - 1)
        object.__setattr__(self, "eod", vocab_size - 2)

    def encode_batch(self, texts):
        return [ids.astype(np.int64) + self.vocab_size - 258 for ids in super().encode_batch(texts)]


def split_back(store, split):
    """The documents of a split as texts, from tokens and offsets, checking both against each other."""
    tokens, offsets = store.tokens(split), store.offsets(split)
    assert offsets[0] == 0 and offsets[-1] == len(tokens) == store.info.tokens[split]
    assert len(offsets) - 1 == store.info.documents[split]
    texts = []
    for begin, end in zip(offsets[:-1], offsets[1:], strict=True):
        document = tokens[begin:end].tolist()
        assert document[-1] == 0 and 0 not in document[:-1]
        texts.append(bytes(document[:-1]).decode())
    return texts


PLACES = ["{}/store", "{0}/../{0.name}/store", "{}/a b#c%20d", "file://{}/store/", "memory://{}/store"]


@pytest.mark.parametrize("place", PLACES)
def test_every_document_is_on_one_side_in_order(tmp_path, corpus, place):
    place = place.format(tmp_path)
    store = write_store(place, corpus, ByteTokenizer(), validation=0.2)
    train, validation = split_back(store, "train"), split_back(store, "validation")
    texts = list(corpus.documents())
    assert [t for t in texts if t in train] == train
    assert [t for t in texts if t in validation] == validation
    assert sorted(train + validation) == sorted(texts)
    assert store.info.dtype == "uint8" and store.tokens("train").dtype == np.uint8
    assert open_store(place, ByteTokenizer()).info == store.info


def test_shards_and_chunks_of_any_size_hold_the_same(tmp_path, corpus, monkeypatch):
    whole = write_store(tmp_path / "whole", corpus, ByteTokenizer())
    monkeypatch.setattr(arrays.ArrayWriter, "shard", 64)
    monkeypatch.setattr(arrays.ArrayWriter, "chunk", 16)
    monkeypatch.setattr("equimu.data._write._ENCODE_CHARACTERS", 50)
    parts = write_store(tmp_path / "parts", corpus, ByteTokenizer())
    assert len(list((tmp_path / "parts").glob("data-*/train/c/*"))) > 5
    for split in ("train", "validation"):
        np.testing.assert_array_equal(parts.tokens(split), whole.tokens(split))
        np.testing.assert_array_equal(parts.offsets(split), whole.offsets(split))
    assert parts.info.fingerprint == whole.info.fingerprint


def test_the_split_depends_on_content_alone(tmp_path):
    """Copies of a document go to one side, wherever they are and whatever is around them."""
    sides = {}
    for round_ in range(3):
        folder = tmp_path / f"text{round_}"
        folder.mkdir()
        for i in range(40):
            for copy in range(round_ + 1):
                (folder / f"{(i * 7 + copy * 13) % 41}-{copy}-{i}.txt").write_text(f"document {i}")
        store = write_store(tmp_path / str(round_), read_corpus(str(folder)), ByteTokenizer(), validation=0.3)
        train, validation = split_back(store, "train"), split_back(store, "validation")
        assert set(train).isdisjoint(validation)
        assert len(train) + len(validation) == 40 * (round_ + 1)
        sides[round_] = set(validation)
    assert sides[0] == sides[1] == sides[2] != set()


def test_the_share_and_the_seed_of_the_split(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"{i}"}) + "\n" for i in range(4000)))
    corpus = read_corpus(str(tmp_path / "a.jsonl"))
    held_out = {}
    for seed in (0, 1):
        store = write_store(tmp_path / f"s{seed}", corpus, ByteTokenizer(), validation=0.1, split_seed=seed)
        held_out[seed] = set(split_back(store, "validation"))
        assert abs(len(held_out[seed]) - 400) < 4 * np.sqrt(4000 * 0.1 * 0.9)
    # independent draws share 1 % of all documents, not the same tenth
    assert abs(len(held_out[0] & held_out[1]) - 40) < 4 * np.sqrt(40)


@pytest.mark.parametrize("share", [1e-6, 1 - 1e-6])
def test_neither_side_is_ever_empty(tmp_path, share):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
    store = write_store(tmp_path / "s", read_corpus(f"{tmp_path}/*.txt"), ByteTokenizer(), validation=share)
    assert sorted(store.info.documents.values()) == [1, 2]


def test_dtype_follows_the_vocabulary(tmp_path, corpus):
    for vocab_size, dtype in ((257, "uint16"), (65536, "uint16"), (65537, "uint32"), (2**32, "uint32")):
        store = write_store(tmp_path / str(vocab_size), corpus, Wide(vocab_size))
        assert store.info.dtype == dtype
        assert store.tokens("train").max() == vocab_size - 2  # end-of-document, uncut
        assert (store.info.bos, store.info.eod) == (vocab_size - 1, vocab_size - 2)
    forced = write_store(tmp_path / "forced", corpus, ByteTokenizer(), dtype="uint32")
    assert forced.tokens("train").dtype == np.uint32


def test_replaced_bytes_are_counted(tmp_path, capsys):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_bytes(b"text %d \xff" % i)
    assert write_store(tmp_path / "s", read_corpus(f"{tmp_path}/*.txt"), ByteTokenizer()).info.replaced == 3
    told = capsys.readouterr().err
    assert "3 of 3 documents with bytes that are not UTF-8 (3 characters replaced)\n" in told


def test_a_store_is_made_once(tmp_path, corpus):
    first = write_store(tmp_path / "s", corpus, ByteTokenizer())
    assert write_store(tmp_path / "s", corpus, ByteTokenizer()).info == first.info
    others = [
        lambda: write_store(tmp_path / "s", corpus, ByteTokenizer(), validation=0.5),
        lambda: write_store(tmp_path / "s", corpus, ByteTokenizer(), split_seed=1),
        lambda: write_store(tmp_path / "s", corpus, ByteTokenizer(), dtype="uint16"),
        lambda: write_store(tmp_path / "s", corpus, Wide(300)),
    ]
    for other in others:
        with pytest.raises(EquimuError, match="other text, tokenizer or settings"):
            other()


def test_prepare_names_stores_by_what_they_are_made_from(tmp_path, corpus):
    cache = tmp_path / "cache"
    first = prepare(corpus.name, ByteTokenizer(), cache)
    assert prepare(corpus.name, ByteTokenizer(), cache).info == first.info
    corpus.paths[0].write_text("changed")
    second = prepare(corpus.name, ByteTokenizer(), cache)
    third = prepare(corpus.name, Wide(300), f"file://{cache}")
    assert len({first.place, second.place, third.place}) == 3
    assert len({s.info.fingerprint for s in (first, second, third)}) == 3
    assert len(list(cache.iterdir())) == 3


def test_default_cache_by_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EQUIMU_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("EQUIMU_CACHE")
    assert default_cache() == Path.home() / ".cache" / "equimu"


def test_the_default_corpus_is_quick_to_build(tmp_path):
    start = time.process_time()
    store = prepare("stdlib", ByteTokenizer(), tmp_path)
    assert time.process_time() - start < 10  # 0.6 s on an idle core; the bound only catches what is broken
    assert store.info.tokens["train"] > 8_000_000
    assert 0.01 < store.info.tokens["validation"] / store.info.tokens["train"] < 0.3


def test_an_interrupted_writer_leaves_nothing(tmp_path, corpus):
    class Stops(ByteTokenizer):
        def encode_batch(self, texts):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "s", corpus, Stops())
    assert list((tmp_path / "s").iterdir()) == []
    with pytest.raises(EquimuError, match="there is no token store"):
        open_store(tmp_path / "s")
    write_store(tmp_path / "s", corpus, ByteTokenizer())


def test_arrays_without_the_commit_are_no_store(tmp_path, corpus):
    """What a killed writer leaves: all arrays, but not the file that is written last."""
    store = write_store(tmp_path / "s", corpus, ByteTokenizer())
    (tmp_path / "s" / "equimu-tokens.json").unlink()
    with pytest.raises(EquimuError, match="there is no token store"):
        open_store(tmp_path / "s")
    again = write_store(tmp_path / "s", corpus, ByteTokenizer())
    assert again.info.folder != store.info.folder and again.info.fingerprint == store.info.fingerprint


def test_several_writers_at_once_make_one_store(tmp_path, corpus):
    barrier = threading.Barrier(3)

    class Meets(ByteTokenizer):
        """Lets no writer go on before all have found that there is no store yet."""

        def encode_batch(self, texts):
            barrier.wait(timeout=30)
            return super().encode_batch(texts)

    def write(_):
        return write_store(tmp_path / "s", corpus, Meets()).info

    with ThreadPoolExecutor(3) as pool:
        infos = list(pool.map(write, range(3)))
    assert infos[0] == infos[1] == infos[2]
    assert [p.name for p in (tmp_path / "s").glob("data-*")] == [infos[0].folder]
    store = open_store(tmp_path / "s")
    assert sorted(split_back(store, "train") + split_back(store, "validation")) == sorted(corpus.documents())


def damaged_files(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    assert {p.name for p in files} == {"equimu-tokens.json", "zarr.json", "0"}
    return files


def read_all(place):
    arrays.cached_chunks.cache_clear()  # as a new process would
    store = open_store(place)
    return [store.tokens(s).tobytes() + store.offsets(s).tobytes() for s in ("train", "validation")]


def test_a_flipped_byte_never_passes_unseen(tmp_path, corpus):
    """Every file, bytes all over it: an error of one line, or (white space in a JSON, say) the same data."""
    place = tmp_path / "s"
    write_store(place, corpus, ByteTokenizer())
    good = read_all(place)
    raised = 0
    for path in damaged_files(place):
        content = path.read_bytes()
        chunk = path.name == "0"
        for at in np.linspace(0, len(content) - 1, 12).astype(int):
            broken = bytearray(content)
            broken[at] ^= 0x11
            path.write_bytes(bytes(broken))
            try:
                assert read_all(place) == good and not chunk, (path, at)
            except EquimuError as error:
                assert "\n" not in str(error) and str(place) in str(error)
                raised += 1
        path.write_bytes(content)
    assert read_all(place) == good
    assert raised >= 4 * 12


def test_an_edited_description_is_an_error(tmp_path, corpus):
    """Valid JSON that says something else about the same arrays."""
    write_store(tmp_path / "s", corpus, ByteTokenizer())
    path = tmp_path / "s" / "equimu-tokens.json"
    content = path.read_text()
    assert '"eod": 0' in content
    path.write_text(content.replace('"eod": 0', '"eod": 7'))
    with pytest.raises(EquimuError, match="checksum"):
        open_store(tmp_path / "s")


def test_a_truncated_or_lost_file_is_an_error(tmp_path, corpus):
    place = tmp_path / "s"
    write_store(place, corpus, ByteTokenizer())
    for path in damaged_files(place):
        content = path.read_bytes()
        for size in (0, len(content) // 2, len(content) - 1, None):
            path.unlink()
            if size is not None:
                path.write_bytes(content[:size])
            with pytest.raises(EquimuError, match=re.escape(str(place))):
                read_all(place)
        path.write_bytes(content)
    assert read_all(place)


def test_a_chunk_of_zeros_is_no_lost_chunk(tmp_path):
    values = np.zeros(5000, np.uint16)
    writer = arrays.ArrayWriter(str(tmp_path), "zeros", np.dtype("uint16"))
    writer.append(values)
    digest, ends = writer.finish()
    assert digest == hashlib.sha256(values.tobytes()).hexdigest()
    np.testing.assert_array_equal(
        arrays.open_array(str(tmp_path), "zeros", values.dtype, 5000, ends).read().result(), values
    )


def test_a_store_of_another_format_is_refused(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr("equimu.data._write.FORMAT", 99)
    with pytest.raises(EquimuError, match="format 99"):
        write_store(tmp_path / "s", corpus, ByteTokenizer())


def test_tokenizer_and_store_must_match(tmp_path, corpus):
    write_store(tmp_path / "s", corpus, ByteTokenizer())
    with pytest.raises(EquimuError, match="written with tokenizer 'bytes'.*use that tokenizer"):
        open_store(tmp_path / "s", Wide(300))


def test_mistakes_are_told_before_anything_is_written(tmp_path, corpus):
    place = tmp_path / "s"
    cases = [
        (lambda: write_store(place, corpus, Wide(257), dtype="uint8"), "vocabulary of 257.*'uint16'"),
        (lambda: write_store(place, corpus, ByteTokenizer(), dtype="int8"), "did you mean 'uint8'"),
        (lambda: write_store(place, corpus, ByteTokenizer(), validation=0.0), "above 0 and below 1"),
        (lambda: write_store(place, corpus, ByteTokenizer(), validation=1.0), "above 0 and below 1"),
        (lambda: open_store(place), "there is no token store"),
        (lambda: open_store("nope://bucket/x"), "cannot open 'nope://bucket/x'"),
    ]
    for call, words in cases:
        with pytest.raises(EquimuError, match=words) as error:
            call()
        assert "\n" not in str(error.value)
    assert not place.exists()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([b"", b""], "is empty: no text in 2 files"),
        ([b"same", b"same"], "is one document"),
        ([b"", b"one\n" + b"\xe9" * 99], "no UTF-8 text: .*1.txt, line 2, holds bytes that are not UTF-8; convert it"),
        ([b"\0\1"], "no UTF-8 text: .*0.txt, line 1, holds a NUL"),
    ],
)
def test_a_corpus_that_cannot_be_split(tmp_path, texts, words):
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_bytes(text)
    with pytest.raises(EquimuError, match=words):
        write_store(tmp_path / "s", read_corpus(f"{tmp_path}/*.txt"), ByteTokenizer())
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("corpus", "place", "refused"),
    [
        ("text", "text/store", True),
        ("text", "text", True),
        ("text", "link/deep/store", True),
        ("text", "text/.store", False),
        ("text", "textual", False),
        ("text/*", "text", True),
        ("text/*", "text/store", False),
        ("text/**", "text/store", True),
        ("text/**/*.txt", "text/store", False),
        ("hf://{}/text", "text/store", True),
        ("hf://{}/text/*.txt", "text/store", False),
    ],
)
def test_a_store_is_no_part_of_its_own_text(tmp_path, monkeypatch, corpus, place, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    (tmp_path / "link").symlink_to("text")
    for name in "ab":
        (tmp_path / "text" / f"{name}.txt").write_text(name)
    before = sorted(tmp_path.rglob("*"))
    found = read_corpus(corpus.format(tmp_path))
    if refused:
        with pytest.raises(EquimuError, match="would lie in corpus"):
            write_store(place, found, ByteTokenizer())
        assert sorted(tmp_path.rglob("*")) == before
    else:
        write_store(place, found, ByteTokenizer())
        assert read_corpus("hf://text/*.txt" if corpus.startswith("hf") else corpus).fingerprint == found.fingerprint


@pytest.mark.parametrize("spec", ["{}", "{}/s", "{}/**", "{}/s/*.json", "hf://{}"])
def test_a_store_is_no_text(tmp_path, corpus, spec):
    write_store(tmp_path / "s", corpus, ByteTokenizer())
    with pytest.raises(EquimuError, match="holds a token store, '.*s', which is no text"):
        read_corpus(spec.format(tmp_path))


def test_a_file_that_is_not_text_is_left_out_and_told(tmp_path, corpus, capsys):
    last = corpus.paths[-1]
    last.write_bytes(b"\x00\x01")
    store = write_store(tmp_path / "s", corpus, ByteTokenizer())
    assert store.info.documents_left_out == 1
    assert sum(store.info.documents.values()) == len(corpus.paths) - 1
    told = capsys.readouterr().err
    assert "1 document left out, as no text" in told and "UTF-8" not in told
    assert write_store(tmp_path / "s", corpus, ByteTokenizer()).info == store.info


def test_a_file_that_cannot_be_read_leaves_no_half_made_store(tmp_path, corpus):
    class Vanishes(ByteTokenizer):
        def encode_batch(self, texts):
            raise EquimuError("the tokenizer fails")

    with pytest.raises(EquimuError, match="the tokenizer fails"):
        write_store(tmp_path / "s", corpus, Vanishes())
    assert list((tmp_path / "s").iterdir()) == []


def swap(one, other):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def test_swapped_files_are_found(tmp_path, corpus, monkeypatch):
    """Files of one array, whose chunks are each as good as the other's, and files of two arrays or two stores."""
    monkeypatch.setattr(arrays.ArrayWriter, "shard", 64)
    monkeypatch.setattr(arrays.ArrayWriter, "chunk", 16)
    place = tmp_path / "s"
    write_store(place, corpus, ByteTokenizer())
    write_store(tmp_path / "other", corpus, ByteTokenizer(), split_seed=1)
    good = read_all(place)
    files = sorted(place.glob("data-*/*/c/*"))
    others = sorted((tmp_path / "other").glob("data-*/train/c/*"))
    foreign = next(path for path in others if path.read_bytes() != files[0].read_bytes())
    pairs = [(files[0], files[1]), (files[1], files[-1]), (files[0], foreign)]
    (train, offsets) = (sorted(place.glob(f"data-*/{name}/zarr.json"))[0] for name in ("train", "train-offsets"))
    for one, other in [*pairs, (train, offsets), (train, train.parent / "c" / "0")]:
        swap(one, other)
        with pytest.raises(EquimuError, match="token store .* cannot be read; if it is damaged"):
            read_all(place)
        swap(one, other)
    assert read_all(place) == good


def test_a_killed_writer_leaves_no_store_and_its_orphan_is_cleaned(tmp_path, corpus):
    """SIGKILL while it writes: no store; what it left is removed by the next writer, but not what a living one has."""
    program = f"""
import os, signal
from pathlib import Path
from equimu.data import ByteTokenizer, read_corpus, write_store

class Dies(ByteTokenizer):
    def encode_batch(self, texts):
        os.kill(os.getpid(), signal.SIGKILL)

write_store({str(tmp_path / "s")!r}, read_corpus({corpus.name!r}), Dies())
"""
    environment = os.environ | {"PYTHONPATH": str(Path(arrays.__file__).parents[2])}
    died = subprocess.run([sys.executable, "-c", program], env=environment, timeout=60)
    assert died.returncode == -signal.SIGKILL
    (orphan,) = (tmp_path / "s").iterdir()
    assert list(orphan.rglob("zarr.json"))
    with pytest.raises(EquimuError, match="there is no token store"):
        open_store(tmp_path / "s")
    with being_written(str(tmp_path / "s"), "data-living"):
        store = write_store(tmp_path / "s", corpus, ByteTokenizer())
        assert sorted(path.name for path in (tmp_path / "s").iterdir()) == sorted(
            ["data-living", store.info.folder, "equimu-tokens.json"]
        )
    assert [path.name for path in (tmp_path / "s" / store.info.folder).glob("writing*")] == []


def test_a_place_that_cannot_be_written(tmp_path, corpus):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EquimuError, match="file") as error:
        write_store(tmp_path / "file" / "s", corpus, ByteTokenizer())
    assert "\n" not in str(error.value)


def test_an_unknown_split_is_an_error(tmp_path, corpus):
    store = write_store(tmp_path / "s", corpus, ByteTokenizer())
    with pytest.raises(EquimuError, match="did you mean 'validation'"):
        store.tokens("valid")
