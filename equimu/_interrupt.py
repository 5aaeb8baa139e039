"""Ctrl-C before a command listens for it.

Python raises a KeyboardInterrupt wherever it is, also where exceptions are dropped: in a finalizer, or in a callback of a weak
reference, of which there are many while JAX traces. What was dropped is remembered here.
"""

import signal
from types import FrameType
from typing import NoReturn

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


def _interrupted(signum: int, frame: FrameType | None) -> NoReturn:
    del frame
    _heard.append(signum)
    raise KeyboardInterrupt
