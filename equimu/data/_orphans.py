"""What a killed writer leaves in a local folder, told from what a living one writes by a lock that the kernel takes back."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from equimu._storage import is_url

_LOCK = "writing"


@contextlib.contextmanager
def being_written(place: str, folder: str) -> Generator[None]:
    """Marks a folder at a place as one that a living process writes, for as long as the context is open.

    Below a URL there are no locks: what is left there stays.
    """
    if is_url(place):
        yield
        return
    path = Path(place).expanduser() / folder
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


def remove_orphans(place: str) -> None:
    """Removes the folders whose writers died."""
    if is_url(place):
        return
    for lock in Path(place).expanduser().glob(f"data-*/{_LOCK}"):
        with contextlib.suppress(OSError):  # another writer holds it, or has just removed it
            descriptor = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent)
            finally:
                os.close(descriptor)
