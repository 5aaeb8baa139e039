"""Checkpoints on storage that fails: for a moment, for good, full, gone, in the way."""

import errno
import os
import subprocess

import jax.numpy as jnp
import pytest
from checkpoints import MANIFEST, assert_same, like_of, names, refused, saved, small

from equimu.storage import Checkpoints, commits

pytestmark = pytest.mark.usefixtures("no_waiting")


class Fails:
    """A call that fails so often, with such an error."""

    def __init__(self, call, number, times):
        self.call, self.number, self.times = call, number, times

    def __call__(self, *args):
        if self.times > 0:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number), str(args[0]))
        return self.call(*args)


@pytest.mark.parametrize("name", ["make_folder", "write", "sync", "rename", "remove"])
def test_trouble_that_passes_is_waited_for(tmp_path, monkeypatch, name):
    saved(tmp_path, 1, 2)
    monkeypatch.setattr(commits, name, Fails(getattr(commits, name), errno.ESTALE, 2))
    saved(tmp_path, 3)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-2", "step-3"]
    assert_same(Checkpoints(tmp_path).restore(like_of(small()), MANIFEST).arrays, small(3))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("name", ["make_folder", "write", "sync", "rename"])
def test_trouble_that_stays_is_one_line(tmp_path, monkeypatch, name, number):
    saved(tmp_path, 1, 2)
    monkeypatch.setattr(commits, name, Fails(getattr(commits, name), number, 10**9))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, small(3), MANIFEST)
    refused(f"cannot save step 3 in .*: {os.strerror(number)}.*are untouched", checkpoints.wait)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-1", "step-2"]  # nothing is left over
    checkpoints.save(3, small(3), MANIFEST)  # told once; the next may succeed
    assert checkpoints.restore(like_of(small()), MANIFEST).step == 3


def test_the_next_save_tells_of_the_failure_before_it(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)
    monkeypatch.setattr(commits, "rename", Fails(commits.rename, errno.EROFS, 1))
    checkpoints.save(2, small(2), MANIFEST)
    refused("cannot save step 2", lambda: checkpoints.save(3, small(3), MANIFEST))


def test_a_checkpoint_that_cannot_be_removed(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)
    monkeypatch.setattr(commits, "remove", Fails(commits.remove, errno.EACCES, 1))
    refused("step 3 is saved, but older checkpoints .* cannot be removed", lambda: saved(tmp_path, 3))
    assert Checkpoints(tmp_path).restore(like_of(small()), MANIFEST).step == 3


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]).returncode != 0:
        pytest.skip("mounting a small disk takes a superuser")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def test_a_full_disk(tiny_disk):
    tree = {"x": jnp.arange(200_000.0)}
    checkpoints = Checkpoints(tiny_disk / "c", keep=9)
    checkpoints.save(1, tree, {})
    checkpoints.save(2, tree, {})
    checkpoints.save(3, tree, {})
    refused("cannot save step 3 in .*: .*No space left on device.*are untouched", checkpoints.wait)
    assert names(tiny_disk / "c") == ["step-1", "step-2"]
    restored = checkpoints.restore(like_of(tree), {})
    assert restored.step == 2
    assert_same(restored.arrays, tree)


def test_a_vanished_disk(tiny_disk):
    checkpoints = saved(tiny_disk / "c", 1)
    subprocess.run(["umount", tiny_disk], check=True)
    checkpoints.save(2, small(2), MANIFEST)
    refused("step-1 is gone from .*unmounted", checkpoints.wait)
    assert names(tiny_disk) == []


def test_a_disk_that_cannot_be_written(tiny_disk):
    checkpoints = saved(tiny_disk / "c", 1)
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    checkpoints.save(2, small(2), MANIFEST)
    refused("cannot save step 2 in .*: Read-only file system", checkpoints.wait)
    assert checkpoints.restore(like_of(small()), MANIFEST).step == 1


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("in the way")
    checkpoints = Checkpoints(tmp_path / "file" / "c")
    checkpoints.save(1, small(), {})
    refused("cannot save step 1 in .*: Not a directory", checkpoints.wait)
    refused("cannot read .*: Not a directory", lambda: checkpoints.restore(small(), {}))
