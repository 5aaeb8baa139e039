"""Folders, stores, tokenizers and locks from strangers: nothing outside is read or written, nothing is run, all in time."""

import contextlib
import dataclasses
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import small_run

import equimu
from equimu import EquimuError, train
from equimu._cli import main
from equimu._folder import check_inside, local_folder, open_inside, read_inside, write_inside
from equimu._json import loads
from equimu.checkpoint import Checkpoints
from equimu.data import ByteTokenizer, HuggingFaceTokenizer, open_store, read_corpus, write_store
from equimu.data import _store as store_module
from equimu.data import _write as write_module
from equimu.data._orphans import remove_orphans
from equimu.report import write_report
from equimu.train import RunConfig
from equimu.train import _lock as lock_module
from equimu.train import _program as program_module
from equimu.train._lock import FolderLock

ROOT = Path(equimu.__file__).parents[1]


@contextlib.contextmanager
def within(seconds):
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


# Files inside of a folder


def test_files_are_read_and_written_inside_of_a_folder_only(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (inside / "folder").symlink_to(outside)
    (inside / "file").symlink_to(outside / "secret")
    (inside / "loop").symlink_to("loop")
    os.mkfifo(inside / "pipe")
    (inside / "file.tmp").symlink_to(outside / "secret")
    for name in (
        "file",
        "folder/secret",
        "../outside/secret",
        "loop",
        "pipe",
        "/etc/passwd",
        "",
        "real",
        "real/../file",
    ):
        with within(1), pytest.raises(OSError):
            read_inside(inside, name)
        with within(1), pytest.raises(OSError):
            os.close(open_inside(inside, name, os.O_WRONLY | os.O_CREAT))
    for name in ("file", "folder", "loop", "pipe"):
        with pytest.raises(OSError):
            check_inside(inside, name)
    with pytest.raises(OSError):
        write_inside(inside, "folder/secret", b"changed")
    write_inside(inside, "file", b"new")  # takes the link's place
    assert (outside / "secret").read_text() == "secret" and sorted(outside.iterdir()) == [outside / "secret"]
    assert read_inside(inside, "file") == b"new" and not (inside / "file").is_symlink()
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_inside(inside, "file", most=2)
    link = tmp_path / "link"
    link.symlink_to(inside)  # the folder itself is where the user said
    assert read_inside(link, "file") == b"new"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '[1, {"a": ' * 150 + "1" + "}]" * 150,
        "1" * 5000,
        "[-" + "1" * 101 + "]",
        b"\xff",
        "{",
    ],
)
def test_json_that_python_chokes_on_is_a_value_error(text):
    with within(5), pytest.raises(ValueError) as error:
        loads(text)
    assert "\n" not in str(error.value)


def test_json_of_every_day_is_read():
    value = {"a": [1, -2.5, None, True, "x"], "state": 2**127, "nested": [[[[{}]]]] * 100}
    assert loads(json.dumps(value)) == loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize("place", ["", "gs://bucket/x", Path("gs://bucket/x"), "s3://b", "http://h/x", "a\0b"])
def test_folder_of_runs_is_local_and_named(place, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EquimuError, match="--out (is empty|must be a local folder|holds a NUL)"):
        train(small_run(corpus), out=place)
    assert list(tmp_path.iterdir()) == []
    assert local_folder("~/x", "x") == Path.home() / "x" and local_folder(".", "x") == Path(".")


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", ""],
        ["report", ".", "--out", ""],
        ["train", "--out", ""],
        ["sweep", "--out", ""],
        ["sweep", "--out", "gs://bucket/x"],
        ["train", "--out", "s3://bucket/x"],
        ["data", ""],
        ["coord-check", "--out", ""],
    ],
)
def test_empty_names_are_not_the_current_folder(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with within(10):
        code, out, err = call(capsys, *arguments)
    assert code == 2 and out == "" and err.count("\n") == 1, err
    assert list(tmp_path.iterdir()) == []


# Run folders


def test_what_a_killed_start_left_is_taken_over(corpus, tmp_path):
    config = small_run(corpus)
    name = train(config, out=tmp_path / "once").folder.name
    folder = tmp_path / "again" / name
    for left in (
        ["lock"],
        ["lock", "rules.json"],
        ["lock-" + "0" * 32, "metrics.jsonl.tmp"],
        ["config.json.tmp", "metrics.jsonl"],
    ):
        folder.mkdir(parents=True)
        for file in left:
            (folder / file).write_text("")
        run = train(config, out=tmp_path / "again")
        assert {p.name for p in run.folder.iterdir()} <= {"config.json", "rules.json", "metrics.jsonl", "done", *left}
        shutil.rmtree(folder)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(EquimuError, match="holds files but no config.json"):
        train(config, out=tmp_path / "again")


def test_report_is_not_written_through_links(corpus, tmp_path):
    from equimu.report import Cell, report

    rates = (-7, -6, -5, -4, -3)
    cells = [
        Cell(parameterization="mup", size=size, learning_rate=2.0**rate, seed=0, loss=2 + (rate + 5) ** 2 / 50)
        for size in (16, 32)
        for rate in rates
    ]
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "out").mkdir()
    for suffix in ("md", "png", "json"):
        (tmp_path / "out" / f"report.{suffix}").symlink_to(outside)
    paths = write_report(report(cells), tmp_path / "out")
    assert outside.read_text() == "mine" and not any(path.is_symlink() for path in paths)
    assert paths[1].read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("ahead", [3600.0, 1e9])
def test_lock_of_the_future_is_taken_over_in_time(ahead, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock_module, "_STALE_SECONDS", 1.0)
    monkeypatch.setattr(lock_module, "_LISTEN_SECONDS", 0.05)
    owner = {**lock_module._myself(), "machine": "another", "host": "far\x1b[2Jaway\n", "since": "\x1b]0;title\x07"}
    (tmp_path / "lock").write_text(json.dumps(owner))
    os.utime(tmp_path / "lock", (time.time() + ahead,) * 2)
    with within(10):
        FolderLock(tmp_path).release()
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "\x1b" not in err and "\x07" not in err
    assert "s ahead" in err and f"remove {tmp_path}/lock to go on" in err


def test_lock_of_the_future_that_shows_life_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "_STALE_SECONDS", 5.0)
    monkeypatch.setattr(lock_module, "_LISTEN_SECONDS", 0.05)
    path = tmp_path / "lock"
    path.write_text(json.dumps({**lock_module._myself(), "machine": "another"}))
    os.utime(path, (time.time() + 3600,) * 2)
    beat = threading.Timer(0.5, lambda: os.utime(path, (time.time() + 3605,) * 2))
    beat.start()
    with within(4), pytest.raises(EquimuError, match="is being trained by"):
        FolderLock(tmp_path)
    beat.join()


def test_lock_that_is_removed_is_waited_for_no_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "_STALE_SECONDS", 60.0)
    monkeypatch.setattr(lock_module, "_LISTEN_SECONDS", 0.05)
    path = tmp_path / "lock"
    path.write_text(json.dumps({**lock_module._myself(), "machine": "another"}))
    removal = threading.Timer(0.5, path.unlink)
    removal.start()
    with within(10):
        lock = FolderLock(tmp_path)
    assert json.loads(path.read_text())["pid"] == os.getpid() and not lock.is_lost
    lock.release()


@pytest.mark.parametrize(
    "content",
    [
        "[" * 4000,
        '{"pid": ' + "1" * 4000 + "}",
        '{"pid": "x", "start": null}',
        "[]",
        "\0",
        '{"machine": {}, "pid": -1}',
        "",
    ],
)
def test_lock_that_says_nonsense_is_taken_over(content, tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "_STALE_SECONDS", 0.5)
    monkeypatch.setattr(lock_module, "_LISTEN_SECONDS", 0.05)
    (tmp_path / "lock").write_text(content)
    with within(5):
        FolderLock(tmp_path).release()


def test_messages_obey_no_terminal_escapes(capsys, tmp_path):
    code, _, err = call(capsys, "report", f"{tmp_path}/\x1b[2J\x1b]0;owned\x07\nsecond line")
    assert code == 2 and err.count("\n") == 1 and "\x1b" not in err and "\\x1b" in err


def test_config_file_reaches_no_address_that_the_user_did_not_type(capsys, tmp_path):
    for command, values in (
        ("train", {"data": {"store": "http://localhost:9/x"}}),
        ("sweep", {"run": {"data": {"store": "gs://b/x"}}}),
    ):
        (tmp_path / "config.json").write_text(json.dumps(values))
        code, _, err = call(capsys, command, "--config", tmp_path / "config.json")
        assert code == 2 and "which is not on this machine" in err and err.count("\n") == 1


# Checkpoints


TREE = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "key": jax.random.key(3)}
LIKE = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), TREE)


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "saved")
    for step in (1, 2):
        checkpoints.save(step, TREE, {"config": "a"})
    checkpoints.wait()
    return tmp_path / "saved"


def forge(path, change):
    """Changes a file that has its own checksum, and gives it one that is right."""
    found = json.loads(path.read_text())
    del found["checksum"]
    change(found)
    checksum = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**found, "checksum": checksum}))


def set_array(index, **fields):
    return lambda found: found["arrays"][index].update(fields)


FORGED = {
    "a folder outside": set_array(1, folder="../../outside"),
    "an absolute folder": set_array(1, folder="/etc"),
    "a file outside": set_array(1, files={"../../../outside/c.0.0": "00000000"}),
    "an array that is too large": set_array(1, stored_shape=[3, 2**40], chunk=[3, 2**40]),
    "a chunk that is too large": set_array(1, chunk=[3, 2**40]),
    "another kind of keys": set_array(0, key_impl="evil"),
    "sizes that are no numbers": set_array(1, chunk=["x", 1]),
    "arrays that are none": lambda found: found.update(arrays=[3]),
    "a manifest that is none": lambda found: found.update(manifest=[]),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_manifest_is_damage(what, saved):
    forge(saved / "step-2" / "manifest.json", FORGED[what])
    with within(5):
        try:
            restored = Checkpoints(saved).restore(LIKE, {"config": "a"})
        except EquimuError as error:
            assert "keys of evil" in str(error)
            return
    assert restored.step == 1 and len(restored.set_aside) == 1


@pytest.mark.parametrize(
    "where", ["step-2", "step-2/manifest.json", "step-2/*w*", "step-2/*w*/c*", "step-2/*w*/zarr.json"]
)
@pytest.mark.parametrize("what", ["link", "pipe"])
def test_checkpoint_with_links_or_pipes_is_damage(what, where, saved):
    (path,) = saved.glob(where)
    elsewhere = saved.parent / "elsewhere"
    path.rename(elsewhere)
    if what == "link":
        path.symlink_to(elsewhere)
    else:
        os.mkfifo(path)
    with within(5):
        restored = Checkpoints(saved).restore(LIKE, {"config": "a"})
    assert restored.step == 1 and len(restored.set_aside) == 1 and elsewhere.exists()


def test_draft_that_is_a_link_is_removed_and_not_followed(saved):
    outside = saved.parent / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (saved / "step-3.tmp").symlink_to(outside)
    checkpoints = Checkpoints(saved)
    checkpoints.save(3, TREE, {"config": "a"})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3] and [p.name for p in outside.iterdir()] == ["mine"]


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
    "counts that are no numbers": info(tokens={"train": "x", "validation": 1}),
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

    from equimu.data import _arrays as arrays

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


def test_writer_that_died_behind_its_commit_loses_nothing(text, store, monkeypatch):
    """A second writer looked for a store before the first one committed; the first died before it took its mark away."""
    told = store_module.read_info(str(store))
    (store / told.folder / "writing").touch()
    looks = iter([None])
    monkeypatch.setattr(write_module, "read_info", lambda place: next(looks, told))
    second = write_store(store, text, ByteTokenizer())
    assert second.info == told and len(second.tokens("train")) == told.tokens["train"]
    assert not list(store.glob("data-*/writing"))


def test_what_killed_writers_left_goes_away(text, store):
    """An empty folder, one with its lock alone, and the mark of the writer that committed."""
    told = store_module.read_info(str(store))
    (store / "data-000000000001").mkdir()
    (store / "data-000000000002").mkdir()
    for folder in ("data-000000000002", told.folder):
        (store / folder / "writing").touch()
    write_store(store, text, ByteTokenizer())
    assert {path.name for path in store.iterdir()} == {told.folder, "equimu-tokens.json"}
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


# The current folder, seeds, programs


def test_plan_runs_no_code_of_the_current_folder(tmp_path):
    (tmp_path / "run").touch()
    for name in ("jax", "numpy", "equinox", "json", "dataclasses", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    code = "from equimu._cli import main; main()"
    tiny = ("--model.width", "16", "--model.head-dim", "8", "--parameterization.base-width", "16", "--data.seq", "16")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "plan", "cpu:2", *tiny],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and "cpu:2" in done.stdout, done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64, 10**30])
def test_seeds_that_jax_would_take_for_others_are_refused(seed):
    with pytest.raises(EquimuError, match="seed must be at least 0 and below 2"):
        RunConfig(seed=seed)
    RunConfig(seed=2**32 - 1)


def mapped():
    return len(Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of mapped memory")
def test_programs_are_freed_when_others_take_their_place(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(program_module, "_MOST_PROGRAMS", 1)
    counts = []
    for width in (16, 24):
        config = small_run(corpus, width=width, steps=2)
        model = dataclasses.replace(config.model, width=width, n_layer=1)
        rules = dataclasses.replace(config.parameterization, base_width=8)
        train(dataclasses.replace(config, model=model, parameterization=rules), out=tmp_path)
        counts.append(mapped())
        assert len(program_module._PROGRAMS) == 1
    assert counts[1] - counts[0] < 450  # one is some 900 pieces
