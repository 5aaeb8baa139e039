"""Text from files: compressed or not, in pieces that fit in memory, or as lines of JSON."""

import contextlib
import gzip
import importlib
import io
import re
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from equimu._errors import EquimuError
from equimu._json import loads

_SHORTEST = 2**12  # characters of a piece that ends within a line
_LONGEST_LINE = 2**26  # characters of a line of JSON
_ZSTD = ("compression.zstd", "zstandard")  # of Python 3.14 and later, and of the package


def is_text(text: str) -> bool:
    """Whether a document is text: NUL and U+FFFD stand in no ordinary text.

    A stray byte that was not UTF-8 is forgiven; an image or a Latin-1 book is not.
    """
    return "\0" not in text and text.count("\ufffd") <= 1 + len(text) // 100


def first_no_text(path: Path) -> str | None:
    """Where a file first holds what is no text, and what that is; None if nothing of its beginning is."""
    text = next(pieces(path, _LONGEST_LINE, _LONGEST_LINE), "")
    match = re.search("[\0\ufffd]", text)
    if match is None:
        return None
    what = "a NUL" if match[0] == "\0" else "bytes that are not UTF-8"
    return f"{path}, line {text.count(chr(10), 0, match.start()) + 1}, holds {what}"


def is_json_lines(path: Path) -> bool:
    """Whether a file's name says that each of its lines is JSON."""
    return _endings(path)[0] == ".jsonl"


def pieces(path: Path, target: int, longest: int) -> Iterator[str]:
    """The text of a file, cut at the first end of a line after `target` characters.

    Where that would be more than `longest`, it is cut at the last end of a line before `target`, or else after the last
    space, or else right there, so that no piece is longer than `longest`; for this, `target` is at least 4096. Bytes that are
    not UTF-8 become U+FFFD.

    Raises:
        EquimuError: the file cannot be read or is not compressed as its name says.
    """
    with _opened(path, encoding="utf-8", newline="") as file:
        text = ""
        while text := text + file.read(longest + 1 - len(text)):
            cut = len(text) if len(text) <= target else 1 + text.find("\n", target - 1, longest)
            if not cut:  # no line ends there
                within = min(max(target, _SHORTEST), longest)
                ends = (text.rfind("\n", 0, within), text.rfind(" ", 0, within), within - 1)
                cut = len(text) if len(text) <= within else 1 + next(end for end in ends if end >= 0)
            yield text[:cut]
            text = text[cut:]


def json_lines(path: Path) -> Iterator[str]:
    """The field `text` of each line; blank lines and a byte-order mark are passed over.

    Raises:
        EquimuError: as `pieces`; a line is not JSON of that kind.
    """
    with _opened(path, encoding="utf-8-sig", newline="\n") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if line.strip():
                try:
                    if len(line) == _LONGEST_LINE:
                        raise ValueError(f"longer than {_LONGEST_LINE} characters")
                    yield _text_of(line)
                except ValueError as error:
                    message = getattr(error, "msg", error)  # of the decoder, without its own numbers of lines
                    raise EquimuError(
                        f'{path}, line {number}: not a document ({message}); every line must be {{"text": "..."}}'
                    ) from None


def first_broken_line(path: Path) -> str | None:
    """Which line of a file of JSON lines is none, and why, as words; None if all are, or it is of an unknown compression."""
    with contextlib.suppress(EquimuError), _opened(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), 1):
            try:
                if line.strip():
                    loads(line)
            except ValueError as error:
                return f"{path}, line {number}, is not JSON ({getattr(error, 'msg', error)}); mend or remove it"
    return None


def _text_of(line: str) -> str:
    found = loads(line)
    text: Any = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise ValueError("no object with a text")
    # JSON can hold half a surrogate pair, which no UTF-8 can
    return text.encode(errors="replace").decode()


@contextlib.contextmanager
def _opened(path: Path, encoding: str, newline: str) -> Generator[io.TextIOBase]:
    compression = _endings(path)[1]
    errors: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
    zstd = _zstd(path) if compression == ".zst" else None
    if zstd is not None:
        errors = (*errors, zstd.ZstdError)
    try:
        with path.open("rb") as file, _decompressed(file, compression, zstd) as content:
            yield io.TextIOWrapper(content, encoding=encoding, errors="replace", newline=newline)
    except errors as error:
        message = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise EquimuError(f"cannot read {path}: {message}") from None


def _decompressed(file: BinaryIO, compression: str, zstd: Any) -> Any:
    if compression == ".gz":
        return gzip.GzipFile(fileobj=file)
    if compression == ".zst":
        if hasattr(zstd, "ZstdFile"):
            return zstd.ZstdFile(file)
        return io.BufferedReader(zstd.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    return file


def _zstd(path: Path) -> Any:
    for name in _ZSTD:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise EquimuError(f"{path} is compressed with zstd, which needs a package: pip install zstandard")


def _endings(path: Path) -> tuple[str, str]:
    """The ending of a file's name without the compression's, and the compression's, in lower case."""
    name = Path(path.name.lower())
    compression = name.suffix if name.suffix in (".gz", ".zst") else ""
    return Path(name.name.removesuffix(compression)).suffix, compression
