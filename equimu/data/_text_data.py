"""Text as data of a task: a token store cut into rows."""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

from equimu._errors import EquimuError
from equimu._values import Part, Real, Size, check, check_fields, path_text
from equimu.data._corpus import read_corpus
from equimu.data._data import Data
from equimu.data._loader import Loader, OrderedLoader
from equimu.data._store import TokenStore, open_store
from equimu.data._tokenizer import Tokenizer, tokenizer_from_name
from equimu.data._write import prepare

Windows = Literal["concatenate", "document", "packed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextData(Data):
    """The rows of a token store, as `Batch`es: inputs, targets and mask, each of shape (rows, seq). `PackedBatch`es, of
    `"packed"` windows, have segment ids too.

    Training batches are those of `Loader`, validation batches those of `OrderedLoader`; what is counted are tokens.

    Attributes:
        store: token store.
        seq: positions of a row.
        rows: rows of a batch.
        windows: `"concatenate"` (documents one after the other, cut every `seq` tokens), `"packed"` (the same, each document
            apart from the others by its segment id) or `"document"` (one truncated or padded document a row).
        units_per_row: `seq`.

    Raises:
        EquimuError: an argument that cannot be.
    """

    store: TokenStore
    seq: Size
    rows: Size
    windows: Windows = "concatenate"

    unit = "tokens"
    units_per_row: int = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "units_per_row", self.seq)
        check_fields(self)

    @property
    def fingerprint(self) -> str:
        """Of all tokens and document boundaries; neither `seq` nor `windows` is in it."""
        return self.store.info.fingerprint

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return self.store.info.vocab_size

    def training(self, seed: int) -> Loader:
        """Training batches.

        Args:
            seed: of the order.

        Raises:
            EquimuError: too few tokens for one window, or a damaged store.
        """
        return Loader(self.store, seq=self.seq, rows=self.rows, seed=seed, windows=self.windows)

    def validation(self, first: int | None = None) -> OrderedLoader:
        """Validation batches; made once.

        Args:
            first: at most this many batches; None is all.

        Raises:
            EquimuError: `first` is below 1, too few tokens for one window, or a damaged store.
        """
        return self._validation(first)

    def whole(self, split: str) -> OrderedLoader:
        """All windows of a split; see `Data`."""
        if split == "validation":
            return self._validation(None)
        return OrderedLoader(self.store, seq=self.seq, rows=self.rows, windows=self.windows, split=split)

    @functools.cached_property
    def _validation(self):
        return functools.cache(
            lambda first: OrderedLoader(self.store, seq=self.seq, rows=self.rows, windows=self.windows, first=first)
        )


def text(
    corpus: str | Path | None = None,
    *,
    seq: int,
    rows: int,
    tokenizer: str | Path | Tokenizer = "bytes",
    windows: Windows = "concatenate",
    validation: Real = 0.05,
    store: str | Path | None = None,
) -> TextData:
    """Data of text files, as for a language model.

    The text is tokenized once, into a token store in the user's cache; see `prepare`. What a process asks for again, it gets
    again, unless files have changed.

    Args:
        corpus: `"stdlib"` (the sources of Python's standard library), a file, folder or glob of text, or a data set
            `"hf://NAME?config=...&split=...&column=..."`; see `read_corpus`.
        seq: positions of a row.
        rows: rows of a batch.
        tokenizer: what `tokenizer_from_name` takes (`"bytes"`, the path of a Hugging Face `tokenizer.json`), or a tokenizer.
        windows: `"concatenate"` (documents one after the other, cut every `seq` tokens), `"packed"` (the same, each document
            apart from the others by its segment id) or `"document"` (one truncated or padded document a row, masked after its
            end).
        validation: share of the documents held out, in (0, 1).
        store: folder or URL of a token store that `equimu data` or `write_store` made; it is used in place of a corpus, as it
            was split, and must have been written with `tokenizer`.

    Returns:
        The data, whose batches are `Batch`es, or `PackedBatch`es of `"packed"` windows.

    Raises:
        EquimuError: neither corpus nor store, an argument that cannot be, or as `prepare` and `open_store`.
    """
    check(Size, seq=seq, rows=rows)
    check(Part, validation=validation)
    place = None if store is None else path_text("store", store)
    spec = None if corpus is None or place is not None else path_text("corpus", corpus)
    if place is None and spec is None:
        raise EquimuError(
            'text needs a corpus or a store; write text("stdlib", ...), or a file, folder or glob of text'
        )
    state = None if spec is None else read_corpus(spec).fingerprint
    if isinstance(tokenizer, str | Path):
        return _text(spec, state, place, path_text("tokenizer", tokenizer), validation, seq, rows, windows)
    check(Tokenizer, tokenizer=tokenizer)
    made = _store(spec, place, tokenizer, validation)
    return TextData(store=made, seq=seq, rows=rows, windows=windows)


# `state` tells changed files apart.
@functools.cache
def _text(
    spec: str | None,
    state: str | None,
    place: str | None,
    tokenizer: str,
    validation: Real,
    seq: int,
    rows: int,
    windows: Windows,
) -> TextData:
    made = _named_store(spec, state, place, tokenizer, validation)
    return TextData(store=made, seq=seq, rows=rows, windows=windows)


@functools.cache
def _named_store(
    spec: str | None, state: str | None, place: str | None, tokenizer: str, validation: Real
) -> TokenStore:
    return _store(spec, place, tokenizer_from_name(tokenizer), validation)


def _store(spec: str | None, place: str | None, tokenizer: Tokenizer, validation: Real) -> TokenStore:
    if place is not None:
        return open_store(place, tokenizer)
    assert spec is not None
    return prepare(spec, tokenizer, validation=validation)
