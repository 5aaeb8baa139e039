"""Several processes as one run: how they find each other, and what only process 0 does.

Where there is one process, all of this is nothing.
"""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax

from equimu._errors import EquimuError, ExitCode
from equimu._values import Real
from equimu.processes._peers import PeerWatch
from equimu.processes._service import service

_CONNECT_SECONDS = 300
_WORK_MS = 3_600_000  # a dead process is found out by its heartbeat, long before

_turns = 0
_watch: PeerWatch | None = None


@runtime_checkable
class JoiningOptions(Protocol):
    """How the processes of a run find each other; see `equimu.RuntimeConfig`."""

    @property
    def cluster(self) -> str: ...
    @property
    def coordinator(self) -> str | None: ...
    @property
    def processes(self) -> int | None: ...
    @property
    def process_id(self) -> int | None: ...
    @property
    def heartbeat_seconds(self) -> Real: ...


def connect(runtime: JoiningOptions) -> None:
    """Joins the processes of a run, once, before anything else uses JAX.

    By hand where `runtime.coordinator` is given; else, under `cluster="auto"`, where Slurm, Open MPI, Kubernetes or a TPU pod
    started several, by JAX's own detection. Alone, it does nothing.

    Raises:
        EquimuError: the processes cannot find each other, or JAX was used before.
    """
    global _watch
    if jax.distributed.is_initialized():
        return
    found = launcher(runtime)
    if found is None:
        return
    # Its handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    by_hand: dict[str, Any] = {}
    if runtime.coordinator is not None:
        by_hand = dict(
            coordinator_address=runtime.coordinator,
            num_processes=runtime.processes,
            process_id=runtime.process_id,
            cluster_detection_method="deactivate",
        )
    try:
        jax.distributed.initialize(
            **by_hand,
            initialization_timeout=_CONNECT_SECONDS,
            # The watch below tells more in fewer lines; JAX's own is for when the watch itself is stuck.
            heartbeat_timeout_seconds=round(3 * runtime.heartbeat_seconds) + 20,
        )
    except Exception as error:  # a RuntimeError, a ValueError, or what the cluster's own client raises
        message = " ".join(str(error).split())[:200]
        raise EquimuError(
            f"the processes of this run ({found}) cannot be joined: {message}; write runtime.coordinator, processes and "
            "process_id, or runtime.cluster none for a run of one process"
        ) from None
    _watch = PeerWatch(jax.process_index(), jax.process_count(), runtime.heartbeat_seconds)


def launcher(runtime: JoiningOptions) -> str | None:
    """What has this process be one of several; None if it is alone.

    Args:
        runtime: what was said of processes: coordinator, number and cluster.
    """
    if runtime.coordinator is not None:
        return "runtime.coordinator"
    return _cluster() if runtime.cluster == "auto" else None


def report_failure(error: BaseException) -> None:
    """Tells the other processes, if there are any, that this one fails; they end, since they would wait for it in vain.

    Args:
        error: what ended it.
    """
    if _watch is None:
        return
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
        _watch.wait_for_verdict()  # most likely a collective, with a process that is no more
    _watch.report(" ".join(str(error).split())[:300] or type(error).__name__)


def exit_process(code: int) -> None:
    """Ends this process, which failed, without waiting for the others. Returns if there are none.

    Args:
        code: the exit code, an `ExitCode`.
    """
    if _watch is not None:
        _watch.end(code)


def is_process_zero() -> bool:
    """Whether this is the process that writes, prints and decides."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits for all processes. A collective that one of them enters half a minute late may fail.

    Args:
        name: of this meeting, the same on all processes.
    """
    if jax.process_count() > 1:
        service().wait_at_barrier(f"equimu:{name}:{_turn()}", _WORK_MS)


def on_process_zero(work: Callable[[], Any]) -> Any:
    """What some work returns (plain JSON types), done by process 0 and sent to the others.

    Raises:
        EquimuError: the work raised it; then in all processes.
    """
    if jax.process_count() == 1:
        return work()
    key = f"equimu/first/{_turn()}"
    if not is_process_zero():
        message = json.loads(service().blocking_key_value_get(key, _WORK_MS))
        if "error" in message:
            failure = EquimuError(f"process 0: {message['error']}")
            failure.exit_code = ExitCode(message["code"])
            raise failure
        return message["value"]
    try:
        value = work()
    except BaseException as error:
        code = error.exit_code if isinstance(error, EquimuError) else ExitCode.MISTAKE
        service().key_value_set(key, json.dumps({"error": str(error), "code": code}))
        raise
    service().key_value_set(key, json.dumps({"value": value}))
    return value


def _turn() -> int:
    # Counted alike in all processes, since all of them do the same in the same order.
    global _turns
    _turns += 1
    return _turns


def _cluster() -> str | None:
    """What started this process as one of several, as far as its environment tells."""
    environment = os.environ

    def number(name: str) -> int:
        value = environment.get(name, "")
        return int(value) if value.isdigit() else 0

    # A shell inside an allocation has the job's variables too, but it is a step of one task.
    if number("SLURM_STEP_NUM_TASKS") > 1 and "SLURM_PROCID" in environment:
        return "Slurm"
    if number("OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "Kubernetes"
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    if "," in hosts or "MEGASCALE_COORDINATOR_ADDRESS" in environment or _on_tpu_machine():
        return "TPU"
    return None


def _on_tpu_machine() -> bool:
    """Whether this machine has TPU chips that JAX will use; it may be one of a pod, which only its metadata server knows."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    wanted = not platforms or "tpu" in platforms.split(",")
    chips = any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    return wanted and chips and importlib.util.find_spec("libtpu") is not None
