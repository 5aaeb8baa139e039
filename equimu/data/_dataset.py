"""Text from data sets that Hugging Face's `datasets` reads: by name from its hub, or from local files of many formats."""

import contextlib
import dataclasses
import glob
import hashlib
import importlib
import json
import logging
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError, nearest, printable
from equimu._values import Index, check
from equimu.data._address import SCHEME, read_address
from equimu.data._corpus_paths import refuse_stores
from equimu.data._text import first_broken_line, is_text

_KEYS = ("config", "split", "column", "revision")
# What a file's name ends in, less the compression's ending, and who reads it.
_READERS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".txt": "text",
    ".csv": "csv",
    ".arrow": "arrow",
}
_JSON_LINES = (".jsonl", ".ndjson")
_COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetCorpus:
    """A split of a data set, streamed row by row: a row is a document. Made by `read_corpus("hf://...")`.

    It is opened when its documents are first asked for, so a store that is there already needs no network.

    Attributes:
        name: its address, as it was asked for.
        source: name on the hub, or local path or glob.
        config: name of the configuration; None for the only one.
        split: name of the split.
        column: whose text it is.
        revision: branch, tag or commit on the hub; None for the newest.
        fingerprint: of all of these, and of the path, size and time of local files. What is changed on the hub under one name
            is not seen: give the `revision` to be sure.
    """

    name: str
    source: str
    config: str | None
    split: str
    column: str
    revision: str | None
    fingerprint: str

    @property
    def root(self) -> Path | None:
        """File, folder or glob of its local files; None of the hub."""
        return Path(self.source) if self.source.startswith("/") else None

    def why_empty(self) -> str:
        """As of `Corpus`."""
        return f"is empty: no row of split {self.split!r} has text in column {self.column!r}; name another"

    def shards(self) -> int:
        """The number of files that the split is stored in, or of what else can be read apart.

        Raises:
            EquimuError: the data set, its configuration, split or column is not there, or cannot be read.
        """
        return max(1, _opened(self).num_shards)

    def rows(self, shard: int, first: int = 0) -> Iterator[str | None]:
        """The text of each row of a shard; None for one without any, or that is not text.

        Args:
            shard: from 0, below `shards()`.
            first: rows to leave out at the beginning.

        Raises:
            EquimuError: it cannot be read.
        """
        check(Index, shard=shard, first=first)
        data = _opened(self)
        with _told(self):
            part = data.select_columns([self.column])
            part = part.shard(num_shards=data.num_shards, index=shard) if data.num_shards > 1 else part
            for row in part.skip(first) if first else part:
                text = row[self.column]
                if text is not None and not isinstance(text, str):
                    raise EquimuError(
                        f"column {self.column!r} of {printable(self.name)} holds {type(text).__name__}, not text; "
                        f"{_offered(self, data)}"
                    )
                yield text if text and is_text(text) else None

    def documents(self, on_left_out: Callable[[Any], object] = lambda row: None) -> Iterator[str]:
        """The documents in order; empty ones, and those that are not text, left out.

        Args:
            on_left_out: called with (shard, number of the row) of each row that is left out.

        Raises:
            EquimuError: as `rows`.
        """
        for shard in range(self.shards()):
            for number, text in enumerate(self.rows(shard)):
                if text is None:
                    on_left_out((shard, number))
                else:
                    yield text


def is_address(spec: str) -> bool:
    """Whether a corpus is named by an address for `datasets`."""
    return spec.startswith(SCHEME)


def read_dataset(spec: str) -> DatasetCorpus:
    """The corpus at an address: `hf://NAME?config=...&split=...&column=...&revision=...`.

    Args:
        spec: the name is one of the hub (`allenai/c4`), or a local file, folder or glob: it is local if something is there, if
            it begins with `/`, `.` or `~`, has several slashes, or ends as such a file does. Local files are JSON, JSON lines,
            Parquet, text (a document a line), CSV or Arrow, compressed or not (`.gz`, `.zst`, `.bz2`, `.xz`). The split is
            `train` and the column `text` unless given.

    Raises:
        EquimuError: no such address, no local files, or not of one known format.
    """
    address = read_address(spec, "corpus", _KEYS)
    options = address.options
    local = _local(address.name)
    if local is not None and "revision" in options:
        raise EquimuError(f"corpus {spec!r} is of local files, which have no revision; leave it out")
    parts: list[Any] = [str(local) if local is not None else address.name, *(options.get(key) for key in _KEYS)]
    if local is not None:
        files = _files(local, spec)
        refuse_stores(map(Path, files), spec)
        stats = [(path, os.stat(path)) for path in files]
        parts.append([[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats])
    return DatasetCorpus(
        name=spec,
        source=address.name if local is None else str(local),
        config=options.get("config"),
        split=options.get("split", "train"),
        column=options.get("column", "text"),
        revision=options.get("revision"),
        fingerprint="hf-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32],
    )


def _local(name: str) -> Path | None:
    """The path that a name is, if it is one: names of the hub have no more than one slash, and no ending of data."""
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    is_path = name[0] in "/.~" or name.count("/") > 1 or _ending(name) in _READERS
    return path.absolute() if is_path or path.exists() or glob.has_magic(name) else None


def _ending(name: str) -> str:
    """What a file's name ends in, less the compression's ending."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix


def _files(path: Path, spec: str) -> list[str]:
    """The files of a local data set, sorted.

    Raises:
        EquimuError: there are none.
    """
    if path.is_dir():
        found = [
            str(each) for each in path.rglob("*") if not any(p.startswith(".") for p in each.relative_to(path).parts)
        ]
    else:
        found = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)
    files = sorted(each for each in found if os.path.isfile(each))
    if not files:
        what = "has no files" if os.path.lexists(path) else "does not exist"
        raise EquimuError(
            f"corpus {spec!r}: {str(path)!r} {what}; write hf://NAME of the hub, or a file, folder or glob of data"
        )
    return files


def _reader(files: list[str], spec: str) -> str:
    endings = set(map(_ending, files))
    readers = {_READERS.get(ending) for ending in endings}
    if len(readers) != 1 or None in readers:
        raise EquimuError(
            f"corpus {spec!r} has files that end in {', '.join(sorted(endings)) or 'nothing'}; "
            f"one format is wanted, of {', '.join(_READERS)}"
        )
    (reader,) = readers
    assert reader is not None
    return reader


def _load(corpus: DatasetCorpus) -> Any:
    """The splits of a data set by name, as `datasets` streams them."""
    datasets = _datasets(corpus)
    local = corpus.root
    with _told(corpus), _quiet(datasets):
        if local is not None and not local.is_dir():
            files = _files(local, corpus.name)
            reader = _reader(files, corpus.name)
            return datasets.load_dataset(reader, data_files={corpus.split: files}, streaming=True)
        try:
            return datasets.load_dataset(corpus.source, corpus.config, revision=corpus.revision, streaming=True)
        except ValueError as error:
            # Which there are is asked for only now: it costs a request.
            names = _config_names(datasets, corpus)
            if corpus.config in names or (corpus.config is None and len(names) < 2):
                raise
            what = "several configs" if corpus.config is None else f"no config {corpus.config!r}"
            raise EquimuError(
                f"data set {printable(corpus.source)} has {what}; for ?config= {nearest(corpus.config or '', names)}"
            ) from error


def _config_names(datasets: Any, corpus: DatasetCorpus) -> list[str]:
    with contextlib.suppress(Exception):
        return list(datasets.get_dataset_config_names(corpus.source, revision=corpus.revision))
    return []


def _opened(corpus: DatasetCorpus) -> Any:
    """The split that the corpus is, known to have its column."""
    known = _OPENED.get(corpus)
    if known is None:
        splits: Mapping[str, Any] = _load(corpus)
        if corpus.split not in splits:
            raise EquimuError(
                f"{printable(corpus.name)} has no split {corpus.split!r}; for ?split= {nearest(corpus.split, splits)}"
            )
        known = splits[corpus.split]
        _check_column(corpus, known)
        _OPENED.clear()  # one is enough
        _OPENED[corpus] = known
    return known


_OPENED: dict[DatasetCorpus, Any] = {}


def _check_column(corpus: DatasetCorpus, data: Any) -> None:
    columns = _columns(corpus, data)
    if columns and corpus.column not in columns:
        raise EquimuError(
            f"{printable(corpus.name)} has no column {corpus.column!r}; for ?column= {nearest(corpus.column, columns)}"
        )


def _columns(corpus: DatasetCorpus, data: Any) -> list[str]:
    with _told(corpus):
        return list(data.column_names or next(iter(data), {}))


def _offered(corpus: DatasetCorpus, data: Any) -> str:
    others = [name for name in _columns(corpus, data) if name != corpus.column]
    return f"for ?column= {nearest(corpus.column, others)}" if others else "it has no other"


def _datasets(corpus: DatasetCorpus) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise EquimuError(
            f"corpus {printable(repr(corpus.name))} needs the package 'datasets': pip install 'equimu[hf]'"
        ) from None


@contextlib.contextmanager
def _told(corpus: DatasetCorpus) -> Generator[None]:
    """Whatever `datasets`, and those that read for it, raise, in one line."""
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it logs some of what it then raises
    try:
        yield
    except EquimuError:
        raise
    except Exception as error:  # of many packages, by no promise
        message = _broken_line(corpus) or printable(" ".join(str(error).split()) or type(error).__name__)[:300]
        raise EquimuError(f"corpus {printable(repr(corpus.name))} cannot be read: {message}") from None
    finally:
        logger.setLevel(level)


def _broken_line(corpus: DatasetCorpus) -> str | None:
    """Which line of its local files, if any, is no JSON though it should be."""
    if corpus.root is None:
        return None
    files = [Path(file) for file in _files(corpus.root, corpus.name) if _ending(file) in _JSON_LINES]
    return next((told for file in files if (told := first_broken_line(file)) is not None), None)


@contextlib.contextmanager
def _quiet(datasets: Any) -> Generator[None]:
    """No bars of `datasets` for what it looks up."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
