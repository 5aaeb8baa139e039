"""What the program `equimu` does at Ctrl-C beside what its commands do.

Python calls a handler between two instructions of the main thread, which may be in a compiler for minutes; so another thread
answers. And it raises a KeyboardInterrupt wherever it is, also where exceptions are dropped: in a finalizer, or in a callback
of a weak reference, of which there are many while JAX traces. What was dropped is remembered here.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

_SOON = "equimu: stopping after the step or compilation under way; Ctrl-C again: at once"
_AT_ONCE_SECONDS = 0.3  # in which the program ends by itself, most often
_heard: list[int] = []


def remember_interrupts() -> None:
    """From now on an interrupt is answered, and one that is dropped is raised again by `raise_if_interrupted`.

    The second one ends the process at once. For the main thread of a program.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # where each signal is written as it comes
        threading.Thread(target=_answer, args=(read,), daemon=True).start()


def raise_if_interrupted() -> None:
    """Raises a KeyboardInterrupt if one was dropped."""
    if _heard:
        _heard.clear()
        raise KeyboardInterrupt


def _answer(signals: int) -> None:
    """Says that an interrupt was heard, and ends the process at the second one."""
    _await_interrupt(signals)
    time.sleep(_AT_ONCE_SECONDS)
    print(f"{chr(10) if sys.stderr.isatty() else ''}{_SOON}", file=sys.stderr, flush=True)  # a terminal shows ^C
    _await_interrupt(signals)
    os._exit(128 + signal.SIGINT)


def _await_interrupt(signals: int) -> None:
    while os.read(signals, 1) != bytes([signal.SIGINT]):
        pass


def _interrupted(signum: int, frame: FrameType | None) -> NoReturn:
    del frame
    _heard.append(signum)
    raise KeyboardInterrupt
