"""Checkpoints of a process that is killed: a step is there as a whole, or not at all."""

import itertools

import pytest
from checkpoints import MANIFEST, assert_same, like_of, names, saved, small

from equimu.storage import Checkpoints, commits

pytestmark = pytest.mark.usefixtures("no_waiting")


class Killed(BaseException):
    pass


class Calls:
    """Stands in for the calls on the file system: kills before the n-th, after which nothing reaches the disk any more."""

    def __init__(self, monkeypatch, at):
        self.count, self.at = 0, at
        for name in ("make_folder", "write", "sync", "rename", "remove"):
            monkeypatch.setattr(commits, name, self._wrapped(getattr(commits, name), name))

    def _wrapped(self, call, name):
        def wrapped(*args):
            if self.count >= self.at:
                # Half of what a call does may be done: a file may be half written, a folder half removed.
                if self.count == self.at and name == "write":
                    args[0].write_bytes(args[1][: len(args[1]) // 2])
                if self.count == self.at and name == "remove":
                    next(path for path in args[0].rglob("*") if path.is_file()).unlink()
                self.count += 1
                raise Killed
            self.count += 1
            return call(*args)

        return wrapped


def calls_of_a_save(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        saved(tmp_path / "count", 1, 2)
        calls = Calls(patch, 10**9)
        saved(tmp_path / "count", 3)
    return calls.count


def goes_on(root):
    """The step of the newest checkpoint, which is whole, and the checkpoints after a save of step 4 that follows it."""
    again = Checkpoints(root)
    restored = again.restore(like_of(small()), MANIFEST)
    assert restored.quarantined == ()
    assert_same(restored.arrays, small(restored.step))
    again.save(4, small(4), MANIFEST)
    again.wait()
    assert again.steps() == [restored.step, 4]
    return restored.step, again


def test_a_kill_between_any_two_calls_of_a_commit(tmp_path, monkeypatch):
    """From a third save with two kept: the newest is 2 or 3, whole, and the next save leaves nothing behind."""
    count = calls_of_a_save(tmp_path, monkeypatch)
    assert count >= 15
    newest = []
    for at in range(count):
        root = tmp_path / str(at)
        saved(root, 1, 2)
        with monkeypatch.context() as patch:
            Calls(patch, at)
            with pytest.raises(Killed):
                saved(root, 3)
        step, _ = goes_on(root)
        newest.append(step)
        assert names(root) == sorted(["step-4", f"step-{step}"])
    assert newest == sorted(newest) and set(newest) == {2, 3}


def test_a_save_that_is_repeated_after_a_kill_leaves_nothing_behind(tmp_path, monkeypatch):
    """The last save of a run is: there is no later one that would clean up."""
    for at in range(calls_of_a_save(tmp_path, monkeypatch)):
        root = tmp_path / str(at)
        saved(root, 1, 2)
        with monkeypatch.context() as patch:
            Calls(patch, at)
            with pytest.raises(Killed):
                saved(root, 3)
        saved(root, 3)
        assert names(root) == ["step-2", "step-3"]


def test_a_kill_between_any_two_writes_below_a_url(monkeypatch):
    class Store:
        """An object store that dies at the n-th write."""

        def __init__(self, real, left):
            self.real, self.left = real, left

        def write(self, *args):
            if self.left[0] == 0:
                raise Killed
            self.left[0] -= 1
            return self.real.write(*args)

        def __getattr__(self, name):
            return getattr(self.real, name)

        def __truediv__(self, path):
            return self.real / path

    newest = []
    for at in itertools.count():
        root = f"memory://kill/{at}"
        saved(root, 1, 2)
        dying = Checkpoints(root)
        dying._place._root = Store(dying._place._root, [at])
        dying.save(3, small(3), MANIFEST)
        try:
            dying.wait()
        except Killed:
            step, again = goes_on(root)
            newest.append(step)
            folders = {key.decode().split("/")[0] for key in again._place._root.list().result()}
            assert folders == {f"step-{step}", "step-4"}
        else:
            break
    assert newest == sorted(newest) and set(newest) == {2, 3} and at > 8
