"""What a killed writer leaves in a local folder, told from what a living one writes by a lock that the kernel takes back."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

from equimu.files import open_inside
from equimu.storage import local_path

_LOCK = "writing"


@contextlib.contextmanager
def being_written(place: str, folder: str) -> Generator[None]:
    """Marks a folder at a place as one that a living process writes, for as long as the context is open.

    Below a URL there are no locks: what is left there stays.
    """
    root = local_path(place)
    if root is None:
        yield
        return
    path = root / folder
    descriptor = _locked(path)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            (path / _LOCK).unlink()
        os.close(descriptor)


def _locked(path: Path) -> int:
    """A descriptor of the lock in a folder, both made; in between, another writer may take them for a dead one's and away."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: nobody can take it, so nobody removes the folder
            return descriptor
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def remove_orphans(place: str, committed: Callable[[], str | None]) -> None:
    """Removes the folders whose writers died before they committed them.

    Args:
        place: folder or URL.
        committed: tells which folder the store there has now, if there is a store.
    """
    root = local_path(place)
    if root is None:
        return
    for folder in root.glob("data-*"):
        with contextlib.suppress(OSError):  # it is not an empty folder
            folder.rmdir()
        with contextlib.suppress(OSError):  # another writer holds it or has just removed it, or it is not a writer's
            descriptor = open_inside(root, f"{folder.name}/{_LOCK}", os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.fstat(descriptor).st_nlink:
                    continue  # removed since it was opened: the folder may be another writer's by now
                # Asked for with its lock in hand: from now on, nobody commits it.
                if committed() == folder.name:
                    (folder / _LOCK).unlink()
                else:
                    shutil.rmtree(folder)
            finally:
                os.close(descriptor)
