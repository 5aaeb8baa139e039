"""Token stores: a corpus as checksummed token arrays, split into training and validation by document.

Layout, under a folder or URL: `equimu-tokens.json`, written last and only if absent, names the folder with
the arrays (`train`, `validation`: every document's tokens and its end-of-document, one after the other;
`train-offsets`, `validation-offsets`: where each document begins, and where the last one ends). Whoever reads
a store reads that file first: what an interrupted or slower writer leaves behind is never taken for a store.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt

from equimu._errors import EquimuError, nearest
from equimu._json import loads
from equimu._values import checked, path_text
from equimu.data._tokenizer import Tokenizer
from equimu.files import is_of_the_kernel
from equimu.storage import check_files, local_path, open_array, open_place, told_as

FORMAT = 2
SPLITS = ("train", "validation")
DTYPES = ("uint8", "uint16", "uint32")
INFO = "equimu-tokens.json"
_MOST_INFO_BYTES = 2**26
_FIRST_SECONDS = 8.0  # until a place on a network has answered


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What a token store says of itself.

    Attributes:
        format: version of the layout.
        folder: where the arrays are, below the store's place.
        recipe: names the corpus, the tokenizer and the split that the store was made from.
        corpus: the corpus' name.
        tokenizer: the tokenizer's name.
        tokenizer_fingerprint: its fingerprint.
        vocab_size: token ids are below this.
        bos: beginning-of-document id.
        eod: end-of-document id.
        dtype: of the stored tokens.
        documents: number of documents of each split.
        tokens: number of tokens of each split, one end-of-document per document included.
        replaced: characters U+FFFD in the text; bytes that were not UTF-8 became one.
        documents_replaced: documents that hold such a character.
        documents_left_out: documents that are not text.
        ends: for each array, a hash of how each of its files ends: its last chunk's checksum and the lengths of all its chunks.
        fingerprint: of all tokens and document boundaries: equal fingerprints, equal data.
    """

    format: int
    folder: str
    recipe: str
    corpus: str
    tokenizer: str
    tokenizer_fingerprint: str
    vocab_size: int
    bos: int
    eod: int
    dtype: str
    documents: Mapping[str, int]
    tokens: Mapping[str, int]
    replaced: int
    documents_replaced: int
    documents_left_out: int
    ends: Mapping[str, Sequence[str]]
    fingerprint: str


class TokenStore:
    """A finished token store. Made by `open_store`, `write_store` or `prepare`.

    Attributes:
        place: its folder or URL.
        info: what it says of itself.
    """

    def __init__(self, place: str, info: StoreInfo):
        self.place = place
        self.info = info

    def __repr__(self) -> str:
        return f"TokenStore({self.place!r}, tokens={dict(self.info.tokens)}, tokenizer={self.info.tokenizer!r})"

    def array(self, name: str) -> Any:
        """Opens `"train"`, `"validation"`, `"train-offsets"` or `"validation-offsets"` for tensorstore.

        Raises:
            EquimuError: no such split, or the array is lost or damaged.
        """
        split, _, offsets = checked("the split", name, str).partition("-")
        if split not in self.info.tokens:
            raise EquimuError(f"a token store has no split {split!r}; {nearest(split, self.info.tokens)}")
        size = self.info.documents[split] + 1 if offsets else self.info.tokens[split]
        dtype = "int64" if offsets else self.info.dtype
        with self.reading():
            return open_array(self.place, f"{self.info.folder}/{name}", np.dtype(dtype), size, self.info.ends[name])

    def reading(self) -> AbstractContextManager[None]:
        """Context in which a failed read is reported in one line."""
        return _reading(self.place)

    def tokens(self, split: str) -> UInt[np.ndarray, " tokens"]:
        """All tokens of `"train"` or `"validation"`, read into memory."""
        with self.reading():
            return self.array(split).read().result()

    def offsets(self, split: str) -> Int[np.ndarray, " boundaries"]:
        """Where each document begins in `tokens(split)`, and, last, where they end."""
        with self.reading():
            return self.array(f"{split}-offsets").read().result()


def open_store(place: str | Path, tokenizer: Tokenizer | None = None) -> TokenStore:
    """Opens a finished token store.

    Args:
        place: folder or URL.
        tokenizer: where given, the store must have been written with it.

    Returns:
        The store; arrays are opened when they are first asked for.

    Raises:
        EquimuError: there is no store, it is damaged, or it was written with another tokenizer.
    """
    place = checked_place(place)
    info = read_info(place)
    if info is None:
        raise EquimuError(f"there is no token store at {place!r}; make one with `equimu data` or `write_store`")
    if tokenizer is not None:
        _refuse_other_tokenizer(place, info, tokenizer)
    return TokenStore(place, info)


def checked_place(place: str | Path) -> str:
    """The place of a token store as text.

    Raises:
        EquimuError: it can be none: empty, say, or among what the kernel makes up.
    """
    text = path_text("the place of the token store", place)
    path = local_path(text)
    if path is not None and is_of_the_kernel(path):
        raise EquimuError(f"{text!r} is of the kernel, where no token store can be; write a folder or URL")
    return text


def _refuse_other_tokenizer(place: str, info: StoreInfo, tokenizer: Tokenizer) -> None:
    if tokenizer.fingerprint != info.tokenizer_fingerprint:
        raise EquimuError(
            f"token store {place!r} was written with tokenizer {info.tokenizer!r} "
            f"({info.tokenizer_fingerprint}), not with {tokenizer.name!r} ({tokenizer.fingerprint}); "
            "use that tokenizer or make another store"
        )
    if (info.vocab_size, info.bos, info.eod) != (tokenizer.vocab_size, tokenizer.bos, tokenizer.eod):
        raise EquimuError(f"token store {place!r} says another vocabulary than its tokenizer has; make it again")


def read_info(place: str) -> StoreInfo | None:
    """What the store at a place says of itself; None where there is no store."""
    kvstore = open_place(place)
    with told_as(f"cannot read token store {place!r}"):
        check_files(place, INFO, _MOST_INFO_BYTES)
        try:
            read = kvstore.read(INFO).result(timeout=_FIRST_SECONDS)
        except TimeoutError:
            raise EquimuError(
                f"token store {place!r} cannot be reached: no word of it in {_FIRST_SECONDS:g} s"
            ) from None
    if read.state == "missing":
        return None
    with _reading(place):
        fields = loads(read.value)
        if fields.pop("checksum") != _checksum(fields):
            raise ValueError(f"{INFO} does not match its checksum")
        if fields["format"] != FORMAT:
            raise EquimuError(f"token store {place!r} has format {fields['format']}, not {FORMAT}; make it again")
        info = StoreInfo(**fields)
        if not _is_sound(info):
            raise ValueError(f"{INFO} says what no store holds")
        return info


def _is_sound(info: StoreInfo) -> bool:
    """Whether the fields are of their types and ranges, and the arrays inside of the store."""

    def counts(*values: Any) -> bool:
        return all(isinstance(value, int) and 0 <= value < 2**63 for value in values)

    mappings: tuple[Any, ...] = (info.documents, info.tokens, info.ends)
    ends: Any = info.ends
    if not all(isinstance(each, dict) for each in mappings):
        return False
    texts: tuple[Any, ...] = (
        info.recipe,
        info.corpus,
        info.tokenizer,
        info.tokenizer_fingerprint,
        info.fingerprint,
        info.folder,
    )
    return (
        all(isinstance(text, str) for text in texts)
        and re.fullmatch(r"data-[0-9a-f]+", info.folder) is not None
        and set(info.documents) == set(info.tokens) == set(SPLITS)
        and set(info.ends) == {name for split in SPLITS for name in (split, f"{split}-offsets")}
        and all(isinstance(end, str) for array in ends.values() for end in array)
        and counts(*info.documents.values(), *info.tokens.values(), info.vocab_size, info.bos, info.eod)
        and max(info.bos, info.eod) < info.vocab_size <= 2**32
        and info.dtype in DTYPES
    )


def commit_info(place: str, info: StoreInfo) -> bool:
    """Makes written arrays a store, unless one is at that place already; returns whether it did."""
    fields = dataclasses.asdict(info)
    content = json.dumps({**fields, "checksum": _checksum(fields)}, indent=1)
    kvstore = open_place(place)
    with told_as(f"cannot write token store {place!r}"):
        there = kvstore.read(INFO).result()
        if there.state != "missing":
            return False
        written = kvstore.write(INFO, content, if_equal=there.stamp.generation).result()
    return bool(written.generation)  # empty where another writer came in between


def _reading(place: str) -> AbstractContextManager[None]:
    return told_as(f"token store {place!r} cannot be read; if it is damaged, delete it and make it again")


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
