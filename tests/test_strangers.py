"""Run folders, locks and checkpoints from strangers, and the current folder: nothing outside is touched, nothing is run."""

import dataclasses
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import call
from runs import lines_run, small_run
from strange import forge, within

import equimu
from equimu import EquimuError, train
from equimu.reports import write_report
from equimu.runs import RunConfig
from equimu.runs import _lock as lock_module
from equimu.runs._lock import FolderLock
from equimu.storage import Checkpoints
from equimu.training import Programs

ROOT = Path(equimu.__file__).parents[1]


# Run folders


def test_what_a_killed_start_left_is_taken_over(tmp_path):
    config = lines_run()
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
        assert {p.name for p in run.folder.iterdir()} <= {
            "config.json",
            "rules.json",
            "metrics.jsonl",
            "source",
            "done",
            *left,
        }
        shutil.rmtree(folder)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(EquimuError, match="holds files but no config.json"):
        train(config, out=tmp_path / "again")


def test_report_is_not_written_through_links(corpus, tmp_path):
    from equimu.reports import Cell, report

    rates = (-7, -6, -5, -4, -3)
    cells = [
        Cell(panel="mup", size=size, value=2.0**rate, seed=0, loss=2 + (rate + 5) ** 2 / 50)
        for size in (16, 32)
        for rate in rates
    ]
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "out").mkdir()
    for suffix in ("html", "md", "png", "json"):
        (tmp_path / "out" / f"report.{suffix}").symlink_to(outside)
    paths = write_report(report(cells), tmp_path / "out")
    assert outside.read_text() == "mine" and not any(path.is_symlink() for path in paths)
    assert paths[2].read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("ahead", [3600.0, 1e9])
def test_lock_of_the_future_is_taken_over_in_time(ahead, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock_module.FolderLock, "stale_seconds", 1.0)
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
    monkeypatch.setattr(lock_module.FolderLock, "stale_seconds", 5.0)
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
    monkeypatch.setattr(lock_module.FolderLock, "stale_seconds", 60.0)
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
    monkeypatch.setattr(lock_module.FolderLock, "stale_seconds", 0.5)
    monkeypatch.setattr(lock_module, "_LISTEN_SECONDS", 0.05)
    (tmp_path / "lock").write_text(content)
    with within(5):
        FolderLock(tmp_path).release()


def test_messages_obey_no_terminal_escapes(capsys, tmp_path):
    code, _, err = call(capsys, "report", f"{tmp_path}/\x1b[2J\x1b]0;owned\x07\nsecond line")
    assert code == 2 and err.count("\n") == 1 and "\x1b" not in err and "\\x1b" in err


def test_config_file_reaches_no_address_that_the_user_did_not_type(capsys, tmp_path):
    for command, values in (
        ("train", {"task": {"text": {"store": "http://localhost:9/x"}}}),
        ("sweep", {"run": {"task": {"text": {"store": "gs://b/x"}}}}),
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


def set_array(index, **fields):
    return lambda found: found["arrays"][index].update(fields)


FORGED = {
    "a folder outside": set_array(1, folder="../../outside"),
    "an absolute folder": set_array(1, folder="/etc"),
    "a file outside": set_array(1, files={"../../../outside/c.0.0": "00000000"}),
    "an array that is too large": set_array(1, stored_shape=[3, 2**40], chunk=[3, 2**40]),
    "a chunk that is too large": set_array(1, chunk=[3, 2**40]),
    "another kind of keys": set_array(0, key_impl="evil"),
    "sizes that are not numbers": set_array(1, chunk=["x", 1]),
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
            assert "a key of evil" in str(error)
            return
    assert restored.step == 1 and len(restored.quarantined) == 1


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
    assert restored.step == 1 and len(restored.quarantined) == 1 and elsewhere.exists()


def test_draft_that_is_a_link_is_removed_and_not_followed(saved):
    outside = saved.parent / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (saved / "step-3.tmp").symlink_to(outside)
    checkpoints = Checkpoints(saved)
    checkpoints.save(3, TREE, {"config": "a"})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3] and [p.name for p in outside.iterdir()] == ["mine"]


# The current folder, seeds, programs


@pytest.mark.long
def test_plan_runs_no_code_of_the_current_folder(tmp_path):
    (tmp_path / "run").touch()
    for name in ("jax", "numpy", "equinox", "json", "dataclasses", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    code = "from equimu.cli import main; main()"
    tiny = ("--size.width", "16", "--model.head-dim", "8", "--base.width", "16", "--text.seq", "16")
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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of mapped memory")
def test_programs_are_freed_when_others_take_their_place(corpus, tmp_path):
    programs = Programs(most=1)
    counts = []
    for width in (24, 40, 56):  # of no other test: programs that are read from a file take fewer pieces
        config = small_run(corpus, width=width, steps=2)
        sizes = {"size": {"width": width, "depth": 1}, "base": {"width": 8, "depth": 1}}
        train(dataclasses.replace(config, **sizes), out=tmp_path, programs=programs)
        gc.collect()  # what JAX keeps of the places in the source that a program comes from refers to the program, in circles
        counts.append(mapped())
        assert len(programs) == 1
    assert counts[2] - counts[1] < 450, counts  # one is some 900 pieces
