"""A disk that is full while saving: one clear line, the last good checkpoint loads, and with room the run goes on."""

import subprocess
import time
from pathlib import Path

import numpy as np

from benchmarks.campaign import _runs
from benchmarks.campaign._children import equimu
from benchmarks.campaign._result import Result
from equimu._errors import ExitCode

_MOST_SAVES = 6  # of ten: filling the disk takes a moment, too


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """Runs on small disks, each filled up after a random number of saves. Takes a superuser."""
    rng = np.random.default_rng(seed)
    failures: list[str] = []
    reference = folder / "reference"
    equimu(_runs.arguments(folder, reference), folder / "out.txt").wait(300)
    wanted = _runs.content(reference, _runs.STEPS)
    for number in range(count):
        disk = folder / f"disk{number}"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True)
        try:
            failures += _try(folder, disk, int(rng.integers(1, _MOST_SAVES + 1)), wanted)
        finally:
            subprocess.run(["umount", "-l", disk], check=True)
    outcome = "one line, the last good checkpoint loaded, gone on to the same bits once there was room"
    return [Result(part="disk", what="full while saving", count=count, outcome=outcome, failures=tuple(failures))]


def _try(folder: Path, disk: Path, saves: int, wanted: dict[str, bytes]) -> list[str]:
    out, filler = disk / "out", disk / "filler"
    child = equimu(_runs.arguments(folder, out), folder / "out.txt")
    while not child.ended() and max(_runs.committed(out), default=0) < saves * _runs.EVERY:
        time.sleep(0.001)
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True, check=False)
    code = child.wait(300)
    message = [line for line in child.output().splitlines() if "No space left on device" in line]
    before = _runs.committed(out)
    filler.unlink()
    if code == 0 and _runs.content(out, _runs.STEPS) == wanted:
        return [f"the disk was filled too late (after {saves} saves)"]
    if code != ExitCode.STORAGE or len(message) != 1 or "Traceback" in child.output() or not before:
        return [f"after {saves} saves: code {code}, checkpoints {before}: {child.output()[-300:]}"]
    child = equimu(_runs.arguments(folder, out), folder / "out.txt")
    if child.wait(300) != 0 or _runs.content(out, _runs.STEPS) != wanted or _runs.left_over(out):
        return [f"after {saves} saves: went on to something else: {child.output()[-300:]}"]
    return []
