"""Which job trains which cell, on the disk: a sweep that is started again waits for the jobs that it has."""

import contextlib
import json
import re
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path

from equimu._errors import EquimuError
from equimu._json import loads
from equimu.files import read_inside, refuse_special, write_inside
from equimu.runs import FolderLock
from equimu.sweeps._slurm_commands import Submitted

FOLDER = ".slurm"
_JOBS, _ERRORS = "jobs.json", "errors"
_JOB = re.compile(r"\d+(_\d+)?")


class SlurmRecord:
    """The folder of jobs below a root of runs. Nothing is created before it is `owned`."""

    def __init__(self, root: Path):
        self._root, self.folder = root.absolute(), root.absolute() / FOLDER

    def jobs(self) -> dict[str, Submitted]:
        """The last job of each cell, by the name of the cell's folder.

        Raises:
            EquimuError: the file is nothing that a sweep writes.
        """
        try:
            found = loads(read_inside(self._root, f"{FOLDER}/{_JOBS}"))
            jobs = {str(cell): Submitted(str(each["job"]), str(each["log"])) for cell, each in found.items()}
            if not all(_JOB.fullmatch(each.job) for each in jobs.values()):
                raise ValueError
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise EquimuError(
                f"{self.folder / _JOBS} is not a record of jobs; move it away, or choose another --out"
            ) from None
        return jobs

    @contextlib.contextmanager
    def owned(self) -> Generator[None, None, None]:
        """Context in which no other process submits jobs for this root. What it began is not left behind if that fails.

        Raises:
            EquimuError: another one does, or the folder cannot be made.
        """
        made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            refuse_special(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(self.folder)
        except OSError as error:
            raise EquimuError(f"cannot write {self.folder}: {error.strerror}; choose another --out") from None
        try:
            yield
        except EquimuError:
            lock.release()
            if made and not self.jobs():
                shutil.rmtree(self.folder, ignore_errors=True)
                for path in made[1:]:
                    with contextlib.suppress(OSError):  # it is not empty any more
                        path.rmdir()
            raise
        except BaseException:
            lock.release()
            raise
        lock.release()

    def add(self, jobs: Mapping[str, Submitted]) -> None:
        """Records jobs, in place of former ones of the same cells."""
        both = {cell: job._asdict() for cell, job in (self.jobs() | dict(jobs)).items()}
        write_inside(self._root, f"{FOLDER}/{_JOBS}", json.dumps(both, indent=1).encode())

    def error_file(self, cell: str) -> Path:
        """Where the job of a cell says what went wrong."""
        return self.folder / _ERRORS / f"{cell}.json"

    def error(self, cell: str) -> str | None:
        """What went wrong in the job of a cell; None if it says nothing."""
        try:
            return str(loads(read_inside(self._root, f"{FOLDER}/{_ERRORS}/{cell}.json"))["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def forget_error(self, cell: str) -> None:
        """Removes what the former job of a cell said."""
        self.error_file(cell).unlink(missing_ok=True)
