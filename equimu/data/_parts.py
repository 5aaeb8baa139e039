"""Documents that are tokenized already, in parts that are there whole or not at all: a preparation that is killed goes on.

A part holds some rows of one shard of a corpus, one after the other. The parts of a shard are numbered; each says where the
next begins, and the last one that it is the last.
"""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from equimu._errors import EquimuError
from equimu._json import loads
from equimu._progress import Progress
from equimu.data._dataset import DatasetCorpus
from equimu.data._store import SPLITS
from equimu.data._tokenizer import Tokenizer
from equimu.storage import check_files, delete_below, open_place, told_as

# A part is a digest of the rest, a line of JSON filled up to this size, and arrays.
_DIGEST, _HEADER = 32, 1024
_SECONDS_BETWEEN_LINES = 10.0
_END: Any = object()


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Some documents as tokens.

    Attributes:
        tokens: of each split: all its documents, each closed by end-of-document.
        lengths: of each split: tokens of each document.
        replaced: characters U+FFFD in their text.
        documents_replaced: documents that hold one.
        left_out: documents that are not text.
    """

    tokens: Mapping[str, np.ndarray]
    lengths: Mapping[str, Int[np.ndarray, " documents"]]
    replaced: int = 0
    documents_replaced: int = 0
    left_out: int = 0


def encode(
    texts: Sequence[str], tokenizer: Tokenizer, dtype: np.dtype[Any], held_out: Callable[[str], bool]
) -> Encoded:
    """Tokenizes texts and tells the two splits apart.

    Args:
        texts: the documents.
        tokenizer: text to ids.
        dtype: of the tokens.
        held_out: whether a document is for validation.
    """
    sides = ["validation" if held_out(text) else "train" for text in texts]
    encoded = tokenizer.encode_batch(texts)
    closed = {
        split: [
            np.append(ids, tokenizer.eod).astype(dtype)
            for ids, side in zip(encoded, sides, strict=True)
            if side == split
        ]
        for split in SPLITS
    }
    counts = [text.count("\ufffd") for text in texts]
    return Encoded(
        tokens={split: np.concatenate(each) if each else np.zeros(0, dtype) for split, each in closed.items()},
        lengths={split: np.array([len(ids) for ids in each], np.int64) for split, each in closed.items()},
        replaced=sum(counts),
        documents_replaced=sum(count > 0 for count in counts),
    )


class Parts:
    """The parts of a corpus below a place.

    Args:
        place: folder or URL of the store that is to be made of them.
        recipe: of that store; parts of another are others.
        corpus: the text.
        dtype: of the tokens.
        encode: documents to tokens.

    Attributes:
        characters: a part ends with the row that brings it to so many.
    """

    characters: ClassVar[int] = 2**22

    def __init__(
        self,
        place: str,
        recipe: str,
        corpus: DatasetCorpus,
        dtype: np.dtype[Any],
        encode: Callable[[Sequence[str]], Encoded],
    ):
        self._place, self._folder = place, f"parts-{recipe[:16]}"
        self._corpus, self._dtype, self._encode = corpus, dtype, encode

    def write(self, bar: Progress, process: int = 0, processes: int = 1) -> None:
        """Tokenizes what is not there yet of the shards of one process: those whose number leaves that remainder.

        Raises:
            EquimuError: the corpus cannot be read or tokenized, or the place not written.
        """
        shards = range(process, self._corpus.shards(), processes)
        documents = tokens = 0
        last_told = 0.0
        for done, shard in enumerate(shards):
            for header in self._shard(shard):
                documents += header["documents"]
                tokens += header["tokens"]
                if time.monotonic() - last_told > _SECONDS_BETWEEN_LINES:
                    last_told = time.monotonic()
                    bar.update(done, f"{documents} documents, {tokens} tokens", len(shards))
        bar.update(len(shards), f"{documents} documents, {tokens} tokens", len(shards))

    def missing(self) -> int:
        """The number of shards that are not tokenized to their end."""
        return sum(not self._is_whole(shard) for shard in range(self._corpus.shards()))

    def __iter__(self) -> Iterator[Encoded]:
        """All parts in order.

        Raises:
            EquimuError: one is missing or damaged.
        """
        for shard in range(self._corpus.shards()):
            number, last = 0, False
            while not last:
                found = self._read(shard, number)
                if found is None:
                    with told_as(f"cannot write to {self._place!r}"):
                        open_place(self._place).write(self._key(shard, number), None).result()  # to be made anew
                    raise EquimuError(
                        f"part {number} of shard {shard} of the token store at {self._place!r} is missing or damaged; "
                        "run the same again, which makes it anew and keeps the others"
                    )
                header, encoded = found
                yield encoded
                number, last = number + 1, header["last"]

    def delete(self) -> None:
        """Deletes the parts; those of which there is a store are of no use."""
        with contextlib.suppress(EquimuError):  # what is left costs space and nothing else
            delete_below(self._place, self._folder)

    def _shard(self, shard: int) -> Iterator[dict[str, Any]]:
        """What the parts of a shard say of themselves; those that are not there are made."""
        number = first = 0
        rows: Iterator[str | None] | None = None
        last = False
        while not last:
            header = self._header(shard, number)
            if header is None:
                rows = self._corpus.rows(shard, first) if rows is None else rows
                header = self._make(shard, number, first, rows)
            else:
                rows = None  # they go on behind this part
            yield header
            number, first, last = number + 1, header["next"], header["last"]

    def _make(self, shard: int, number: int, first: int, rows: Iterator[str | None]) -> dict[str, Any]:
        """Writes the part that begins at a row."""
        texts: list[str] = []
        read = characters = left_out = 0
        while characters < self.characters and (text := next(rows, _END)) is not _END:
            read += 1
            left_out += text is None
            if isinstance(text, str):
                texts.append(text)
                characters += len(text)
        encoded = dataclasses.replace(self._encode(texts), left_out=left_out)
        return self._write(shard, number, encoded, first + read, characters < self.characters)

    def _key(self, shard: int, number: int) -> str:
        return f"{self._folder}/{shard:06}-{number:06}"

    def _is_whole(self, shard: int) -> bool:
        number = 0
        while (header := self._header(shard, number)) is not None:
            if header["last"]:
                return True
            number += 1
        return False

    def _write(self, shard: int, number: int, encoded: Encoded, next_row: int, last: bool) -> dict[str, Any]:
        header = {
            "next": next_row,
            "last": last,
            "documents": sum(len(lengths) for lengths in encoded.lengths.values()),
            "tokens": sum(len(tokens) for tokens in encoded.tokens.values()),
            "counts": [encoded.replaced, encoded.documents_replaced, encoded.left_out],
            "sizes": {split: [len(encoded.tokens[split]), len(encoded.lengths[split])] for split in SPLITS},
        }
        arrays = [
            array.astype(dtype.newbyteorder("<")).tobytes()
            for split in SPLITS
            for array, dtype in ((encoded.tokens[split], self._dtype), (encoded.lengths[split], np.dtype("int64")))
        ]
        content = json.dumps(header).encode().ljust(_HEADER) + b"".join(arrays)
        with told_as(f"cannot write to {self._place!r}"):
            kvstore = open_place(self._place)
            kvstore.write(self._key(shard, number), hashlib.sha256(content).digest() + content).result()
        return header

    def _content(self, shard: int, number: int, most: int | None = None) -> bytes:
        """The bytes of a part, or the first of them; none where there is no such part."""
        key = self._key(shard, number)
        with told_as(f"cannot read the parts of a token store at {self._place!r}"):
            check_files(self._place, key)
            return open_place(self._place).read(key, byte_range=slice(0, most)).result().value

    def _header(self, shard: int, number: int) -> dict[str, Any] | None:
        """What a part says of itself; None where there is none. Whether it is whole shows when it is read."""
        try:
            content = self._content(shard, number, _DIGEST + _HEADER)
        except EquimuError:
            content = self._content(shard, number)  # it may be shorter
        with contextlib.suppress(ValueError):
            return _header_of(content)
        return None

    def _read(self, shard: int, number: int) -> tuple[dict[str, Any], Encoded] | None:
        """A part; None where there is none that is whole."""
        content = self._content(shard, number)
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return None
        try:
            header, at = _header_of(content), _DIGEST + _HEADER
            tokens: dict[str, np.ndarray] = {}
            lengths: dict[str, np.ndarray] = {}
            for split in SPLITS:
                for arrays, dtype, count in zip(
                    (tokens, lengths), (self._dtype, np.dtype("int64")), header["sizes"][split], strict=True
                ):
                    stored = np.frombuffer(content, dtype.newbyteorder("<"), count, at)
                    arrays[split] = stored.astype(dtype)
                    at += stored.nbytes
            return header, Encoded(tokens, lengths, *header["counts"])
        except (KeyError, TypeError, ValueError):
            return None


def _header_of(content: bytes) -> dict[str, Any]:
    """What a part says of itself.

    Raises:
        ValueError: it is no part.
    """
    header: Any = loads(content[_DIGEST : _DIGEST + _HEADER])
    if not isinstance(header, dict) or not {"next", "last", "documents", "tokens", "counts", "sizes"} <= header.keys():
        raise ValueError("no header of a part")
    return header
