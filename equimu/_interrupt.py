"""What the program `equimu` does at Ctrl-C beside what its commands do: before one listens for it, and at once when one does.

Python raises a KeyboardInterrupt wherever it is, also where exceptions are dropped: in a finalizer, or in a callback of a weak
reference, of which there are many while JAX traces. What was dropped is remembered here.
"""

import signal
import sys
from types import FrameType
from typing import NoReturn

_SOON = "equimu: stopping after the step or compilation under way; Ctrl-C again: at once"
_heard: list[int] = []


def remember_interrupts() -> None:
    """From now on an interrupt that is dropped is raised again by `raise_if_interrupted`. For the main thread."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def raise_if_interrupted() -> None:
    """Raises a KeyboardInterrupt if one was dropped."""
    if _heard:
        _heard.clear()
        raise KeyboardInterrupt


def tell_that_it_stops(before: object) -> None:
    """Says on stderr that Ctrl-C was heard, from the handler that took the place of `before`; in the program alone."""
    if before is not _interrupted:
        return
    try:
        print(f"{chr(10) if sys.stderr.isatty() else ''}{_SOON}", file=sys.stderr, flush=True)  # a terminal shows ^C
    except RuntimeError:  # it came while stderr was being written
        pass


def _interrupted(signum: int, frame: FrameType | None) -> NoReturn:
    del frame
    _heard.append(signum)
    raise KeyboardInterrupt
