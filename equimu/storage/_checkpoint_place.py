"""Where checkpoints are kept: `step-N` was committed, locally by a rename, elsewhere by its manifest, which is written last."""

import abc
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError
from equimu.files import check_inside
from equimu.storage import commits
from equimu.storage._damage import Damaged
from equimu.storage._places import kvstore_spec, local_path, one_line, tensorstore

MANIFEST = "manifest.json"
"""The file that says what a checkpoint holds."""
_UNFINISHED = "unfinished"
_MOST_MANIFEST_BYTES = 2**28
_NAME = re.compile(r"step-(0|[1-9]\d*)(\.tmp|\.broken(?:-\d+)?)?")


class Place(abc.ABC):
    """A folder or URL of checkpoints."""

    @abc.abstractmethod
    def committed(self) -> list[int]:
        """The steps, ascending. One whose content is lost or damaged counts; one that was never finished does not."""

    @abc.abstractmethod
    def broken(self) -> list[str]:
        """The names of those that were set aside."""

    @abc.abstractmethod
    def begin(self, step: int) -> None:
        """Makes room for a checkpoint."""

    @abc.abstractmethod
    def draft(self, step: int) -> Any:
        """The key-value store in which a checkpoint is written."""

    @abc.abstractmethod
    def stored(self, step: int) -> Any:
        """The key-value store in which a committed checkpoint is read.

        Raises:
            Damaged: it holds a link, or what is not a file.
        """

    @abc.abstractmethod
    def sync(self, step: int, folder: str, names: Sequence[str]) -> None:
        """Waits until files of a draft, in one of its folders, are safe from a loss of power; `.` is the folder itself."""

    @abc.abstractmethod
    def commit(self, step: int, manifest: bytes) -> None:
        """Makes a draft a checkpoint. May be called again if it failed on the way."""

    @abc.abstractmethod
    def retire(self, step: int) -> None:
        """Makes a committed checkpoint one that was never finished, so that half of it is never taken for a whole."""

    @abc.abstractmethod
    def clean(self) -> None:
        """Removes what was never finished."""

    @abc.abstractmethod
    def quarantined(self, step: int) -> Path | str:
        """Gives a committed checkpoint a name under which it is not taken for one; returns where it is then."""


def open_place(root: str | Path) -> Place:
    """The place at a folder or URL.

    Raises:
        EquimuError: no such kind of URL.
    """
    path = local_path(str(root))
    return RemotePlace(str(root)) if path is None else LocalPlace(path)


@functools.cache
def context() -> Any:
    """tensorstore's settings. One for all: `memory://` lives in its context."""
    # Nothing is read twice, hence no cache. Files are synced by `commits.sync`, while others are written.
    return tensorstore().Context({"cache_pool": {"total_bytes_limit": 0}, "file_io_sync": False})


class LocalPlace(Place):
    """A folder. Drafts are `step-N.tmp`."""

    def __init__(self, root: Path):
        self._root = root

    def committed(self) -> list[int]:
        return sorted(step for step, ending in self._names() if ending is None)

    def broken(self) -> list[str]:
        return [f"step-{step}{ending}" for step, ending in self._names() if ending and ending != ".tmp"]

    def begin(self, step: int) -> None:
        self.clean()
        commits.make_folder(self._path(step, ".tmp"))

    def draft(self, step: int) -> Any:
        return _kvstore(str(self._path(step, ".tmp")))

    def stored(self, step: int) -> Any:
        try:
            check_inside(self._root, f"step-{step}")
            check_inside(self._root, f"step-{step}/{MANIFEST}", _MOST_MANIFEST_BYTES)
        except OSError as error:
            raise Damaged(one_line(error)) from None
        return _kvstore(str(self._path(step)))

    def sync(self, step: int, folder: str, names: Sequence[str]) -> None:
        for name in names:
            commits.sync(self._path(step, ".tmp") / folder / name)

    def commit(self, step: int, manifest: bytes) -> None:
        draft, final = self._path(step, ".tmp"), self._path(step)
        if draft.exists() or not final.exists():  # else this is the second try, and the rename was done by the first
            commits.write(draft / MANIFEST, manifest)
            commits.sync(draft / MANIFEST)
            commits.sync(draft)
            commits.rename(draft, final)
        commits.sync(self._root)

    def retire(self, step: int) -> None:
        commits.rename(self._path(step), self._path(step, ".tmp"))

    def clean(self) -> None:
        for step, ending in self._names():
            if ending == ".tmp":
                commits.remove(self._path(step, ending))

    def quarantined(self, step: int) -> Path | str:
        aside = self._path(step, _free(step, self.broken()))
        commits.rename(self._path(step), aside)
        commits.sync(self._root)
        return aside

    def _path(self, step: int, ending: str = "") -> Path:
        return self._root / f"step-{step}{ending}"

    def _names(self) -> list[tuple[int, str | None]]:
        try:
            names = os.listdir(self._root)
        except FileNotFoundError:
            return []
        return [(int(found[1]), found[2]) for found in map(_NAME.fullmatch, sorted(names)) if found]


class RemotePlace(Place):
    """An object store, which has no rename: a draft is a `step-N` that holds an object `unfinished` and no manifest."""

    def __init__(self, url: str):
        self._url = url.rstrip("/")
        self._root = _kvstore(self._url)

    def committed(self) -> list[int]:
        steps = self._folders()
        return sorted(int(name[5:]) for name, keys in steps.items() if "." not in name and not _is_draft(keys))

    def broken(self) -> list[str]:
        return [name for name in self._folders() if ".broken" in name]

    def begin(self, step: int) -> None:
        self.clean()
        self._root.write(f"step-{step}/{_UNFINISHED}", b"").result()

    def draft(self, step: int) -> Any:
        return self._root / f"step-{step}/"

    def stored(self, step: int) -> Any:
        return self._root / f"step-{step}/"

    def sync(self, step: int, folder: str, names: Sequence[str]) -> None:
        """An object that was written is safe."""

    def commit(self, step: int, manifest: bytes) -> None:
        self._root.write(f"step-{step}/{MANIFEST}", manifest).result()
        self._root.write(f"step-{step}/{_UNFINISHED}", None).result()

    def retire(self, step: int) -> None:
        self._root.write(f"step-{step}/{_UNFINISHED}", b"").result()
        self._root.write(f"step-{step}/{MANIFEST}", None).result()

    def clean(self) -> None:
        for name, keys in self._folders().items():
            if "." not in name and _is_draft(keys):
                self._delete(name, keys)

    def quarantined(self, step: int) -> Path | str:
        old, new = f"step-{step}", f"step-{step}{_free(step, self.broken())}"
        keys = self._folders()[old]
        for key in keys:
            self._root.write(f"{new}/{key}", self._root.read(f"{old}/{key}").result().value).result()
        self._delete(old, keys)
        return f"{self._url}/{new}"

    def _delete(self, name: str, keys: set[str]) -> None:
        """The manifest first and the mark of a draft last: interrupted, it is still no checkpoint."""
        for key in sorted(keys, key=lambda key: (key == _UNFINISHED, key != MANIFEST)):
            self._root.write(f"{name}/{key}", None).result()

    def _folders(self) -> dict[str, set[str]]:
        """The keys below each folder that is named like a checkpoint."""
        folders: dict[str, set[str]] = {}
        for key in self._root.list().result():
            name, _, rest = key.decode(errors="replace").partition("/")
            if rest and _NAME.fullmatch(name):
                folders.setdefault(name, set()).add(rest)
        return folders


def _is_draft(keys: set[str]) -> bool:
    return _UNFINISHED in keys and MANIFEST not in keys


def _free(step: int, broken: list[str]) -> str:
    endings = (".broken", *(f".broken-{n}" for n in range(2, len(broken) + 3)))
    return next(ending for ending in endings if f"step-{step}{ending}" not in broken)


def _kvstore(place: str) -> Any:
    try:
        return tensorstore().KvStore.open(kvstore_spec(place), context=context()).result()
    except Exception as error:
        raise EquimuError(
            f"cannot open {place!r} for checkpoints: {' '.join(str(error).split())[:200]}; "
            "write a folder, or a URL such as gs://bucket/name"
        ) from None
