"""Processes to be killed: forks of one that has imported everything and started nothing, so that a start is quick.

A fork runs the very `main` of `python -m equimu`. The process that forks must not use a JAX device itself.
"""

import contextlib
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain  # noqa: F401
import jax
import tensorstore  # noqa: F401

import equimu.storage  # noqa: F401
from equimu.cli import main

KEPT_PROGRAMS = "compiled"  # folder of compiled programs, in that of the campaign


class Child:
    """A fork that runs `work`, its output in a file.

    Attributes:
        pid: its process id.
        born: when it was started, as file systems tell the time.
        code: its exit code once it has ended, negative for a signal's number.
    """

    def __init__(self, work: Callable[[], object], output: Path):
        sys.stdout.flush()
        sys.stderr.flush()
        self._output = output
        self.code: int | None = None
        self.born = time.time()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                work()
                code = 0
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(Exception):
                    if jax.distributed.is_initialized():  # as JAX does at a usual end: waits for the others of a run
                        jax.distributed.shutdown()
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)

    def ended(self) -> bool:
        """Whether it has."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, seconds: float) -> int:
        """Waits until it has ended; its exit code. One that takes longer is killed, and an error."""
        end = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"the process did not end in {seconds} s; it said: {self.output()[-500:]}")
            time.sleep(0.002)
        assert self.code is not None
        return self.code

    def send(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if not self.ended():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it, and waits until it is gone."""
        self.send(signal.SIGKILL)
        while not self.ended():
            time.sleep(0.001)

    def output(self) -> str:
        """What it wrote so far."""
        return self._output.read_text(errors="replace")


def equimu(
    arguments: list[str], output: Path, *, devices: int = 1, before: Callable[[], object] = lambda: None
) -> Child:
    """A fork that runs `equimu` with such arguments.

    Args:
        arguments: of the command line.
        output: file for what it writes.
        devices: that its CPU is cut into.
        before: called in the fork first.
    """

    def work() -> None:
        jax.config.update("jax_num_cpu_devices", devices)
        jax.config.update("jax_compilation_cache_dir", str(output.parent / KEPT_PROGRAMS))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        os.environ["EQUIMU_CACHE"] = str(output.parent / "cache")
        before()
        sys.argv = ["equimu", *arguments]
        main()

    return Child(work, output)


def together(
    count: int, arguments: list[str], folder: Path, *, devices: int, before: Callable[[], object] = lambda: None
) -> list[Child]:
    """So many forks of `equimu` that are one run, each with so many devices; each writes to a file in the folder."""
    joined = ["--runtime.coordinator", free_address(), "--runtime.processes", str(count), "--runtime.process-id"]
    return [
        equimu([*arguments, *joined, str(i)], folder / f"out-{i}.txt", devices=devices, before=before)
        for i in range(count)
    ]


def free_address() -> str:
    """An address on this machine at which nobody listens."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def isolated(work: Callable[[], Any], folder: Path, seconds: float = 3600) -> Any:
    """What `work` returns when it is done in a fork, which may use devices."""
    result = folder / "result.pickle"

    def store() -> None:
        result.write_bytes(pickle.dumps(work()))

    child = Child(store, folder / "isolated.txt")
    if child.wait(seconds) != 0:
        raise RuntimeError(child.output()[-2000:])
    return pickle.loads(result.read_bytes())
