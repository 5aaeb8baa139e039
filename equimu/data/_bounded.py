"""Calls of a compiled package on input from anyone: they end in time, and what they say when they fail is ours to tell."""

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from equimu._values import Real

_T = TypeVar("_T")

_PANIC = "PanicException"  # what Rust raises where it gives up; not an `Exception`
# File descriptors belong to the process: one call at a time may borrow stderr's.
_STDERR = threading.Lock()


def bounded(work: Callable[[], _T], seconds: Real) -> _T:
    """What some work returns.

    Args:
        work: what to call. It must let other threads run; when its time is over, it is left to itself.
        seconds: that it may take.

    Raises:
        TimeoutError: it takes longer.
        ValueError: it gave up, and why. What it wrote to stderr then is not shown.
    """
    result: list[_T] = []
    raised: list[BaseException] = []

    def call() -> None:
        try:
            result.append(work())
        except BaseException as error:
            raised.append(error)

    with _STDERR, _quiet() as quiet:
        thread = threading.Thread(target=call, name="equimu-bounded", daemon=True)
        thread.start()
        thread.join(seconds)
        quiet.on_failure = bool(raised)
        quiet.for_good = thread.is_alive()
    if not result and not raised:
        raise TimeoutError(f"it takes longer than {seconds:.0f} s")
    for error in raised:
        if isinstance(error, Exception) or type(error).__name__ == _PANIC:
            raise ValueError(" ".join(str(error).split())[:300]) from None
        raise error
    return result[0]


class _Quiet:
    """What becomes of what was written: dropped after a failure; or for good, as long as what did not end may go on writing."""

    on_failure = for_good = False


@contextlib.contextmanager
def _quiet() -> Generator[_Quiet]:
    """Holds back what is written to stderr's descriptor."""
    quiet = _Quiet()
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield quiet
        return
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield quiet
        finally:
            if quiet.for_good and sys.stderr is sys.__stderr__:
                sys.stderr = open(kept, "w", buffering=1)  # Python's own words still come through
            else:
                os.dup2(kept, 2)
                os.close(kept)
                written.seek(0)
                rest: Any = b"" if quiet.on_failure or quiet.for_good else written.read()
                if rest:
                    os.write(2, rest)
