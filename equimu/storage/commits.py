"""The calls on a local file system that a commit is made of, one function each.

They are called through this module, so that a test can kill or fail a save between any two of them.
"""

import contextlib
import os
import shutil
from pathlib import Path


def make_folder(path: Path) -> None:
    """Makes a folder and what is missing above it."""
    path.mkdir(parents=True, exist_ok=True)


def write(path: Path, content: bytes) -> None:
    """Writes a file."""
    path.write_bytes(content)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        _forget(descriptor)
    finally:
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """Gives a folder another name, at once or not at all."""
    os.rename(old, new)


def remove(path: Path) -> None:
    """Removes a folder and everything in it; of a link only itself."""
    if path.is_symlink() or not path.is_dir():  # put there by someone else
        path.unlink()
    else:
        shutil.rmtree(path)


def _forget(descriptor: int) -> None:
    """Gives the kernel's memory of what was just brought to the disk back: it serves the next file.

    Else each checkpoint drives other files out of memory, and on a virtual machine that gives idle memory back to its host
    each needs fresh memory, which takes longer to get than the disk takes to write it.
    """
    if hasattr(os, "posix_fadvise"):  # not on macOS
        with contextlib.suppress(OSError):  # advice only
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
