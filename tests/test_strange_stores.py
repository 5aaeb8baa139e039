"""Token stores and tokenizer files from strangers: one line, in time and in little memory."""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from strange import forge, within

import equimu
from equimu import EquimuError
from equimu.data import ByteTokenizer, HuggingFaceTokenizer, open_store, read_corpus, write_store
from equimu.data import _store as store_module
from equimu.data import _write as write_module
from equimu.data._orphans import remove_orphans

ROOT = Path(equimu.__file__).parents[1]

# Stores


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"document {number} " + "a few words " * 20)
    return read_corpus(str(folder))


@pytest.fixture
def store(text, tmp_path):
    return Path(write_store(tmp_path / "store", text, ByteTokenizer()).place)


def zarr(change):
    def damage(store):
        (path,) = store.glob("data-*/train/zarr.json")
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))

    return damage


def info(**fields):
    return lambda store: forge(store / "equimu-tokens.json", lambda found: found.update(fields))


def link(pattern):
    def damage(store):
        (path,) = store.glob(pattern)
        path.rename(store.parent / "elsewhere")
        path.symlink_to(store.parent / "elsewhere")

    return damage


def pipe(pattern):
    def damage(store):
        (path,) = store.glob(pattern)
        path.unlink()
        os.mkfifo(path)

    return damage


GZIP = [{"name": "gzip", "configuration": {"level": 9}}]
HOSTILE = {
    "a folder outside": info(folder="../elsewhere"),
    "an absolute folder": info(folder="/etc"),
    "a vocabulary of another size": info(vocab_size=2**31),
    "counts that are not numbers": info(tokens={"train": "x", "validation": 1}),
    "more tokens than there are": info(tokens={"train": 2**40, "validation": 500}),
    "no ends": info(ends={}),
    "a dtype that is none": info(dtype="object"),
    "a linked description": link("equimu-tokens.json"),
    "a linked folder": link("data-*"),
    "a linked array": link("data-*/train"),
    "a linked file": link("data-*/train/c/0"),
    "a piped description": pipe("equimu-tokens.json"),
    "a piped file": pipe("data-*/train/c/0"),
    "a piped zarr.json": pipe("data-*/train/zarr.json"),
    "a codec that grows": zarr(lambda found: found["codecs"][0]["configuration"]["codecs"].extend(GZIP)),
    "a codec around": zarr(lambda found: found.update(codecs=[*found["codecs"], *GZIP])),
    "chunks of 2^40": zarr(lambda found: found["codecs"][0]["configuration"].update(chunk_shape=[2**40])),
    "a shape of 2^40": zarr(lambda found: found.update(shape=[2**40])),
    "nested": lambda store: (store / "equimu-tokens.json").write_text("[" * 100_000),
    "an integer of many digits": lambda store: (store / "equimu-tokens.json").write_text('{"a": ' + "1" * 5000 + "}"),
    "nested zarr.json": lambda store: next(store.glob("data-*/train/zarr.json")).write_text("[" * 100_000),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_store_is_one_line(what, store):
    HOSTILE[what](store)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with within(10), pytest.raises(EquimuError) as error:
        opened = open_store(store, ByteTokenizer())
        opened.tokens("train")
    assert "\n" not in str(error.value) and str(store) in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_packed_zeros_are_refused_before_they_are_read(tmp_path):
    """A store whose checksums are all right, but whose chunks are packed a thousand times over."""
    import tensorstore as ts

    from equimu.storage import _sequence as arrays

    size = 2**26
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{tmp_path}/packed/"},
        "metadata": {
            "shape": [size],
            "data_type": "uint32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [size]}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, *GZIP],
        },
        "store_data_equal_to_fill_value": True,
    }
    ts.open(spec, create=True).result()[:].write(np.uint32(0)).result()
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) < 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="codecs"):
        arrays.open_array(str(tmp_path), "packed", np.dtype("uint32"), size, ["0" * 16])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15


def test_writer_that_died_after_its_commit_loses_nothing(text, store, monkeypatch):
    """A second writer looked for a store before the first one committed; the first died before it took its mark away."""
    message = store_module.read_info(str(store))
    (store / message.folder / "writing").touch()
    looks = iter([None])
    monkeypatch.setattr(write_module, "read_info", lambda place: next(looks, message))
    second = write_store(store, text, ByteTokenizer())
    assert second.info == message and len(second.tokens("train")) == message.tokens["train"]
    assert not list(store.glob("data-*/writing"))


def test_what_killed_writers_left_goes_away(text, store):
    """An empty folder, one with its lock alone, and the mark of the writer that committed."""
    message = store_module.read_info(str(store))
    (store / "data-000000000001").mkdir()
    (store / "data-000000000002").mkdir()
    for folder in ("data-000000000002", message.folder):
        (store / folder / "writing").touch()
    write_store(store, text, ByteTokenizer())
    assert {path.name for path in store.iterdir()} == {message.folder, "equimu-tokens.json"}
    assert not list(store.glob("data-*/writing"))


def test_writers_that_begin_together_have_a_folder_each(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from equimu.data._orphans import being_written

    def write(number):
        with being_written(str(tmp_path), f"data-{number:012x}"):
            remove_orphans(str(tmp_path), lambda: None)
            return (tmp_path / f"data-{number:012x}" / "writing").exists()

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(write, range(300)))


def test_a_lock_that_was_removed_since_it_was_opened_is_not_a_dead_writers(tmp_path, monkeypatch):
    from contextlib import ExitStack

    from equimu.data import _orphans

    folder = tmp_path / "data-000000000001"
    folder.mkdir()
    (folder / "writing").touch()  # a killed writer's
    with ExitStack() as writers:

        def opened(*args):
            monkeypatch.setattr(_orphans, "open_inside", open_inside)
            descriptor = open_inside(*args)
            remove_orphans(str(tmp_path), lambda: None)  # another process is quicker
            writers.enter_context(_orphans.being_written(str(tmp_path), folder.name))
            return descriptor

        open_inside = _orphans.open_inside
        monkeypatch.setattr(_orphans, "open_inside", opened)
        remove_orphans(str(tmp_path), lambda: None)
        assert (folder / "writing").exists()


def test_orphans_are_not_looked_for_through_links(store):
    outside = store.parent / "outside"
    outside.mkdir()
    (outside / "writing").write_text("")
    (store / "data-linked").symlink_to(outside)
    (store / "data-piped").mkdir()
    os.mkfifo(store / "data-piped" / "writing")
    with within(5):
        remove_orphans(str(store), lambda: None)
    assert (outside / "writing").exists()


def test_store_whose_arrays_are_gone_is_no_store(text, store):
    for path in store.glob("data-*"):
        shutil.rmtree(path)
    with pytest.raises(EquimuError, match="cannot be read"):
        write_store(store, text, ByteTokenizer())


# Tokenizers


def split_by(pattern, path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    made.add_special_tokens(["</s>"])
    path.write_text(made.to_str())
    return path


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(x+x+)+y", r"(a|aa)+b", r"(?:(?:a|aa)+b|(?:x|xx)+y)"])
def test_catastrophic_pattern_is_one_line_in_time(pattern, tmp_path, capfd):
    tokenizer = HuggingFaceTokenizer(split_by(pattern, tmp_path / "t.json"))
    texts = ["a" * 60 + "!", "x" * 60 + "!", "harmless"]
    with within(10), pytest.raises(EquimuError, match="cannot encode this text") as error:
        tokenizer.encode_batch(texts)
    assert "\n" not in str(error.value) and capfd.readouterr().err == ""


def test_work_without_end_is_given_up_and_what_was_said_is_kept(capfd):
    from equimu.data._bounded import bounded

    ended = threading.Event()
    with within(5), pytest.raises(TimeoutError):
        bounded(lambda: ended.wait(20), 0.2)
    ended.set()
    assert bounded(lambda: os.write(2, b"said\n"), 5) == 5
    assert capfd.readouterr().err == "said\n"


def test_work_that_is_given_up_says_no_more():
    program = """
import os, sys, time
from equimu.data._bounded import bounded
try:
    bounded(lambda: [os.write(2, b"noise") for _ in range(200) if not time.sleep(0.01)], 0.2)
except TimeoutError as error:
    print("told:", error, file=sys.stderr)
time.sleep(0.2)
print("more", file=sys.stderr)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.stderr == "told: it takes longer than 0 s\nmore\n"


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' + "1" * 5000 + "}", "{}", "", "\xff"])
def test_tokenizer_file_of_nonsense_is_one_line(content, tmp_path, capfd):
    (tmp_path / "t.json").write_text(content, encoding="latin-1")
    with within(10), pytest.raises(EquimuError, match="is not a tokenizer file") as error:
        HuggingFaceTokenizer(tmp_path / "t.json")
    assert "\n" not in str(error.value) and capfd.readouterr().err == ""


def test_tokenizer_file_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "t.json")
    with within(5), pytest.raises(EquimuError, match="not a regular file"):
        HuggingFaceTokenizer(tmp_path / "t.json")
