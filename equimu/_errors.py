"""The exceptions of the library, the exit codes of its command line, and the shared wording of its messages."""

import difflib
import enum
import signal
from collections.abc import Iterable


class ExitCode(enum.IntEnum):
    """What the command line exits with."""

    DONE = 0
    NO = 1
    """The command ran, and the answer is no: a plan that does not fit, a coordinate check with something off."""
    MISTAKE = 2
    """Of the caller: a flag, a config, text, a folder."""
    NOT_FINITE = 3
    """A loss or gradient that is not finite, under `on_nonfinite="stop"`."""
    STORAGE = 4
    """The run's folder could no longer be written."""
    PEER = 5
    """Another process of the run ended."""
    INTERRUPTED = 130
    """SIGINT: the step was finished and saved."""
    TERMINATED = 143
    """SIGTERM: the step was finished and saved."""


class EquimuError(ValueError):
    """A mistake of the caller, in one line: what was given, why it cannot be, what to write instead.

    The command line prints the message on stderr and exits with `exit_code`.
    """

    exit_code: ExitCode = ExitCode.MISTAKE


class Interrupted(KeyboardInterrupt):
    """A signal asked training to stop, which has saved what it had. A `KeyboardInterrupt`, whichever signal it was."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.exit_code = ExitCode.TERMINATED if signum == signal.SIGTERM else ExitCode.INTERRUPTED


def nearest(name: object, names: Iterable[str]) -> str:
    """Words to end an error message with: the nearest valid name if there is one, and all valid names.

    Args:
        name: what was given.
        names: what could have been given.

    Returns:
        For example `did you mean 'relative'? (valid: absolute, relative)`, or `give one of absolute, relative`.
    """
    names = sorted(names)
    # In whatever case; where two names differ in case alone, as written.
    lowered = {each.lower(): each for each in names} | {each: each for each in names}
    close = (difflib.get_close_matches(given, lowered, n=1) for given in (str(name), str(name).lower()))
    matches = [lowered[each] for each in next(filter(None, close), [])]
    matches = matches or [each for each in names if _initials(each) == str(name)]
    valid = ", ".join(names)
    return f"did you mean {matches[0]!r}? (valid: {valid})" if matches else f"give one of {valid}"


def counted(count: int, what: str) -> str:
    """`1 token`, `2 tokens`.

    Args:
        count: how many.
        what: the word for one; for more it takes an s.
    """
    return f"{count} {what}{'' if count == 1 else 's'}"


def _initials(name: str) -> str:
    """`"lr"` of `"optimizer.learning_rate"`."""
    return "".join(word[:1] for word in name.rpartition(".")[2].replace("-", "_").split("_"))


def printable(text: object) -> str:
    """A text as one line that a terminal only shows: what would be obeyed, such as colours and newlines, becomes an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
