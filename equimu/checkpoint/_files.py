"""The calls on a local file system that a commit is made of, one function each.

They are called through this module, so that a test can kill or fail a save between any two of them.
"""

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
    finally:
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """Gives a folder another name, at once or not at all."""
    os.rename(old, new)


def remove(path: Path) -> None:
    """Removes a folder and everything in it."""
    shutil.rmtree(path)
