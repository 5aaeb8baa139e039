"""One owner per run folder, by the kernel's lock where there is one, by sign of life where there is none."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from runs import lines_run

from equimu import EquimuError, train
from equimu.runs import _lock as lock_module
from equimu.runs._lock import FolderLock

pytestmark = pytest.mark.usefixtures("light_compilation")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock_module, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock_module, "_LISTEN_SECONDS", 0.05)


def owner(folder):
    return json.loads((folder / "lock").read_text())


def another_machine(monkeypatch):
    mine = lock_module._myself()
    monkeypatch.setattr(lock_module, "_myself", lambda: {**mine, "machine": "another", "host": "faraway"})


def test_second_owner_is_refused_and_told_who_the_first_is(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(EquimuError, match=rf"is being trained by process {os.getpid()} on .* since \d{{4}}-") as error:
        FolderLock(tmp_path)
    assert "\n" not in str(error.value)
    lock.release()
    assert list(tmp_path.iterdir()) == []
    FolderLock(tmp_path).release()


def test_run_of_a_live_owner_is_refused_before_anything_is_touched(tmp_path):
    config = lines_run()

    def again(row):
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        with pytest.raises(EquimuError, match="is being trained by process"):
            train(config, out=tmp_path)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path, on_row=again)
    assert not list(tmp_path.rglob("lock"))


def test_killed_owner_leaves_no_lock_behind(tmp_path):
    code = f"""
import time, pathlib
from equimu.runs._lock import FolderLock
lock = FolderLock(pathlib.Path({str(tmp_path)!r}))
print("mine", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(EquimuError, match=f"process {process.pid} on"):
            FolderLock(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert owner(tmp_path)["pid"] == process.pid
    FolderLock(tmp_path).release()


def test_without_the_kernels_lock_the_process_is_known_by_number_and_start(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "_flock", lambda descriptor: None)
    lock = FolderLock(tmp_path)
    with pytest.raises(EquimuError, match="is being trained by"):
        FolderLock(tmp_path)
    mine = owner(tmp_path)
    lock.release()
    for gone in ({"pid": 2**22 + 1}, {"start": "1"}):  # no such process; another one of the same number
        (tmp_path / "lock").write_text(json.dumps({**mine, **gone}))
        FolderLock(tmp_path).release()
    (tmp_path / "lock").write_text(json.dumps(mine)[:20])  # its owner died while writing it
    FolderLock(tmp_path).release()


def test_owner_on_another_host_is_refused_while_it_shows_life(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as there:
        another_machine(there)
        lock = FolderLock(tmp_path)
    monkeypatch.setattr(lock_module, "_flock", lambda descriptor: True)  # a file system that keeps locks to one host
    with pytest.raises(EquimuError, match="on faraway since"):
        FolderLock(tmp_path)
    assert capsys.readouterr().err.count("\n") == 1
    lock.release()


def test_owner_on_another_host_that_has_gone_silent_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "lock").write_text(json.dumps({**lock_module._myself(), "machine": "another", "token": "old"}))
    monkeypatch.setattr(lock_module.FolderLock, "stale_seconds", 1.0)
    started = time.monotonic()
    lock = FolderLock(tmp_path)
    assert 0.5 < time.monotonic() - started < 10 and owner(tmp_path)["pid"] == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_owner_that_was_replaced_notices_and_writes_no_more(tmp_path):
    def replace(row):
        (folder,) = tmp_path.iterdir()
        (folder / "lock").unlink()
        (folder / "lock").write_text(json.dumps({"pid": 1, "host": "faraway", "token": "other"}))
        time.sleep(0.5)

    with pytest.raises(EquimuError, match="was taken by another process"):
        train(lines_run(), out=tmp_path, on_row=replace)
    (folder,) = tmp_path.iterdir()
    assert owner(folder)["token"] == "other"  # and is left alone
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1


def test_many_threads_have_one_owner(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def try_it(number):
        try:
            return FolderLock(tmp_path)
        except EquimuError:
            return None

    with ThreadPoolExecutor(8) as pool:
        locks = [lock for lock in pool.map(try_it, range(32)) if lock is not None]
    assert len(locks) == 1
    locks[0].release()
