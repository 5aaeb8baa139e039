"""A run that is killed on eight devices and goes on with others: which batches it sees there."""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.campaign import _runs
from benchmarks.campaign._children import equimu, together

_PATIENCE = 300.0
_ROWS = 8  # of a batch: one for each device
_KILLED_AT = 57

# Of each step, the hash of each row.
Seen = dict[int, dict[int, str]]


def continued(folder: Path, targets: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, list[str]]]:
    """For each number of processes and of devices of each: the steps taken there, and what was wrong with them."""
    whole, killed = folder / "whole", folder / "killed"
    wanted, _ = _run(folder, whole, 1, 8)
    _run(folder, killed, 1, 8, killed_at=_KILLED_AT)
    found: dict[tuple[int, int], tuple[int, list[str]]] = {}
    for processes, devices in targets:
        out = folder / f"on-{processes}-{devices}"
        shutil.copytree(killed, out)
        saved = max(_runs.committed(out), default=0)
        seen, failures = _run(folder, out, processes, devices)
        if saved == 0:
            failures.append("it was killed before anything was saved")
        if seen != {step: rows for step, rows in wanted.items() if step > saved}:
            failures.append(f"other batches: steps {sorted(seen)[:1]} to {sorted(seen)[-1:]}")
        if not failures:
            losses, others = ([row["loss"] for row in _runs.rows(each) if "loss" in row] for each in (whole, out))
            # Sums are taken in another order there, and after 50 and more steps of Adam no further digit is left of that.
            if len(losses) != len(others) or not np.allclose(losses, others, rtol=1e-3):
                failures.append("other losses")
        found[processes, devices] = (len(seen), failures)
    return found


def _run(
    folder: Path, out: Path, processes: int, devices: int, *, killed_at: int | None = None
) -> tuple[Seen, list[str]]:
    """Starts the run or goes on with it; the batches that it sees, and what is wrong with its end."""
    mesh = ("--text.rows", f"{_ROWS}", "--runtime.data", f"{processes * devices}", "--runtime.checkpoint-every", "25")
    arguments = _runs.arguments(folder, out, runtime=mesh)
    record = folder / f"batches-{out.name}"
    record.mkdir()

    def before() -> None:
        _record(record, killed_at)

    if processes == 1:
        children = [equimu(arguments, folder / "out.txt", devices=devices, before=before)]
    else:
        children = together(processes, arguments, folder, devices=devices, before=before)
    codes = [child.wait(_PATIENCE) for child in children]
    wanted = 0 if killed_at is None else -signal.SIGKILL
    failures = [child.output()[-300:] for child, code in zip(children, codes, strict=True) if code != wanted]
    seen: Seen = {}
    for path in record.iterdir():
        for line in path.read_text().splitlines():
            step, row, digest = json.loads(line)
            seen.setdefault(step, {})[row] = digest
    return seen, failures


def _record(record: Path, killed_at: int | None) -> None:
    """Has this process write down the rows of each batch that a step takes, and be killed in front of a step."""
    from equimu.data import Loader

    iterate: Callable[..., Iterator[Any]] = Loader.iterate

    def recording(self: Loader, first: int = 0, rows: Any = None) -> Iterator[Any]:
        with open(record / f"{os.getpid()}.jsonl", "a") as file:
            for step, batch in enumerate(iterate(self, first, rows), first + 1):
                if step == killed_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                for index, row in enumerate(range(len(batch.inputs)) if rows is None else rows):
                    digest = hashlib.sha256(b"".join(part[index].tobytes() for part in batch)).hexdigest()
                    file.write(json.dumps([step, int(row), digest]) + "\n")
                file.flush()
                yield batch

    Loader.iterate = recording  # pyright: ignore[reportAttributeAccessIssue]
