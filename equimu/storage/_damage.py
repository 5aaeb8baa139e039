"""What can go wrong with storage: damage, trouble that passes, and trouble that stays."""

import errno
import re
import time
from collections.abc import Callable
from typing import TypeVar

from equimu._errors import EquimuError
from equimu.storage._places import one_line

_T = TypeVar("_T")

# Seconds waited before the second try and each further one.
WAITS = (0.5, 2.0, 8.0)

_STAYS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
# Statuses of tensorstore (its messages begin with them) that trying again does not change.
_STAYS_STATUS = {"FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED"}
# What reading says of content that is lost or not what was written. EIO: sectors of a disk that cannot be read.
_DAMAGE_STATUS = {"DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE"}
_DAMAGE_ERRNO = {errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.ENOTDIR}


class Damaged(Exception):
    """A checkpoint is not what was written; the message says what of it."""


def retry(what: str, work: Callable[[], _T], hint: str) -> _T:
    """Does some work on storage; tries again, later and later, where the trouble may pass.

    Args:
        what: begins the message: `cannot ...`.
        work: may be called several times.
        hint: ends the message.

    Raises:
        EquimuError: the trouble stays.
        Damaged: what was read is not what was written.
    """
    for wait in (*WAITS, None):
        try:
            return work()
        except EquimuError:  # is a ValueError
            raise
        except (OSError, ValueError) as error:  # tensorstore raises ValueErrors
            if wait is None or _stays(error):
                raise EquimuError(f"{what}: {one_line(error)}; {hint}") from None
            time.sleep(wait)
    raise AssertionError("the last round returns or raises")


def damage(error: Exception) -> str | None:
    """What an error in reading says of the content; None where it says nothing of it."""
    number, status = _number(error), _status(error)
    if number is not None:
        return one_line(error) if number in _DAMAGE_ERRNO else None
    return one_line(error) if status in _DAMAGE_STATUS else None


def _stays(error: Exception) -> bool:
    number = _number(error)
    return number in _STAYS if number is not None else _status(error) in _STAYS_STATUS


def _number(error: Exception) -> int | None:
    """The operating system's number of an error, which tensorstore has in its message."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found.group(1)) if found else None


def _status(error: Exception) -> str:
    return str(error).split(":")[0]
