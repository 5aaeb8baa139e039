"""Where text comes from: the sources of the Python standard library, or files, folders and globs."""

import collections
import dataclasses
import glob
import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from equimu._errors import EquimuError, counted, printable
from equimu._values import path_text
from equimu.data._corpus_paths import fits, refuse_stores
from equimu.data._dataset import DatasetCorpus, is_address, read_dataset
from equimu.data._text import first_no_text, is_json_lines, is_text, json_lines, pieces
from equimu.files import is_of_the_kernel

_LONGEST_DOCUMENT = 2**20  # characters; longer files are cut, so that memory stays bounded
_PIECES_OF_LONE_FILE = 256  # so that a split by document has something to split

# Left out of the default corpus: what is not the library, and tests, which not every installation brings.
_NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Text files in a fixed order, read document by document.

    A file is one document; a `.jsonl` file has one per line, in the field `text`, blank lines left out. Either may be
    compressed: `.gz`, or `.zst` (needs the package `zstandard`, before Python 3.14). The case of these endings does not matter.

    A file of more than 2^20 characters is cut into documents of at most that length, each at its last end of a line, or else
    after its last space; and a corpus of one text file is cut into about 256, so that it can be split into training and
    validation documents.

    Attributes:
        name: what was asked for: `"stdlib"`, or the path or glob.
        paths: the files, sorted.
        fingerprint: changes when a file is added, removed or written (told by path, size and time).
        doubled: paths that lead to one of the files, or to a folder of them, through a symbolic link, and are left out.
        broken: symbolic links that lead nowhere, or in a circle.
    """

    name: str
    paths: tuple[Path, ...]
    fingerprint: str
    doubled: int = 0
    broken: int = 0

    def documents(self, on_left_out: Callable[[Path], object] = lambda path: None) -> Iterator[str]:
        """The documents in order, empty ones left out.

        Bytes that are not UTF-8 become U+FFFD as long as they are rare; a document of many, or with a NUL, is not text and is
        left out.

        Args:
            on_left_out: called with the file of each document that is not text.

        Raises:
            EquimuError: a file cannot be read, or a line of a `.jsonl` file is not a document.
        """
        for path in self.paths:
            for text in _documents(path, alone=len(self.paths) == 1):
                if is_text(text):
                    yield text
                else:
                    on_left_out(path)

    @property
    def root(self) -> Path:
        """File, folder or glob of the text."""
        return Path(sysconfig.get_path("stdlib"), "*.py") if self.name == "stdlib" else Path(self.name).expanduser()

    def why_empty(self) -> str:
        """Why there is no document, and what to do, as the words after the corpus' name."""
        told = next((told for path in self.paths if (told := first_no_text(path)) is not None), None)
        if told is None:
            return f"is empty: no text in {counted(len(self.paths), 'file')}; name others"
        return f"holds no UTF-8 text: {told}; convert it, as `iconv -f latin1 -t utf-8` does, or name other files"


def read_corpus(spec: str) -> Corpus | DatasetCorpus:
    """Finds the files of a corpus; reads none of them.

    Symbolic links are followed, and each file is taken once, by its real path; how many links are left out, and why, is told on
    stderr.

    Args:
        spec: `"stdlib"`, the sources of the running Python's standard library (about 12 MB, so the text
            differs between Python versions); or a file, a folder (all its files at any depth), or a glob
            such as `"books/**/*.txt"`. Hidden files are left out. Or a data set that Hugging Face's `datasets` reads
            (needs the extra `hf`): `"hf://NAME?config=...&split=...&column=...&revision=..."`, the split being `train` and the
            column `text` unless given. NAME is one of the hub, or the path of a local file, folder or glob of JSON, Parquet,
            text (a document a line), CSV or Arrow, compressed or not.

    Returns:
        The corpus: a `DatasetCorpus` of an address that begins with `hf://`.

    Raises:
        EquimuError: nothing is there, or it is not a path of text.
    """
    spec = path_text("corpus", spec)
    if is_address(spec):
        return read_dataset(spec)
    try:
        found = _find_stdlib() if spec == "stdlib" else _find(Path(spec).expanduser())
    except (OSError, RuntimeError) as error:  # the latter of an unknown user's home
        message = getattr(error, "strerror", None) or error
        raise EquimuError(f"corpus {spec!r} cannot be read: {message}") from None
    if not found.paths:
        what = "has no files" if os.path.lexists(Path(spec).expanduser()) else "does not exist"
        raise EquimuError(f"corpus {spec!r} {what}; write 'stdlib' or a file, folder or glob of text files")
    if found.doubled or found.broken:
        message = f"{found.doubled} lead to what is there already, {found.broken} lead nowhere"
        print(
            f"equimu: corpus {printable(repr(spec))}: symbolic links left out: {message}", file=sys.stderr, flush=True
        )
    paths = sorted(found.paths.values(), key=lambda path: path.as_posix())
    refuse_stores(paths, spec)
    return Corpus(
        name=spec,
        paths=tuple(paths),
        fingerprint=_fingerprint(paths),
        doubled=found.doubled,
        broken=found.broken,
    )


class _Found:
    """Files by their real paths: each once, however many links lead to it."""

    def __init__(self):
        self.paths: dict[str, Path] = {}
        self.doubled = self.broken = 0

    def add(self, path: Path) -> None:
        """Adds a file, unless it is there; what is not a file is nothing."""
        real = os.path.realpath(path)
        if os.path.isfile(real) and not is_of_the_kernel(Path(real)):
            if real in self.paths:
                self.doubled += 1
            self.paths.setdefault(real, path)
        elif not os.path.exists(real):
            self.broken += 1

    def add_below(self, top: Path, pattern: tuple[str, ...]) -> None:
        """Adds the files below a folder whose names fit a pattern. Hidden ones are left out, and links come last."""
        seen: set[str] = set()
        folders, links = collections.deque([top]), collections.deque[Path]()
        while folders or links:
            folder = (folders or links).popleft()
            real = os.path.realpath(folder)
            if os.path.isdir(real) and (real in seen or is_of_the_kernel(Path(real))):
                self.doubled += real in seen
            elif os.path.isdir(real):
                seen.add(real)
                for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                    path = folder / entry.name
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink():
                        links.append(path)
                    elif entry.is_dir():
                        folders.append(path)
                    elif fits(path.relative_to(top).parts, pattern):
                        self.add(path)
            elif fits(folder.relative_to(top).parts, pattern):
                self.add(folder)


def _find(root: Path) -> _Found:
    found = _Found()
    if is_of_the_kernel(root):
        raise EquimuError(
            f"corpus '{root}' is of the kernel, which has no text; write a file, folder or glob of text files"
        )
    if root.is_dir():  # whose name may look like a glob, as that of a file
        found.add_below(root, ("**",))
    elif root.is_file() or "**" not in root.parts:
        for path in [root] if root.is_file() else sorted(map(Path, glob.glob(str(root))), key=Path.is_symlink):
            found.add(path)
    else:
        # glob follows links around in circles.
        at = root.parts.index("**")
        for top in glob.glob(str(Path(*root.parts[:at]))):
            found.add_below(Path(top), root.parts[at:])
    return found


def _find_stdlib() -> _Found:
    found, root = _Found(), Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        # The build's own settings are generated, full of the paths of one machine.
        if not path.name.startswith("_sysconfigdata") and _NOT_STDLIB.isdisjoint(path.relative_to(root).parts):
            found.add(path)
    return found


def _fingerprint(paths: list[Path]) -> str:
    stats = [(path.absolute().as_posix(), path.stat()) for path in paths]
    lines = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:32]


def _documents(path: Path, *, alone: bool) -> Iterator[str]:
    if is_json_lines(path):
        return filter(None, json_lines(path))
    try:
        size = path.stat().st_size
    except OSError as error:
        raise EquimuError(f"cannot read {path}: {error.strerror}") from None
    target = min(_LONGEST_DOCUMENT, max(1, size // _PIECES_OF_LONE_FILE)) if alone else _LONGEST_DOCUMENT
    return pieces(path, target, _LONGEST_DOCUMENT)
