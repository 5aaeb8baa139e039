"""The process in which a step is compiled: its environment must be set before JAX is imported, and stay out of the caller's."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError
from equimu._values import Real
from equimu.attention import backends
from equimu.plans._compile import CompiledStep, compile_step
from equimu.plans._count import Counts, Traffic
from equimu.plans._topology import Topology, check_compiler, environment_for, topology_from_dict
from equimu.runs import RunConfig, config_from_dict, config_to_dict
from equimu.tasks import files_of, find_task, import_files, where_of

# Without the current folder, whose files may be named as modules are (`-P`); where this package is, comes last.
_CODE = "import sys; sys.path.append(sys.argv[1]); from equimu.plans._child import main; main(*sys.argv[2:])"


def compile_elsewhere(
    config: RunConfig,
    topology: Topology,
    *,
    data: int,
    fsdp: int,
    tensor: int,
    seconds: Real | None = None,
) -> CompiledStep:
    """`compile_step` in a process of its own.

    Args:
        config, topology, data, fsdp, tensor: as there.
        seconds: after which it is given up.

    Raises:
        EquimuError: as there; the compiler is not installed; the time is over; the process died.
    """
    check_compiler(topology)
    request = {
        "config": config_to_dict(config),
        "task": where_of(type(config.task)),
        "files": files_of(_registered(config)),
        "topology": dataclasses.asdict(topology),
        "arguments": {"data": data, "fsdp": fsdp, "tensor": tensor},
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "facts.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        # What the compiler of a TPU logs goes to stderr, and only matters if it dies.
        command = [sys.executable, "-P", "-c", _CODE, str(Path(__file__).parents[2]), str(asked), str(answered)]
        # Nothing is written to this pipe: it closes when this process ends, however that happens.
        alive, held = os.pipe()
        try:
            done = subprocess.run(
                [*command, str(alive)],
                env={**os.environ, **environment_for(topology)},
                pass_fds=[alive],
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EquimuError(
                f"compiling for {topology.name} took longer than {seconds:.0f} s; give it more by --seconds"
            ) from None
        finally:
            os.close(alive)
            os.close(held)
        if not answered.exists():
            last = (done.stderr.strip() or "no word").splitlines()[-1]
            raise EquimuError(f"the process that compiles for {topology.name} died ({done.returncode}): {last[:300]}")
        answer = json.loads(answered.read_text(encoding="utf-8"))
    if "error" in answer:
        raise EquimuError(answer["error"])
    return _facts(answer)


def _registered(config: RunConfig) -> list[Any]:
    """What users may have registered that the compiled program depends on."""
    values = json.dumps(config_to_dict(config))
    used = [b.run for b in backends().values() if b.preferred_on or json.dumps(b.name) in values]
    return [type(config.optimizer), *used]


def _facts(answer: dict[str, Any]) -> CompiledStep:
    counts: Any = answer["counts"]
    if counts is not None:
        traffic = {kind: Traffic(**values) for kind, values in counts["collectives"].items()}
        counts = Counts(**dict[str, Any](counts, collectives=traffic))
    fields: dict[str, Any] = {**answer, "counts": counts}
    return CompiledStep(**fields)


def main(asked: str, answered: str, alive: str) -> None:
    """Answers a request.

    Args:
        asked, answered: a file to read and one to write.
        alive: descriptor of a pipe that closes when the process that asked has ended; this one ends with it.
    """
    threading.Thread(target=_end_with, args=(int(alive),), daemon=True).start()
    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    try:
        task = find_task(request["task"])
        import_files(request["files"])  # which register what the config names
        config = config_from_dict(request["config"], task)
        topology = topology_from_dict(request["topology"])
        facts = compile_step(config, topology, **request["arguments"], clock=time.perf_counter)
        answer = dataclasses.asdict(facts)
    except EquimuError as error:
        answer = {"error": str(error)}
    Path(answered).write_text(json.dumps(answer), encoding="utf-8")


def _end_with(alive: int) -> None:
    os.read(alive, 1)
    os._exit(1)  # the compiler cannot be interrupted
