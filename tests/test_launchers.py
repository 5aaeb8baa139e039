"""Launchers: where the cells of a sweep are trained."""

import dataclasses
import importlib.util
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import LINES
from slurm_node import slurm_node, why_not

import equimu as mu
from equimu import EquimuError, SweepConfig, sweep
from equimu._errors import Interrupted
from equimu.cli._main import main
from equimu.processes import handle_signals
from equimu.runs import read_run
from equimu.sweeps import cells, commands, curves, dry_run, early_stopping, launcher_from_text
from equimu.sweeps._job import job_of, train_cell
from equimu.sweeps._pool import folder_of
from equimu.sweeps._ray import RayPool
from equimu.sweeps._slurm import SlurmPool
from equimu.sweeps._slurm_commands import Submitted
from equimu.sweeps._slurm_job import SlurmJob
from equimu.sweeps._slurm_record import SlurmRecord
from equimu.tasks import find_task
from equimu.training import RuntimeConfig

FILE = Path(LINES.partition(":")[0])
ROOT = Path(__file__).parents[1]


def lines(**fields):
    return SweepConfig(
        run=mu.RunConfig(task=find_task(LINES)(), steps=4, log_every=2, validation_batches=1),
        **{
            "over": {"width": (4, 8)},
            "fit": {"learning_rate": (0.125, 0.25)},
            "panels": ("mup",),
            "seeds": 1,
            **fields,
        },
    )


def losses(runs):
    return [(run.folder.name, run.validation_loss) for run in runs]


def test_what_early_stopping_leaves_is_not_known_beforehand(tmp_path, capsys):
    for flag in ("--dry-run", "--print-commands"):
        with pytest.raises(SystemExit) as stop:
            main(["sweep", LINES, "--early-stopping", flag, "--out", str(tmp_path / "runs")])
        assert stop.value.code == 2 and not list(tmp_path.iterdir())
        assert f"{flag} knows the whole grid, and not what early stopping will leave" in capsys.readouterr().err


# Texts.


@pytest.mark.parametrize(
    "text, value",
    [
        ("local", mu.Local()),
        ("local(workers=2)", mu.Local(workers=2)),
        ("local(vectorize=true)", mu.Local(vectorize=True)),
        ("slurm", mu.Slurm()),
        ("slurm( partition = gpu, gpus=1,minutes=120 )", mu.Slurm(partition="gpu", gpus=1, minutes=120)),
        (
            "slurm(memory=16G, sbatch='--constraint=a100 --exclude=n1,n2')",
            mu.Slurm(memory="16G", sbatch="--constraint=a100 --exclude=n1,n2"),
        ),
        ("ray(address=auto, gpus=0.5)", mu.Ray(address="auto", gpus=0.5)),
    ],
)
def test_a_text_is_the_call_that_makes_the_launcher(text, value):
    assert launcher_from_text(text) == value


@pytest.mark.parametrize(
    "text, words",
    [
        ("slrm", ["launcher 'slrm' is unknown", "did you mean 'slurm'? (valid: local, ray, slurm)"]),
        ("slurm(partion=gpu)", ["unknown key 'slurm.partion'", "did you mean 'partition'"]),
        ("slurm(minutes=0)", ["slurm.minutes must be at least 5", "got 0"]),
        ("slurm(gpus=one)", ["slurm.gpus must be int, got 'one'"]),
        ("slurm(gpu)", ["write fields by name, e.g. slurm(gpu=...)"]),
        ("slurm(gpus=1, gpus=2)", ["gives gpus twice"]),
        ("slurm(sbatch='-p gpu')", ["slurm.sbatch takes flags as --constraint=a100 --exclusive, got '-p'"]),
        ("slurm[gpu]", ["'slurm[gpu]' is not a launcher; write a name, or a call: slurm(partition=gpu, gpus=1)"]),
    ],
)
def test_a_wrong_text_is_one_line_and_exit_code_2(text, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", LINES, "--launcher", text, "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1
    assert all(word in lines[0] for word in words), lines[0]
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    config, out = lines(), tmp_path / "out"
    monkeypatch.setenv("PATH", str(tmp_path))
    if importlib.util.find_spec("submitit") is not None:
        with pytest.raises(
            EquimuError, match="there is no sbatch on this machine; run this on a login node .*--print-c"
        ):
            sweep(config, out=out, launcher="slurm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("slurm", "ray"):
        with pytest.raises(EquimuError, match=rf"not installed: pip install 'equimu\[{name}\]'"):
            sweep(config, out=out, launcher=name)
    with pytest.raises(EquimuError, match="workers=2 is for the launcher local; slurm has fields of its own"):
        sweep(config, out=out, launcher=mu.Slurm(), workers=2)
    assert not out.exists()


def test_search_and_comparison_take_the_launcher(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for run in (mu.tune, mu.compare):
        with pytest.raises(EquimuError, match=r"pip install 'equimu\[slurm\]'"):
            run(find_task(LINES)(), out=tmp_path / "out", launcher="slurm")


# What would be done, and commands that do it.


def test_dry_run_tells_and_writes_nothing(tmp_path, capsys):
    config, out = lines(), tmp_path / "out"
    assert dry_run(config, out=out, workers=3) == "4 cells: 0 done, 4 to train on this machine, 3 at a time"
    assert not out.exists()
    sweep(dataclasses.replace(config, over={"width": (4,)}), out=out)
    before = sorted(out.rglob("*"))
    flags = ["--over.width", "4", "8", "--fit.learning-rate", "0.125", "0.25", "--panels", "mup", "--seeds", "1"]
    flags += ["--run.steps", "4", "--run.log-every", "2", "--run.validation-batches", "1", "--out", str(out)]
    with pytest.raises(SystemExit) as stop:
        main(["sweep", LINES, *flags, "--dry-run", "--launcher", "local(workers=1)"])
    said = capsys.readouterr()
    assert stop.value.code == 0
    assert said.out == "4 cells: 2 done, 2 to train on this machine, 1 at a time\n"
    assert sorted(out.rglob("*")) == before


@pytest.mark.long
def test_printed_commands_train_the_cells_of_the_sweep(tmp_path):
    config, out = lines(), tmp_path / "out"
    printed = commands(config, out=out, runtime=RuntimeConfig(checkpoint_every=3, save_final=False))
    assert len(printed) == 4
    (program, *flags), (_, *others) = map(shlex.split, printed[:2])
    assert program == "equimu"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-m", "equimu", *flags], env=environment, cwd=tmp_path) as process:
        with pytest.raises(SystemExit) as stop:
            main(others)
    assert process.returncode == stop.value.code == 0
    assert dry_run(config, out=out, workers=1).startswith("4 cells: 2 done, 2 to train")
    assert commands(config, out=out) == [
        line.replace(" --runtime.checkpoint-every 3 --runtime.save-final False", "") for line in printed[2:]
    ]
    trained = {path: path.stat().st_mtime_ns for path in out.glob("*/done")}
    runs = sweep(config, out=out)
    assert len(trained) == 2 and all(path.stat().st_mtime_ns == time for path, time in trained.items())
    assert losses(runs) == losses(sweep(config, out=tmp_path / "local"))


def test_ray_would_train_on_a_cluster(tmp_path):
    pool = RayPool(mu.Ray(address="auto", cpus=4, gpus=0.5), tmp_path, RuntimeConfig())
    words = "as tasks of Ray, with 4 CPUs and 0.5 GPUs for each, on the cluster auto"
    assert pool.plan(list(cells(lines()))) == words


# The job.


def test_a_job_trains_the_cell_from_plain_json(tmp_path):
    cell = next(cells(lines()))
    job = job_of(cell, cell.steps, tmp_path, RuntimeConfig(loggers=("tensorboard",)))
    assert job["task"] == LINES and job["runtime"]["loggers"] == ["tensorboard"]
    job["runtime"]["loggers"] = []
    name = train_cell(**job)
    run = read_run(tmp_path / name)
    assert run is not None and name == folder_of(cell, tmp_path).path.name


def test_tasks_that_no_other_process_finds_are_refused(tmp_path):
    def make(width: int = 4, *, key):
        return None

    task = mu.task(name="mine", make=make, data=find_task(LINES)().data(), loss=lambda model, batch: 0.0)
    cell = mu.RunConfig(task=task, size={"width": 4})
    with pytest.raises(
        EquimuError, match="a task of functions is in this process alone; write it as a class in a file"
    ):
        job_of(cell, cell.steps, tmp_path, RuntimeConfig())


def test_a_job_does_not_start_the_sweep_of_the_script_that_it_imports(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FILE.read_text() + "\n\nmu.sweep(Lines(), out='runs')\n")
    cell = next(cells(lines()))
    job = {**job_of(cell, cell.steps, tmp_path, RuntimeConfig()), "task": f"{script}:Lines"}
    with pytest.raises(EquimuError, match="if __name__ == '__main__'"):
        train_cell(**job)


# Slurm, by a scheduler that runs a job in this process whenever it is asked for states.


class FakeSlurm:
    def __init__(self, fate=()):
        self.jobs, self.now, self.fate, self.begun = {}, {}, list(fate), []
        self.submitted = self.looks = 0

    def submit(self, jobs):
        self.submitted += 1
        made = [
            Submitted(f"{self.submitted}_{index}", f"log of {self.submitted}_{index}") for index in range(len(jobs))
        ]
        self.jobs |= {each.job: job for each, job in zip(made, jobs, strict=True)}
        self.now |= {each.job: "PENDING" for each in made}
        return made

    def states(self):
        pending = [job for job, state in self.now.items() if state == "PENDING"]
        self.looks += 1
        if pending and self.looks > 1:
            job = pending[0]
            self.begun.append(job)
            self.now[job] = self.fate.pop(0) if self.fate else "COMPLETED"
            if self.now[job] in ("COMPLETED", "FAILED"):
                try:
                    SlurmJob()(*self.jobs[job])
                except EquimuError:
                    self.now[job] = "FAILED"
        return dict(self.now)

    def queue_again(self, job):
        self.now[job] = "PENDING"
        return True


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(SlurmPool, "poll_seconds", 0.0)


def slurm_pool(root, fake, launcher=None):
    return SlurmPool(launcher or mu.Slurm(), root, RuntimeConfig(cluster="none"), SlurmRecord(root), fake)


def test_killed_jobs_are_queued_again_and_losses_are_those_of_local_runs(tmp_path, quick):
    grid, fake, seen = list(cells(lines())), FakeSlurm(["NODE_FAIL", "TIMEOUT", "COMPLETED", "PREEMPTED"]), []
    runs = slurm_pool(tmp_path / "jobs", fake).train(grid, lambda run, done, total: seen.append((done, total)))
    assert seen == [(n, 4) for n in range(1, 5)] and set(runs) == set(grid) and fake.submitted == 1
    assert len(fake.begun) == 7
    assert losses(runs[cell] for cell in grid) == losses(sweep(lines(), out=tmp_path / "local"))
    assert slurm_pool(tmp_path / "jobs", fake).train(grid) == runs and len(fake.begun) == 7


@pytest.mark.long
def test_jobs_are_left_early_and_go_on(tmp_path, quick):
    config = lines(fit={"learning_rate": mu.octaves(-9, -3)}, over={"width": (4,)})
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, steps=20))
    fake = FakeSlurm()
    pool = slurm_pool(tmp_path / "jobs", fake)
    runs = early_stopping(list(curves(config)), config.axes, lambda until: pool.train(list(until), None, until))
    local = sweep(config, out=tmp_path / "local", early_stopping=True)
    assert losses(runs) == losses(local) and 0 < len(runs.stopped) == len(local.stopped)
    assert len(fake.jobs) == len(set(fake.begun)) > 7


def test_a_second_start_waits_for_the_jobs_of_the_first(tmp_path, quick):
    grid, fake = list(cells(lines())), FakeSlurm()
    pool = slurm_pool(tmp_path, fake, mu.Slurm(partition="gpu", gpus=1, memory="8G"))
    assert pool.plan(grid) == (
        "as an array of 4 tasks on partition gpu, each with 1 CPU, 1 GPU, 8G of memory and 60 minutes"
    )

    def stop(run, done, total):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(
        Interrupted, match=r"with 1 of 4 cells done; the jobs of the others go on: .* scancel 1 cancels"
    ):
        pool.train(grid, stop)
    assert pool.plan(grid[:2]) == "2 by jobs that are queued or running"
    assert len(slurm_pool(tmp_path, fake).train(grid)) == 4
    assert fake.submitted == 1 and len(fake.begun) == len(set(fake.begun)) == 4


def test_cells_whose_jobs_are_gone_are_submitted_again(tmp_path, quick, monkeypatch):
    monkeypatch.setattr("equimu.sweeps._slurm._SEEN_SECONDS", 0.0)
    grid, fake = list(cells(lines())), FakeSlurm(["CANCELLED", "COMPLETED", "CANCELLED", "COMPLETED"])
    with pytest.raises(
        EquimuError, match=r"2 of 4 cells failed, .*: job 1_0 ended as CANCELLED .*; its log is log of 1_0"
    ):
        slurm_pool(tmp_path, fake).train(grid)
    assert len(slurm_pool(tmp_path, fake).train(grid)) == 4
    assert fake.submitted == 2 and len(fake.jobs) == 6


def test_a_job_that_is_killed_at_the_same_place_ends(tmp_path, quick, monkeypatch, capsys):
    monkeypatch.setattr("equimu.sweeps._slurm._SEEN_SECONDS", 0.0)
    with pytest.raises(EquimuError, match="1 of 1 cells failed"):
        slurm_pool(tmp_path, FakeSlurm(["NODE_FAIL"] * 9)).train(list(cells(lines()))[:1])
    (line,) = capsys.readouterr().err.splitlines()
    assert "job 1_0 ended as NODE_FAIL before its run did; its log is log of 1_0" in line


def test_what_went_wrong_in_a_job_is_told(tmp_path, quick):
    grid, fake = list(cells(lines()))[:1], FakeSlurm()
    pool = slurm_pool(tmp_path, fake)
    folder = tmp_path / mu.sweep(lines(), out=tmp_path / "elsewhere")[0].folder.name
    folder.mkdir()
    (folder / "mine.txt").touch()
    words = "holds files but no config.json, so it is not a run.*; its log is log of 1_0"
    with pytest.raises(EquimuError, match=words):
        pool.train(grid)
    (folder / "mine.txt").unlink()
    assert len(pool.train(grid)) == 1  # what the former job said is forgotten


@pytest.mark.parametrize("content", ["[]", '{"a": {"job": "1; rm", "log": ""}}', "{"])
def test_a_record_of_jobs_may_be_anyones(content, tmp_path):
    (tmp_path / ".slurm").mkdir()
    (tmp_path / ".slurm" / "jobs.json").write_text(content)
    with pytest.raises(EquimuError, match="is not a record of jobs; move it away, or choose another --out"):
        slurm_pool(tmp_path, FakeSlurm()).train(list(cells(lines())))


def test_a_task_is_saved_and_queued_again_before_its_limit(tmp_path, monkeypatch):
    """SIGUSR2 reaches the job in mid-run; what submitit listens with is called once the run is saved."""
    called = []
    monkeypatch.setattr("equimu.sweeps._slurm_job._KILL_SECONDS", 0.2)
    before = signal.signal(
        signal.SIGUSR2, lambda *given: called.append(sorted(p.name for p in tmp_path.glob("*/checkpoints/*")))
    )
    try:
        cell = dataclasses.replace(next(cells(lines())), steps=2000, log_every=1)
        job = job_of(cell, cell.steps, tmp_path, RuntimeConfig())

        def train(**given):
            os.kill(os.getpid(), signal.SIGUSR2)
            return train_cell(**given)

        monkeypatch.setattr("equimu.sweeps._slurm_job.train_cell", train)
        with handle_signals(), pytest.raises(Interrupted, match="stopped after step 1 of 2000"):
            SlurmJob()(job, str(tmp_path / "error.json"))
        assert len(called) == 1 and len(called[0]) == 1 and not (tmp_path / "error.json").exists()
    finally:
        signal.signal(signal.SIGUSR2, before)


# Real ones.

GRID = ["--over.width", "4", "8", "--fit.learning-rate", "0.0625", "0.125", "0.25", "--panels", "mup", "--seeds", "1"]
LONG = [
    "--run.steps",
    "3000",
    "--run.log-every",
    "500",
    "--run.validation-batches",
    "1",
    "--runtime.checkpoint-every",
    "300",
]


def start_sweep(out, launcher, environment, *flags):
    command = [sys.executable, "-m", "equimu", "sweep", LINES, *GRID, *LONG, "--out", str(out), "--launcher", launcher]
    return subprocess.Popen(
        [*command, *flags], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def environment_of(tmp_path, **more):
    # As many steps side by side as there are cores, each on one, wherever they are.
    flags = "--xla_cpu_multi_thread_eigen=false"
    cache = str(tmp_path / "programs")
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": cache, **more}


def losses_below(out):
    runs = [read_run(path.parent) for path in out.glob("*/done")]
    return {run.folder.name: run.validation_loss for run in runs}


@pytest.fixture(scope="module")
def local_losses(tmp_path_factory):
    out = tmp_path_factory.mktemp("local")
    local = start_sweep(out / "runs", "local", environment_of(out))
    said = local.communicate(timeout=120)
    assert local.returncode == 0, said
    found = losses_below(out / "runs")
    assert len(set(found.values())) == 6
    return found


def until(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it takes too long"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}")
def test_a_sweep_by_slurm_whose_jobs_are_killed(tmp_path, local_losses):
    """Killed, requeued, ahead of the limit, and with the driver stopped: each cell ends once, with the bits of a local run."""
    pytest.importorskip("submitit")
    out = tmp_path / "jobs"
    with slurm_node() as variables:
        environment = environment_of(tmp_path, **variables)

        def slurm(*command):
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

        def jobs():
            record = json.loads((out / ".slurm" / "jobs.json").read_text())
            return {name: each["job"] for name, each in record.items()}

        def running():
            found = slurm("squeue", "--array", "--noheader", "--states=R", "--format=%i").split()
            saved = [job for name, job in jobs().items() if any((out / name).glob("checkpoints/*/*"))]
            return [job for job in found if job in saved and job not in hit]

        def strike(*command):
            until(running)
            hit.append(random.choice(running()))
            if command:
                slurm(*command, hit[-1])
            else:
                name = {job: cell for cell, job in jobs().items()}[hit[-1]]
                os.kill(json.loads((out / name / "lock").read_text())["pid"], signal.SIGKILL)

        hit = []
        driver = start_sweep(out, "slurm(minutes=5)", environment)
        until((out / ".slurm" / "jobs.json").exists)
        strike("scancel", "--signal=KILL")  # which Slurm takes for a cancellation
        until(lambda: subprocess.run(["scontrol", "requeue", hit[0]], env=environment).returncode == 0)
        strike("scontrol", "requeue")
        driver.send_signal(signal.SIGINT)
        stopped = driver.communicate(timeout=60)[1].splitlines()[-1]
        assert (
            driver.returncode == 130 and "the same command waits for them again, and scancel 1 cancels them" in stopped
        )
        driver = start_sweep(out, "slurm(minutes=5)", environment)
        strike()
        strike("scancel", "--signal=USR2")
        said = driver.communicate(timeout=120)
        assert driver.returncode == 0, said
        ids = set(slurm("squeue", "--states=all", "--noheader", "--format=%A").split())
        arrays = set(slurm("squeue", "--states=all", "--noheader", "--format=%F").split())
        assert len(ids) == 6 and arrays == {"1"}  # nothing was submitted twice
    assert losses_below(out) == local_losses
    logs = {path.name: path.read_text() for path in (out / ".slurm").glob("*_log.out")}
    assert len(logs) == 6 and len(set(hit)) == 4
    for name, text in logs.items():
        begun, ended = text.count("Starting with"), text.count("Job completed successfully")
        # Slurm may send a signal twice, to a job that had begun again in between.
        assert ended == 1 and (begun > 1 if name.removesuffix("_0_log.out") in hit else begun == 1), text


@pytest.mark.slow
def test_a_sweep_by_ray(tmp_path, local_losses):
    """On a cluster that it starts; one of the processes is killed in mid-run."""
    pytest.importorskip("ray")
    out = tmp_path / "tasks"
    environment = environment_of(tmp_path, RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
    driver = start_sweep(out, "ray", environment)
    until(lambda: any(out.glob("*/checkpoints/*/*")))
    lock = next(lock for lock in out.glob("*/lock") if any(lock.parent.glob("checkpoints/*/*")))
    killed = json.loads(lock.read_text())["pid"]
    os.kill(killed, signal.SIGKILL)
    said = driver.communicate(timeout=120)
    assert driver.returncode == 0, said
    assert losses_below(out) == local_losses
