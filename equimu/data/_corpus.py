"""Where text comes from: the sources of the Python standard library, or files, folders and globs."""

import dataclasses
import glob
import hashlib
import json
import os
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from equimu._errors import EquimuError

_LONGEST_DOCUMENT = 2**20  # characters; longer files are cut, so that memory stays bounded
_PIECES_OF_LONE_FILE = 256  # so that a split by document has something to split

# Left out of the default corpus: what is not the library, and tests, which not every installation brings.
_NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Text files in a fixed order, read document by document.

    A file is one document; a `.jsonl` file has one per line, in the field `text`. A file of more than 2^20
    characters is cut at ends of lines into documents of about that length, and a corpus of one text file is
    cut into about 256, so that it can be split into training and validation documents.

    Attributes:
        name: what was asked for: `"stdlib"`, or the path or glob.
        paths: the files, sorted.
        fingerprint: changes when a file is added, removed or written (told by path, size and time).
    """

    name: str
    paths: tuple[Path, ...]
    fingerprint: str

    def documents(self, on_left_out: Callable[[Path], object] = lambda path: None) -> Iterator[str]:
        """The documents in order, empty ones left out.

        Bytes that are not UTF-8 become U+FFFD as long as they are rare; a document of many, or with a NUL, is no text and is
        left out.

        Args:
            on_left_out: called with the file of each document that is no text.

        Raises:
            EquimuError: a file cannot be read, or a line of a `.jsonl` file is no document.
        """
        for path in self.paths:
            try:
                longest = _LONGEST_DOCUMENT
                if len(self.paths) == 1:
                    longest = min(longest, max(1, path.stat().st_size // _PIECES_OF_LONE_FILE))
                for text in _json_lines(path) if path.suffix == ".jsonl" else _pieces(path, longest):
                    if _is_text(text):
                        yield text
                    else:
                        on_left_out(path)
            except OSError as error:
                raise EquimuError(f"cannot read {path}: {error.strerror}") from None


def read_corpus(spec: str) -> Corpus:
    """Finds the files of a corpus; reads none of them.

    Args:
        spec: `"stdlib"`, the sources of the running Python's standard library (about 12 MB, so the text
            differs between Python versions); or a file, a folder (all its files at any depth), or a glob
            such as `"books/**/*.txt"`. Hidden files are left out.

    Returns:
        The corpus.

    Raises:
        EquimuError: nothing is there.
    """
    if spec == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        found = root.rglob("*.py")
        # The build's own settings are generated, full of the paths of one machine.
        found = (p for p in found if not p.name.startswith("_sysconfigdata"))
        paths = [p for p in found if _NOT_STDLIB.isdisjoint(p.relative_to(root).parts)]
    else:
        root = Path(spec).expanduser()
        pattern = os.path.join(glob.escape(str(root)), "**", "*") if root.is_dir() else str(root)
        # A file whose name looks like a glob is still that file.
        found = [root] if root.is_file() else map(Path, glob.glob(pattern, recursive=True))
        paths = [p for p in found if p.is_file()]
    if not paths:
        what = "has no files" if root.exists() else "does not exist"
        raise EquimuError(f"corpus {spec!r} {what}; write 'stdlib' or a file, folder or glob of text files")
    paths.sort(key=lambda path: path.as_posix())
    return Corpus(name=spec, paths=tuple(paths), fingerprint=_fingerprint(paths))


def _fingerprint(paths: list[Path]) -> str:
    stats = [(path.absolute().as_posix(), path.stat()) for path in paths]
    lines = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:32]


def _pieces(path: Path, longest: int) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        while text := file.read(longest):
            text += file.readline()
            yield text


def _json_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError):
                text = None
            if not isinstance(text, str):
                raise EquimuError(f'{path}, line {number}: not a document; every line must be {{"text": "..."}}')
            if text:
                # JSON can hold half a surrogate pair, which no UTF-8 can
                yield text.encode(errors="replace").decode()


def _is_text(text: str) -> bool:
    # NUL and U+FFFD stand in no ordinary text; a stray byte is forgiven, an image or a Latin-1 book is not.
    return "\0" not in text and text.count("\ufffd") <= 1 + len(text) // 100
