"""A Slurm cluster of this machine alone: munge, slurmctld and slurmd in a temporary folder, without systemd.

It needs the packages slurm-wlm and munge, and root: `python tests/slurm_node.py COMMAND...` runs a command with it.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
_UP_SECONDS = 30

_CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=2
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """What this machine lacks for a cluster of its own; None if nothing."""
    missing = [name for name in PROGRAMS if _found(name) is None]
    if missing:
        return f"{missing[0]} is not installed (slurm-wlm and munge)"
    return None if os.geteuid() == 0 else "a cluster of one machine is started by root"


@contextlib.contextmanager
def slurm_node(cpus: int = 2) -> Generator[dict[str, str], None, None]:
    """Context in which a cluster runs; gives the variables that its commands need.

    Args:
        cpus: that it pretends to have.
    """
    with tempfile.TemporaryDirectory(prefix="slurm") as name, contextlib.ExitStack() as started:
        folder = Path(name)
        folder.chmod(0o755)
        for each in ("state", "spool"):
            (folder / each).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        ports = {"control": _free_port(), "daemon": _free_port()}
        (folder / "slurm.conf").write_text(_CONF.format(folder=folder, host=host, cpus=cpus, **ports))
        # Jobs are told apart by their processes, so no cgroups are needed; Slurm 22 has no word for that.
        version = subprocess.run(
            [_found("slurmd") or "slurmd", "-V"], capture_output=True, text=True, timeout=60
        ).stdout
        is_old = int(version.split()[-1].partition(".")[0]) < 23
        plugin = f"cgroup/v1\nCgroupMountpoint={folder}/cgroup\nCgroupAutomount=no" if is_old else "disabled"
        (folder / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")
        environment = {"SLURM_CONF": str(folder / "slurm.conf")}

        def start(program: str, *arguments: str) -> None:
            command = [_found(program) or program, *arguments]
            with (folder / f"{program}.out").open("wb") as out:
                process = subprocess.Popen(
                    command, env=os.environ | environment, stdout=out, stderr=out, start_new_session=True
                )
            started.callback(_end, process)

        munge = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        start(
            "munged",
            "-F",
            "-f",
            "--log-file",
            str(folder / "munge.log"),
            *(f"--{k}={folder / v}" for k, v in munge.items()),
        )
        _wait((folder / "munge.socket").exists, folder)
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", host)

        def is_up() -> bool:
            asked = ["sinfo", "--noheader", "--format=%T"]
            done = subprocess.run(asked, env=os.environ | environment, capture_output=True, text=True, timeout=60)
            return done.stdout.strip() == "idle"

        _wait(is_up, folder)
        yield environment


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait(condition, folder: Path) -> None:
    until = time.monotonic() + _UP_SECONDS
    while not condition():
        if time.monotonic() > until:
            logs = "\n".join(
                f"{p.name}: {p.read_text(errors='replace')[-2000:]}" for p in folder.glob("*.[lo][ou][gt]")
            )
            raise RuntimeError(f"Slurm did not start:\n{logs}")
        time.sleep(0.2)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    with slurm_node() as variables:
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | variables).returncode)
