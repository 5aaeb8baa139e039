"""From a corpus and a tokenizer to a token store."""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equimu._errors import EquimuError, counted, nearest, printable
from equimu._progress import progress
from equimu._values import Index, Integer, Part, Real, Size, check
from equimu.data._corpus import Corpus, read_corpus
from equimu.data._corpus_paths import refuse_store_inside
from equimu.data._dataset import DatasetCorpus
from equimu.data._orphans import being_written, remove_orphans
from equimu.data._parts import Encoded, Parts, encode
from equimu.data._store import DTYPES, FORMAT, SPLITS, StoreInfo, TokenStore, checked_place, commit_info, read_info
from equimu.data._tokenizer import Tokenizer, in_batches
from equimu.storage import ArrayWriter, delete_below, told_as

_ENCODE_CHARACTERS = 2**22  # texts go to the tokenizer in batches of about this size


def write_store(
    place: str | Path,
    corpus: Corpus | DatasetCorpus,
    tokenizer: Tokenizer,
    *,
    validation: Real = 0.05,
    split_seed: int = 0,
    dtype: str | None = None,
) -> TokenStore:
    """Tokenizes a corpus into a store; a store that is already there and was made from the same is returned.

    The side of a document depends only on its content and `split_seed`, so equal documents land on one side.
    Both sides get at least one document. Several processes may write the same store at once: the first to
    finish wins. What a killed one left in a local folder is removed.

    A `DatasetCorpus` is tokenized in parts, each written whole or not at all beside the store that is made of them in the end:
    a killed process leaves its parts, and the next one goes on behind them. `write_parts` makes them by several processes.

    Documents that are not UTF-8 text are counted, in the store and on stderr; see `Corpus.documents`.

    Args:
        place: folder or URL.
        corpus: the text.
        tokenizer: text to ids.
        validation: share of the documents held out, in expectation, in (0, 1).
        split_seed: other seeds hold out other documents.
        dtype: `"uint8"`, `"uint16"` or `"uint32"`; None takes the smallest that holds the vocabulary.

    Returns:
        The store.

    Raises:
        EquimuError: empty corpus, a file that cannot be read, one document only, a vocabulary larger than the
            dtype, another store at this place, or a place that cannot be written.
    """
    place, token_dtype, recipe = _checked(place, corpus, tokenizer, validation, split_seed, dtype)
    store = _made_before(place, recipe)
    if store is not None:
        remove_orphans(place, lambda: store.info.folder)
        return store
    documents = _documents(place, recipe, corpus, tokenizer, token_dtype, validation, split_seed)
    if isinstance(documents, Parts):
        with progress("data", corpus.shards() if isinstance(corpus, DatasetCorpus) else 1) as told:
            documents.write(told)
    folder = f"data-{uuid.uuid4().hex[:12]}"
    committed = False
    try:
        with told_as(f"cannot write to {place!r}"), being_written(place, folder):
            remove_orphans(place, lambda: _committed(place))
            content = _write_arrays(place, folder, documents, token_dtype)
            info = StoreInfo(
                format=FORMAT,
                folder=folder,
                recipe=recipe,
                corpus=corpus.name,
                tokenizer=tokenizer.name,
                tokenizer_fingerprint=tokenizer.fingerprint,
                vocab_size=tokenizer.vocab_size,
                bos=tokenizer.bos,
                eod=tokenizer.eod,
                dtype=token_dtype.name,
                **content,
            )
            committed = commit_info(place, info)
    except EquimuError:
        if isinstance(documents, Parts) and (store := _made_before(place, recipe)) is not None:
            return store  # by another process, which then deleted the parts
        raise
    finally:
        if not committed:
            with contextlib.suppress(EquimuError):  # what went wrong before is what to tell
                delete_below(place, folder)
    store = _made_before(place, recipe)
    if store is None:
        raise EquimuError(f"the store that was just written at {place!r} is gone")
    if isinstance(documents, Parts):
        documents.delete()
    _tell_of_no_text(store.info)
    return store


def write_parts(
    place: str | Path,
    corpus: DatasetCorpus,
    tokenizer: Tokenizer,
    *,
    process: int,
    processes: int,
    validation: Real = 0.05,
    split_seed: int = 0,
    dtype: str | None = None,
) -> int:
    """Tokenizes the part of a data set that is one process's share; `write_store` then makes the store of all parts.

    The share are whole shards of the data set: those whose number is `process` modulo `processes`. What is there already, of
    whatever process, is not tokenized again.

    Args:
        place: folder or URL of the store, the same for all processes.
        corpus: the text.
        tokenizer: text to ids.
        process: number of this process, from 0.
        processes: how many share the work.
        validation: as for `write_store`; so are `split_seed` and `dtype`.
        split_seed: see there.
        dtype: see there.

    Returns:
        How many shards are still missing, of other processes; 0 if `write_store` has nothing left to tokenize.

    Raises:
        EquimuError: as `write_store`; no such process.
    """
    check(DatasetCorpus, corpus=corpus)
    check(Size, processes=processes)
    check(Index, process=process)
    if process >= processes:
        raise EquimuError(f"process {process} is none of {processes}; they are counted from 0")
    place, token_dtype, recipe = _checked(place, corpus, tokenizer, validation, split_seed, dtype)
    if _made_before(place, recipe) is not None:
        return 0
    parts = _documents(place, recipe, corpus, tokenizer, token_dtype, validation, split_seed)
    assert isinstance(parts, Parts)
    with progress("data", len(range(process, corpus.shards(), processes))) as told:
        parts.write(told, process, processes)
    return parts.missing()


def prepare(
    spec: str,
    tokenizer: Tokenizer,
    folder: str | Path | None = None,
    *,
    validation: Real = 0.05,
    split_seed: int = 0,
) -> TokenStore:
    """The token store of a corpus, made if it is not in the cache yet.

    Args:
        spec: as for `read_corpus`: `"stdlib"`, a file, folder or glob of text, or a data set `"hf://..."`.
        tokenizer: text to ids.
        folder: folder or URL that keeps stores; None is `default_cache()`.
        validation: as for `write_store`.
        split_seed: as for `write_store`.

    Returns:
        The store, named by what it was made from: changed text makes another.

    Raises:
        EquimuError: as `read_corpus` and `write_store`.
    """
    check(Tokenizer, tokenizer=tokenizer)
    check(Part, validation=validation)
    folder = checked_place(default_cache() if folder is None else folder).rstrip("/") or "/"
    corpus = read_corpus(spec)
    recipe = _recipe(corpus, tokenizer, validation, split_seed, _token_dtype(tokenizer, None))
    place = f"{folder}/tokens-{recipe[:16]}"
    return write_store(place, corpus, tokenizer, validation=validation, split_seed=split_seed)


def default_cache() -> Path:
    """The user's folder for token stores: `$EQUIMU_CACHE`, or `~/.cache/equimu`."""
    return Path(os.environ.get("EQUIMU_CACHE") or Path.home() / ".cache" / "equimu")


def _made_before(place: str, recipe: str) -> TokenStore | None:
    info = read_info(place)
    if info is not None and info.recipe != recipe:
        raise EquimuError(
            f"{place!r} holds a token store made from other text, tokenizer or settings "
            f"(corpus {info.corpus!r}, tokenizer {info.tokenizer!r}); write to another place or delete it"
        )
    if info is None:
        return None
    store = TokenStore(place, info)
    for split in info.tokens:
        for name in (split, f"{split}-offsets"):
            store.array(name)  # lost or damaged ones are told
    return store


def _committed(place: str) -> str | None:
    info = read_info(place)
    return None if info is None else info.folder


def _token_dtype(tokenizer: Tokenizer, name: str | None) -> np.dtype[Any]:
    if name is not None and name not in DTYPES:
        raise EquimuError(f"dtype={name!r} cannot hold tokens; {nearest(name, DTYPES)}")
    smallest = next(d for d in DTYPES if tokenizer.vocab_size <= np.iinfo(d).max + 1)
    if name is not None and np.dtype(name).itemsize < np.dtype(smallest).itemsize:
        raise EquimuError(
            f"dtype={name!r} cannot hold a vocabulary of {tokenizer.vocab_size} tokens; "
            f"write {smallest!r} or leave it out"
        )
    return np.dtype(name or smallest)


def _recipe(
    corpus: Corpus | DatasetCorpus, tokenizer: Tokenizer, validation: Real, split_seed: int, dtype: np.dtype[Any]
) -> str:
    parts = [FORMAT, corpus.fingerprint, tokenizer.fingerprint, validation, split_seed, dtype.name]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _hash(text: str, split_seed: int) -> int:
    key = f"equimu split {split_seed}".encode()
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest())


def _threshold(corpus: Corpus | DatasetCorpus, share: Real, split_seed: int) -> int:
    """Documents whose hash lies below go to validation; off the share only where a side would stay empty."""
    wanted, lowest, highest = round(share * 2**64), 2**64, -1
    for text in corpus.documents():
        value = _hash(text, split_seed)
        lowest, highest = min(lowest, value), max(highest, value)
        if lowest < wanted <= highest:  # both sides have a document: no need to read on
            return wanted
    if highest < 0:
        raise EquimuError(f"corpus {corpus.name!r} {corpus.why_empty()}")
    if lowest == highest:
        raise EquimuError(
            f"corpus {corpus.name!r} is one document; add a different second one, to be held out for validation"
        )
    return lowest + 1 if wanted <= lowest else highest


def _checked(
    place: str | Path,
    corpus: Corpus | DatasetCorpus,
    tokenizer: Tokenizer,
    validation: Real,
    split_seed: int,
    dtype: str | None,
) -> tuple[str, np.dtype[Any], str]:
    """The place as text, the dtype of the tokens and the recipe of a store that is asked for.

    Raises:
        EquimuError: an argument that cannot be.
    """
    place = checked_place(place)
    if place.startswith(("http://", "https://")):
        raise EquimuError(f"nothing can be written to {place!r}; write a folder, or a URL such as gs://bucket/name")
    check(Corpus | DatasetCorpus, corpus=corpus)
    check(Tokenizer, tokenizer=tokenizer)
    check(Part, validation=validation)
    check(Integer, split_seed=split_seed)
    check(str | None, dtype=dtype)
    token_dtype = _token_dtype(tokenizer, dtype)
    if corpus.root is not None:
        refuse_store_inside(place, corpus.root, corpus.name)
    return place, token_dtype, _recipe(corpus, tokenizer, validation, split_seed, token_dtype)


def _documents(
    place: str,
    recipe: str,
    corpus: Corpus | DatasetCorpus,
    tokenizer: Tokenizer,
    dtype: np.dtype[Any],
    validation: Real,
    split_seed: int,
) -> Parts | Iterator[Encoded]:
    """The tokenized documents of a corpus: in parts that are kept, or one batch after the other."""
    threshold = _threshold(corpus, validation, split_seed)

    def tokens(texts: Sequence[str]) -> Encoded:
        return encode(texts, tokenizer, dtype, lambda text: _hash(text, split_seed) < threshold)

    if isinstance(corpus, DatasetCorpus):
        return Parts(place, recipe, corpus, dtype, tokens)

    def batches() -> Iterator[Encoded]:
        left_out: list[Path] = []
        for texts in in_batches(corpus.documents(left_out.append), _ENCODE_CHARACTERS):
            yield tokens(texts)
        yield dataclasses.replace(tokens([]), left_out=len(left_out))

    return batches()


def _write_arrays(place: str, folder: str, documents: Iterable[Encoded], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Writes all arrays; returns what `StoreInfo` says of them."""
    tokens = {split: ArrayWriter(place, f"{folder}/{split}", dtype) for split in SPLITS}
    offsets = {split: ArrayWriter(place, f"{folder}/{split}-offsets", np.dtype("int64")) for split in SPLITS}
    for split in SPLITS:
        offsets[split].append(np.array([0]))
    replaced = documents_replaced = left_out = 0
    for some in documents:
        for split in SPLITS:
            if len(some.lengths[split]):
                offsets[split].append(tokens[split].size + np.cumsum(some.lengths[split]))
                tokens[split].append(some.tokens[split])
        replaced += some.replaced
        documents_replaced += some.documents_replaced
        left_out += some.left_out
    writers = {
        name: w for split in SPLITS for name, w in ((split, tokens[split]), (f"{split}-offsets", offsets[split]))
    }
    finished = {name: writer.finish() for name, writer in writers.items()}
    return {
        "documents": {split: offsets[split].size - 1 for split in SPLITS},
        "tokens": {split: tokens[split].size for split in SPLITS},
        "replaced": replaced,
        "documents_replaced": documents_replaced,
        "documents_left_out": left_out,
        "ends": {name: ends for name, (_, ends) in finished.items()},
        "fingerprint": hashlib.sha256("".join(digest for digest, _ in finished.values()).encode()).hexdigest()[:32],
    }


def _tell_of_no_text(info: StoreInfo) -> None:
    told: list[str] = []
    if info.documents_replaced:
        told.append(
            f"{info.documents_replaced} of {counted(sum(info.documents.values()), 'document')} with bytes that are not UTF-8 "
            f"({counted(info.replaced, 'character')} replaced)"
        )
    if info.documents_left_out:
        told.append(f"{counted(info.documents_left_out, 'document')} left out, as no text")
    if told:
        print(f"equimu: corpus {printable(repr(info.corpus))}: {'; '.join(told)}", file=sys.stderr, flush=True)
