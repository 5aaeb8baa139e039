"""Several processes as one run: real ones, started from the command line as a user would."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from equimu import EquimuError
from equimu._errors import ExitCode
from equimu.data import Batch
from equimu.processes import launcher, on_process_zero
from equimu.processes._consensus import Consensus, StopVote
from equimu.sharding import make_mesh, place_batch, rows_of_process
from equimu.sharding._mesh import BATCH
from equimu.training import RuntimeConfig

RUN = [
    *(
        "--size.width",
        "16",
        "--model.head-dim",
        "8",
        "--base.width",
        "16",
        "--validation-batches",
        "2",
    ),
    *("--text.seq", "16", "--text.rows", "4", "--log-every", "5"),
]


def start(corpus, out, *flags, devices):
    """One process of `equimu train` with so many CPU devices."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "-m", "equimu", "train", *RUN, "--text.corpus", corpus, "--out", str(out), *flags]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start_two(corpus, out, *flags):
    port = free_port()
    joined = ("--runtime.coordinator", f"localhost:{port}", "--runtime.processes", "2", "--runtime.process-id")
    mesh = ("--runtime.data", "2", "--runtime.fsdp", "2", "--runtime.heartbeat-seconds", "5")
    return [start(corpus, out, *flags, *mesh, *joined, str(index), devices=2) for index in range(2)]


def ends(*processes):
    """Exit code, stdout (but for gloo's own lines) and stderr of each."""
    message = [process.communicate(timeout=900) for process in processes]
    return [
        (process.returncode, re.sub(r".*(Gloo|rank).*\n", "", out), err)
        for process, (out, err) in zip(processes, message, strict=True)
    ]


def rows_of(out):
    (path,) = out.glob("*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for(condition, processes, seconds=900):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until and all(process.poll() is None for process in processes), ends(*processes)
        time.sleep(0.1)


@pytest.mark.slow
def test_two_processes_train_to_the_losses_of_one(corpus, tmp_path):
    short = ("--steps", "15")
    assert [code for code, *_ in ends(start(corpus, tmp_path / "one", *short, devices=1))] == [0]
    mesh = ("--runtime.data", "2", "--runtime.fsdp", "2")
    assert [code for code, *_ in ends(start(corpus, tmp_path / "four", *short, *mesh, devices=4))] == [0]
    (code, out, _), (other_code, other_out, _) = ends(*start_two(corpus, tmp_path / "two", *short))
    assert code == other_code == 0
    assert out.startswith("validation loss") and other_out == ""  # only the first one tells
    assert {p.name for p in next((tmp_path / "two").iterdir()).iterdir()} == {
        *("config.json", "rules.json", "metrics.jsonl", "done"),
    }
    one, four, two = (rows_of(tmp_path / name) for name in ("one", "four", "two"))
    assert [row["step"] for row in two] == [1, 5, 10, 15, 15]
    for key in ("loss", "grad_norm", "update_rms", "validation_loss"):
        values = [[row[key] for row in rows if key in row] for rows in (one, four, two)]
        np.testing.assert_allclose(values[1], values[0], rtol=1e-4)
        np.testing.assert_allclose(values[2], values[1], rtol=1e-5)


@pytest.mark.slow
def test_killed_process_is_named_a_told_one_saves_and_both_go_on(corpus, tmp_path):
    long = ("--steps", "100000", "--runtime.checkpoint-every", "20", "--runtime.keep", "1000")

    def saved():
        return sorted(int(p.name[5:]) for p in tmp_path.glob("*/checkpoints/step-*") if p.suffix != ".tmp")

    processes = start_two(corpus, tmp_path, *long)
    wait_for(lambda: len(saved()) >= 2, processes)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    (code, _, err), _ = ends(*processes)
    assert code == ExitCode.PEER and time.monotonic() - killed < 15
    assert f"equimu: process 1 of 2 (pid {processes[1].pid} on " in err and "has been silent" in err
    assert "Traceback" not in err
    # both started again, they go on; SIGTERM to one of them ends both, saved at one step
    before = saved()
    processes = start_two(corpus, tmp_path, *long)
    wait_for(lambda: saved()[-1] > before[-1], processes)
    processes[1].send_signal(signal.SIGTERM)
    asked = time.monotonic()
    (code, _, err), (other_code, _, other_err) = ends(*processes)
    assert code == other_code == ExitCode.TERMINATED and time.monotonic() - asked < 10
    assert f"the last checkpoint is of step {saved()[-1]}" in err and "equimu" not in other_err
    steps = [row["step"] for row in rows_of(tmp_path)]
    assert steps == sorted(set(steps)) and not list(tmp_path.glob("*/lock"))


JOIN_AND_END = """
import sys, time
from equimu.processes import _processes, connect
from equimu.training import RuntimeConfig
connect(RuntimeConfig(coordinator=f"localhost:{sys.argv[1]}", processes=2, process_id=int(sys.argv[2])))
_processes._watch._pause = 1e-5  # so that its thread is all but always inside a call
time.sleep(1 + int(sys.argv[2]))
"""


@pytest.mark.long
def test_processes_end_in_peace_while_their_watches_call_the_service():
    port = free_port()
    command = [sys.executable, "-c", JOIN_AND_END, str(port)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    message = ends(*(subprocess.Popen([*command, str(index)], **pipes) for index in range(2)))
    assert message == [(0, "", ""), (0, "", "")]


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"}, "Slurm"),
        # a shell within an allocation of several tasks is not a start of several
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, "Kubernetes"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a:1"}, "TPU"),
    ],
)
def test_launcher_is_told_by_the_environment(environment, found, monkeypatch):
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "MEGASCALE_", "JOB_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launcher(RuntimeConfig()) == found
    assert launcher(RuntimeConfig(cluster="none")) is None
    by_hand = RuntimeConfig(coordinator="a:1", processes=2, process_id=0, cluster="none")
    assert launcher(by_hand) == "runtime.coordinator"


def test_start_that_jax_cannot_join_is_one_line(monkeypatch, corpus, tmp_path):
    from runs import small_run

    from equimu import train

    runtime = RuntimeConfig(coordinator="localhost:1", processes=2, process_id=1)
    with pytest.raises(EquimuError, match="cannot be joined.*runtime.cluster none") as error:
        train(small_run(corpus), out=tmp_path, runtime=runtime)  # JAX has long been used here
    assert "\n" not in str(error.value)


def test_rows_of_a_process_are_those_of_its_devices():
    mesh = make_mesh(4, 2)
    assert rows_of_process(mesh, 16) is None  # alone: all
    with pytest.raises(
        EquimuError, match=r"a batch of 12 rows cannot be spread evenly over 4×2 devices.*multiple of 8"
    ):
        rows_of_process(mesh, 12)


def test_batch_from_rows_is_the_batch():
    mesh = make_mesh(4, 2)
    whole = Batch(*(np.arange(16 * 3).reshape(16, 3) + n for n in range(3)))
    placed = place_batch(whole, mesh, np.arange(16), 16)
    for array, expected in zip(placed, place_batch(whole, mesh, None, 16), strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.sharding == expected.sharding == NamedSharding(mesh, BATCH)


def test_agreement_of_one_process_is_its_wish():
    wish = StopVote(0, True)
    agreed = Consensus(make_mesh(), lambda: wish)
    assert agreed(1) == wish and on_process_zero(lambda: 3) == 3


def test_agreement_of_several_comes_to_all_at_one_step_and_soon(monkeypatch):
    """The path of several processes, with this one as all of them."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    wishes = {}
    agreed = Consensus(make_mesh(4, 2), lambda: wishes.pop("now", StopVote(0, False)))
    found = []
    for step in range(1, 6001):
        if step == 3000:
            wishes["now"] = StopVote(15, True)
        found.append(agreed(step))
        if step < 20:
            time.sleep(0.02)
    assert [wish for wish in found if wish.save or wish.signum] == [StopVote(15, True)]
    assert found.index(StopVote(15, True)) < 2999 + 2 * 1000 + 1
