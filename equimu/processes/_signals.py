"""SIGTERM and SIGINT as a request that training reads between two steps."""

import contextlib
import signal
import threading
from collections.abc import Generator
from types import FrameType

from equimu._interrupt import raise_if_interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether to stop: the number of the signal that came, or 0."""

    def __init__(self):
        self.signum = 0

    def ask(self, signum: int = signal.SIGINT) -> None:
        """Asks for a stop after the step that runs."""
        self.signum = signum


# The request of the main thread's outermost `handle_signals`; threads that train for it, as a sweep's do, read the same one.
_listening: list[StopRequest] = []


@contextlib.contextmanager
def handle_signals() -> Generator[StopRequest, None, None]:
    """Context in which SIGINT and SIGTERM set a request instead of ending the process; the second one ends it at once.

    Only the main thread can listen. In another thread the request is that of the main thread, if it listens, or one that
    is never made. A signal that was ignored on entry (as `nohup` does) stays ignored.
    """
    if _listening:
        yield _listening[0]
        return
    if threading.current_thread() is threading.main_thread():
        raise_if_interrupted()
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    found = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    before = {signum: handler for signum, handler in found.items() if handler is not signal.SIG_IGN}

    def heard(signum: int, frame: FrameType | None) -> None:
        request.ask(signum)
        for each in before:
            signal.signal(each, signal.SIG_DFL)  # the next one ends the process without help from here

    for signum in before:
        signal.signal(signum, heard)
    _listening.append(request)
    try:
        yield request
    finally:
        _listening.clear()
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
