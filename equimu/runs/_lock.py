"""One owner per run folder: a file that says who, since when, and is touched for as long as its owner lives.

Two means, since neither serves everywhere. The kernel's `flock` goes away with the process that held it, but some network
file systems keep it to one host or have none. So the file also names its owner, and its time of change is a heartbeat,
measured by the clock of the file system, which all hosts share.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any, ClassVar

from equimu._errors import EquimuError, printable
from equimu._json import loads
from equimu._values import Real
from equimu.files import open_inside, read_inside
from equimu.runs._files import LOCK

_BEAT_SECONDS = 5.0
_LISTEN_SECONDS = 1.0
_MOST_BYTES = 4096
_NO_FLOCK = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


class FolderLock:
    """Ownership of a folder, from construction to `release`.

    Raises:
        EquimuError: another process owns the folder; the message names it.
        OSError: the folder cannot be written.

    Attributes:
        stale_seconds: an owner on another host that has been silent for so long is gone.
    """

    stale_seconds: ClassVar[float] = 60.0

    def __init__(self, folder: Path):
        self._path = folder / LOCK
        self._token = uuid.uuid4().hex
        self._descriptor = self._acquire()
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._beats, name="equimu-lock", daemon=True)
        self._lost = False
        self._beat.start()

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken the folder, which it may after a long silence of this one."""
        return self._lost

    def release(self) -> None:
        """Gives the folder up and removes the file."""
        self._ended.set()
        self._beat.join()
        try:
            if self._is_mine():
                self._path.unlink()
        except FileNotFoundError:
            pass
        finally:
            os.close(self._descriptor)

    def _acquire(self) -> int:
        while True:
            descriptor = open_inside(self._path.parent, LOCK, os.O_RDWR | os.O_CREAT)
            try:
                flocked = _flock(descriptor)
                if not _is_at(descriptor, self._path):
                    continue  # its owner removed it in between
                owner = _owner(os.pread(descriptor, _MOST_BYTES, 0))
                if flocked is False or (owner is not None and not _is_gone(owner, self._path, flocked is True)):
                    raise EquimuError(f"{self._path.parent} is being trained by {_told(owner)}; wait for it or stop it")
                if not _is_at(descriptor, self._path):
                    continue  # it was removed while this process listened
                _write(descriptor, {**_myself(), "token": self._token, "since": time.strftime("%Y-%m-%d %H:%M:%S%z")})
                kept, descriptor = descriptor, -1
                return kept
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def _beats(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            try:
                self._lost = not self._is_mine()
                if not self._lost:
                    os.utime(self._descriptor)
            except OSError:  # the file system is away, for a while or for good; who writes to it will notice
                continue

    def _is_mine(self) -> bool:
        owner = _owner(read_inside(self._path.parent, LOCK, _MOST_BYTES))
        return owner is not None and owner.get("token") == self._token


def _flock(descriptor: int) -> bool | None:
    """Whether the kernel's lock was got; None where there is no such lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return None
        raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _owner(content: bytes) -> dict[str, Any] | None:
    """What the file says; None if it is empty or was cut off while it was written."""
    try:
        owner = loads(content)
    except ValueError:
        return None
    return owner if isinstance(owner, dict) else None


def _is_gone(owner: dict[str, Any], path: Path, flocked: bool) -> bool:
    mine = _myself()
    if owner.get("machine") == mine["machine"]:
        # Here the kernel knows: it would not have given its lock away, or knows the process by number and time of start.
        return flocked or _start_of(owner.get("pid")) != owner.get("start")
    last = path.lstat().st_mtime
    silent = _now(path.parent) - last
    if silent > FolderLock.stale_seconds:
        return True
    # A time that is yet to come says nothing: a clock was set, or is wrong. Then it is the changes that count.
    dated = f", whose lock is dated {-silent:.0f} s ahead," if silent < -_LISTEN_SECONDS else ""
    left = FolderLock.stale_seconds - max(silent, 0.0)
    message = (
        f"{path.parent} was last owned by {_told(owner)}{dated} and is taken over after {left:.0f} s without a sign of it; "
        f"if it has ended, remove {path} to go on at once"
    )
    print(f"equimu: {printable(message)}", file=sys.stderr, flush=True)
    until = time.monotonic() + left
    while time.monotonic() <= until:
        time.sleep(_LISTEN_SECONDS)
        try:
            if path.lstat().st_mtime != last:
                return False
        except FileNotFoundError:  # as told
            return True
    return True


def _now(folder: Path) -> Real:
    """The time by the clock of the file system that holds the folder."""
    probe = folder / f"{LOCK}-{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _write(descriptor: int, owner: dict[str, Any]) -> None:
    content = json.dumps(owner).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "start": _start_of(os.getpid()), "machine": _machine()}


def _machine() -> str:
    """Names what process numbers count within: a boot of a kernel, and a container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _start_of(pid: Any) -> str | None:
    """When a process began, in the kernel's ticks; None if there is none."""
    if not isinstance(pid, int) or not 0 < pid < 2**31:
        return None
    try:
        # Behind the name in parentheses, which may hold anything, the start is the 20th field.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return "unknown"
    return "unknown"


def _told(owner: dict[str, Any] | None) -> str:
    if owner is None:
        return "another process"
    pid, host, since = (printable(owner.get(key))[:100] for key in ("pid", "host", "since"))
    return f"process {pid} on {host} since {since}"
