"""Files in folders that anyone may have filled: regular ones, inside of the folder, reached without following a link.

The folder is where the user said, through whatever links; what lies below it may come from someone else. A link there could
lead anywhere, a pipe would be waited for without end, and a device may never end.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from equimu._errors import EquimuError
from equimu._values import path_text

_MOST_BYTES = 2**30


def open_inside(folder: Path, name: str, flags: int) -> int:
    """A descriptor of a regular file below a folder.

    Args:
        folder: where to begin.
        name: of the file, relative to the folder, with `/` between its parts.
        flags: as of `os.open`.

    Raises:
        OSError: a part of the name is a link, the file is not a regular one, or it cannot be opened.
    """
    *parents, last = _parts(folder, name)
    parent = _open_folder(folder, parents)
    try:
        return _open_file(parent, last, flags, folder / name)
    finally:
        os.close(parent)


def read_inside(folder: Path, name: str, most: int = _MOST_BYTES) -> bytes:
    """The content of a regular file below a folder; no more than `most` bytes.

    Raises:
        OSError: as `open_inside`; it holds more.
    """
    descriptor = open_inside(folder, name, os.O_RDONLY)
    with open(descriptor, "rb") as file:
        if os.fstat(descriptor).st_size > most:
            raise OSError(errno.EFBIG, f"holds more than {most} bytes", str(folder / name))
        return file.read(most)


def read_regular(path: Path, most: int = _MOST_BYTES) -> bytes:
    """The content of a regular file that a user named, through whatever links.

    Raises:
        OSError: it is none (a pipe would be waited for, a device may have no end), holds too much, or cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        folder = stat.S_ISDIR(found.st_mode)
        raise OSError(errno.EINVAL, "a folder, not a file" if folder else "not a regular file", str(path))
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"larger than {most} bytes", str(path))
    with path.open("rb") as file:
        return file.read(most)


def write_inside(folder: Path, name: str, content: bytes) -> None:
    """Writes a file below a folder such that it is there whole or not at all, also after a loss of power.

    What had the name before, a link for example, is replaced and not written through.

    Raises:
        OSError: a folder on the way is a link, or it cannot be written.
    """
    *parents, last = _parts(folder, name)
    parent = _open_folder(folder, parents)
    draft = f"{last}.tmp"
    try:
        try:
            os.unlink(draft, dir_fd=parent)
        except FileNotFoundError:
            pass
        descriptor = _open_file(parent, draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, folder / f"{name}.tmp")
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, last, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        os.close(parent)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Writes files into a folder, which is made if it is not there; returns their paths.

    Raises:
        EquimuError: one cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_inside(folder, name, content)
    except OSError as error:
        raise EquimuError(f"cannot write {error.filename or folder}: {error.strerror}; choose another folder") from None
    return [folder / name for name in contents]


def check_inside(folder: Path, name: str, most: int = _MOST_BYTES) -> None:
    """Checks what others will open by its name: a file or folder, with all that is below it, or nothing at all.

    Args:
        folder: where to begin.
        name: of the file or folder, relative to that.
        most: bytes that the file may hold, if it is one.

    Raises:
        OSError: it is, or holds, a link or something that is neither a file nor a folder; or too much.
    """
    path = folder
    for part in _parts(folder, name):
        path = path / part
        refuse_special(path)
    if path.is_dir():
        for below in _below(path):
            if not (below.is_dir(follow_symlinks=False) or below.is_file(follow_symlinks=False)):
                refuse_special(Path(below.path))
    elif path.exists() and path.stat().st_size > most:
        raise OSError(errno.EFBIG, f"holds more than {most} bytes", str(path))


def refuse_special(path: Path) -> None:
    """Raises an OSError if what is at a path, if anything is, is neither a regular file nor a folder."""
    try:
        _refuse(os.lstat(path).st_mode, path)
    except FileNotFoundError:
        pass


def _refuse(mode: int, path: Path) -> None:
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "a symbolic link, which is not followed", str(path))
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def is_of_the_kernel(path: Path) -> bool:
    """Whether a path leads into a file system that the kernel makes up, whose files may have no end and take no others."""
    real = os.path.realpath(path)
    return any(real == root or real.startswith(f"{root}/") for root in ("/proc", "/sys"))


def local_folder(place: str | Path, what: str) -> Path:
    """The local folder that a user named.

    Args:
        place: its path; `~` is the user's home.
        what: names it in messages, such as `--out`.

    Raises:
        EquimuError: nothing was named, a URL was, or what no path can hold.
    """
    text = path_text(what, place)
    # pathlib makes one slash of two.
    if re.match(r"[a-z][a-z0-9+.-]+:/", text):
        raise EquimuError(f"{what} must be a local folder, got {text!r}")
    folder = expanded(text, what)
    above = folder
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if is_of_the_kernel(folder) or not os.path.isdir(above):
        why = "of the kernel" if os.path.isdir(above) else "no folder"
        raise EquimuError(f"{what} must be a folder, and {above} is {why}; choose another folder")
    return folder


def expanded(text: str, what: str) -> Path:
    """The path that a text is, `~` expanded.

    Raises:
        EquimuError: nobody knows the home of the user that it names.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise EquimuError(f"{what} {text!r} is not a path: {error}") from None


def _parts(folder: Path, name: str) -> list[str]:
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise OSError(errno.EINVAL, "not a name inside of a folder", f"{folder}/{name}")
    return parts


def _open_folder(folder: Path, parts: list[str]) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    path = folder
    for part in parts:
        path = path / part
        above = descriptor
        try:
            _refuse(os.stat(part, dir_fd=above, follow_symlinks=False).st_mode, path)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(part, flags, dir_fd=above)
        except OSError as error:
            error.filename = str(path)
            raise
        finally:
            os.close(above)
    return descriptor


def _open_file(parent: int, name: str, flags: int, path: Path) -> int:
    try:
        try:
            _refuse(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode, path)
        except FileNotFoundError:
            pass  # to be made, or told by what follows
        # Without waiting for whoever is at the other end, should it have become a pipe in between.
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644, dir_fd=parent)
    except OSError as error:
        error.filename = str(path)
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def _below(folder: Path) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _below(Path(entry.path))
