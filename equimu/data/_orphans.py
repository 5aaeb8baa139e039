"""What a killed writer leaves in a local folder, told from what a living one writes by a lock that the kernel takes back."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Generator

from equimu._folder import open_inside
from equimu._storage import local_path

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
    path.mkdir(parents=True, exist_ok=True)
    # Locked before it has its name, so that nobody finds it without the lock.
    descriptor = os.open(path / f"{_LOCK}.new", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(
            OSError
        ):  # a file system without locks: nobody can take it, so nobody removes the folder
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(path / f"{_LOCK}.new", path / _LOCK)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            (path / _LOCK).unlink()
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
        with contextlib.suppress(OSError):  # another writer holds it or has just removed it, or it is no writer's
            descriptor = open_inside(root, f"{folder.name}/{_LOCK}", os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Asked for with its lock in hand: from now on, nobody commits it.
                if committed() == folder.name:
                    (folder / _LOCK).unlink()
                else:
                    shutil.rmtree(folder)
            finally:
                os.close(descriptor)
