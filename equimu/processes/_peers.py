"""Whether the other processes of a run live. Waiting for one that is dead, in a collective, would have no end."""

import atexit
import json
import os
import socket
import sys
import threading
import time

import jax

from equimu._errors import ExitCode
from equimu._values import Real
from equimu.processes._service import service

_ALIVE, _ENDED = "equimu/alive", "equimu/ended"
# Between hearing that another process ended and ending: this one may be about to say the same, and better.
_GRACE_SECONDS = 2.0
_END_MS = 300_000  # how long a process that is done waits for the others, as JAX's own exit does


class PeerWatch:
    """A thread that tells the others that this process lives, and ends the process once another does not.

    The first process listens to all, and writes down who is silent or has said that it failed; the others read that. Should the
    first one itself vanish, and the service with it, JAX ends the others at once, by a message of its own.

    Args:
        index: of this process.
        count: of all.
        seconds: silence after which a process is taken for dead.
    """

    def __init__(self, index: int, count: int, seconds: Real):
        self._index, self._count, self._seconds = index, count, seconds
        self._pause = min(1.0, seconds / 5)
        self._client = service()
        # Of each process: what it said last, when that was new, and who it is.
        self._heard = {other: (0, time.monotonic(), f"process {other} of {count}") for other in range(count)}
        self._lone = False
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="equimu-peers", daemon=True)
        self._thread.start()
        atexit.register(self._close)  # before JAX's own, which takes the service away

    def report(self, message: str) -> None:
        """Tells the others that this process failed, and why; their watches end them."""
        self._leaving.set()
        try:
            self._client.key_value_set(_ENDED, f"{self._name()} failed: {message}", allow_overwrite=True)
        except jax.errors.JaxRuntimeError:
            pass  # the service is gone, and whoever used it

        atexit.register(self.end, 1)  # before JAX's own, which would wait for the others

    def wait_for_verdict(self) -> None:
        """Where a collective has failed: waits for this watch to find out who died, and to end the process."""
        time.sleep(self._seconds + 5 * self._pause)

    def end(self, code: int) -> None:
        """Ends this process without waiting for the others, but for what they have to read from it."""
        if self._index == 0 and not self._lone:
            time.sleep(3 * self._pause + _GRACE_SECONDS)  # they read from a service that ends with this process
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # at a usual exit JAX would wait for the others, and they may be waiting for this one

    def _close(self) -> None:
        """At a usual exit: waits until all processes are there, all the while saying that this one lives, and stops.

        A thread inside a call to the service when the interpreter ends would have C++ abort the process.
        """
        try:
            self._client.wait_at_barrier("equimu:end", _END_MS)
        except jax.errors.JaxRuntimeError:
            pass  # another one ended in another way; JAX's own exit tells
        self._leaving.set()
        self._thread.join()

    def _watch(self) -> None:
        beats = 0
        while not self._leaving.wait(self._pause):
            beats += 1
            try:
                message = json.dumps([beats, self._name()])
                self._client.key_value_set(f"{_ALIVE}/{self._index}", message, allow_overwrite=True)
                if self._index == 0:
                    self._listen()
                ended = self._client.key_value_try_get(_ENDED)
            except jax.errors.JaxRuntimeError:  # mostly that nobody has ended
                continue
            if not self._leaving.wait(_GRACE_SECONDS):
                self._give_up(ended)

    def _listen(self) -> None:
        now = time.monotonic()
        for key, value in self._client.key_value_dir_get(f"{_ALIVE}/"):
            other, (beats, name) = int(key.rpartition("/")[2]), json.loads(value)
            if beats != self._heard[other][0]:
                self._heard[other] = (beats, now, name)
        silent = {name: now - since for _, since, name in self._heard.values() if now - since > self._seconds}
        if silent:
            message = " and ".join(f"{name} has been silent for {seconds:.0f} s" for name, seconds in silent.items())
            self._client.key_value_set(_ENDED, message, allow_overwrite=True)
            self._lone = len(silent) == self._count - 1
            self._give_up(message)

    def _give_up(self, ended: str) -> None:
        print(f"equimu: {ended}; start all processes again and the run goes on", file=sys.stderr, flush=True)
        self.end(ExitCode.PEER)

    def _name(self) -> str:
        return f"process {self._index} of {self._count} (pid {os.getpid()} on {socket.gethostname()})"
