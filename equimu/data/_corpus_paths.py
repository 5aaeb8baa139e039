"""Which paths a corpus takes: those that fit a glob, or lie at any depth below a folder; and no token store among them."""

import fnmatch
import glob
from collections.abc import Iterable
from pathlib import Path

from equimu._errors import EquimuError
from equimu.data._store import INFO
from equimu.storage import local_path


def fits(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the names along a path fit a glob, of which `**` is any number of folders, and at its end any file below.

    A hidden name fits only what begins with a dot, too.
    """
    if not pattern or not names:
        return not pattern and not names
    if pattern[0] == "**":
        # The first name that `**` does not take.
        hidden = next((i for i, name in enumerate(names) if name.startswith(".")), len(names))
        if len(pattern) == 1:
            return hidden == len(names)
        return any(fits(names[i:], pattern[1:]) for i in range(min(hidden + 1, len(names))))
    if names[0].startswith(".") and not pattern[0].startswith("."):
        return False
    return fnmatch.fnmatch(names[0], pattern[0]) and fits(names[1:], pattern[1:])


def refuse_store_inside(place: str, root: Path, spec: str) -> None:
    """Checks that a token store to be written is no part of the text that it is made of.

    Args:
        place: folder or URL of the store.
        root: file, folder or glob of the text.
        spec: the corpus, for messages.

    Raises:
        EquimuError: its files would be taken for text.
    """
    path = local_path(place)
    if path is None or root.is_file():
        return
    real = root.resolve()
    pattern = (*map(glob.escape, real.parts), "**") if root.is_dir() else real.parts
    if fits((path.resolve() / INFO).parts, pattern):
        raise EquimuError(
            f"a token store at {place!r} would lie in corpus {spec!r} and count as its text; write it to a folder outside"
        )


def refuse_stores(paths: Iterable[Path], spec: str) -> None:
    """Checks that no file of a corpus is that of a token store.

    Args:
        paths: of the files.
        spec: the corpus, for messages.

    Raises:
        EquimuError: one is.
    """
    store = next((path.parent for path in paths if path.name == INFO), None)
    if store is not None:
        raise EquimuError(
            f"corpus {spec!r} holds a token store, '{store}', which is no text; move it elsewhere, or name the text by a glob"
        )
