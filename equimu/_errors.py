"""The one exception class of the library, and the shared wording of "did you mean"."""

import difflib
from collections.abc import Iterable


class EquimuError(ValueError):
    """A mistake of the caller, told in one line: what was given, why it cannot be, what to write instead.

    The command line prints the message on stderr and exits with code 2.
    """


def nearest(name: str, valid: Iterable[str]) -> str:
    """Words to end an error message with: the nearest valid name if there is one, and all valid names.

    Args:
        name: what was given.
        valid: what could have been given.

    Returns:
        For example `did you mean 'relative'? (valid: absolute, relative)`.
    """
    names = sorted(valid)
    matches = difflib.get_close_matches(name, names, n=1)
    guess = f"did you mean {matches[0]!r}? " if matches else ""
    return f"{guess}(valid: {', '.join(names)})"
