"""From a corpus and a tokenizer to a token store."""

import contextlib
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from equimu._errors import EquimuError, nearest
from equimu._values import Integer, Part, check
from equimu.data._corpus import Corpus, read_corpus
from equimu.data._orphans import being_written, remove_orphans
from equimu.data._store import DTYPES, FORMAT, SPLITS, StoreInfo, TokenStore, checked_place, commit_info, read_info
from equimu.data._tokenizer import Tokenizer, in_batches
from equimu.storage import ArrayWriter, delete_below, told_as

_ENCODE_CHARACTERS = 2**22  # texts go to the tokenizer in batches of about this size


def write_store(
    place: str | Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    validation: float = 0.05,
    split_seed: int = 0,
    dtype: str | None = None,
) -> TokenStore:
    """Tokenizes a corpus into a store; a store that is already there and was made from the same is returned.

    The side of a document depends only on its content and `split_seed`, so equal documents land on one side.
    Both sides get at least one document. Several processes may write the same store at once: the first to
    finish wins. What a killed one left in a local folder is removed.

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
    place = checked_place(place)
    if place.startswith(("http://", "https://")):
        raise EquimuError(f"nothing can be written to {place!r}; write a folder, or a URL such as gs://bucket/name")
    check(Corpus, corpus=corpus)
    check(Tokenizer, tokenizer=tokenizer)
    check(Part, validation=validation)
    check(Integer, split_seed=split_seed)
    check(str | None, dtype=dtype)
    token_dtype = _token_dtype(tokenizer, dtype)
    recipe = _recipe(corpus, tokenizer, validation, split_seed, token_dtype)
    store = _made_before(place, recipe)
    if store is not None:
        remove_orphans(place, lambda: store.info.folder)
        return store
    threshold = _threshold(corpus, validation, split_seed)
    folder = f"data-{uuid.uuid4().hex[:12]}"
    committed = False
    try:
        with told_as(f"cannot write to {place!r}"), being_written(place, folder):
            remove_orphans(place, lambda: _committed(place))
            content = _write_arrays(
                place, folder, corpus, tokenizer, token_dtype, lambda text: _hash(text, split_seed) < threshold
            )
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
    finally:
        if not committed:
            with contextlib.suppress(EquimuError):  # what went wrong before is what to tell
                delete_below(place, folder)
    store = _made_before(place, recipe)
    if store is None:
        raise EquimuError(f"the store that was just written at {place!r} is gone")
    _tell_of_no_text(store.info)
    return store


def prepare(
    spec: str,
    tokenizer: Tokenizer,
    folder: str | Path | None = None,
    *,
    validation: float = 0.05,
    split_seed: int = 0,
) -> TokenStore:
    """The token store of a corpus, made if it is not in the cache yet.

    Args:
        spec: as for `read_corpus`: `"stdlib"`, or a file, folder or glob of text.
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


def _recipe(corpus: Corpus, tokenizer: Tokenizer, validation: float, split_seed: int, dtype: np.dtype[Any]) -> str:
    parts = [FORMAT, corpus.fingerprint, tokenizer.fingerprint, validation, split_seed, dtype.name]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _hash(text: str, split_seed: int) -> int:
    key = f"equimu split {split_seed}".encode()
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest())


def _threshold(corpus: Corpus, share: float, split_seed: int) -> int:
    """Documents whose hash lies below go to validation; off the share only where a side would stay empty."""
    wanted, lowest, highest = round(share * 2**64), 2**64, -1
    for text in corpus.documents():
        value = _hash(text, split_seed)
        lowest, highest = min(lowest, value), max(highest, value)
        if lowest < wanted <= highest:  # both sides have a document: no need to read on
            return wanted
    if highest < 0:
        raise EquimuError(f"corpus {corpus.name!r} is empty: its files hold no UTF-8 text")
    if lowest == highest:
        raise EquimuError(
            f"corpus {corpus.name!r} is one document; bring a different second one to hold out for validation"
        )
    return lowest + 1 if wanted <= lowest else highest


def _write_arrays(
    place: str,
    folder: str,
    corpus: Corpus,
    tokenizer: Tokenizer,
    dtype: np.dtype[Any],
    held_out: Callable[[str], bool],
) -> dict[str, Any]:
    """Writes all arrays; returns what `StoreInfo` says of them."""
    tokens = {split: ArrayWriter(place, f"{folder}/{split}", dtype) for split in SPLITS}
    offsets = {split: ArrayWriter(place, f"{folder}/{split}-offsets", np.dtype("int64")) for split in SPLITS}
    for split in SPLITS:
        offsets[split].append(np.array([0]))
    replaced = documents_replaced = 0
    left_out: list[Path] = []
    for texts in in_batches(corpus.documents(left_out.append), _ENCODE_CHARACTERS):
        sides = ["validation" if held_out(text) else "train" for text in texts]
        encoded = tokenizer.encode_batch(texts)
        for split in SPLITS:
            closed = [np.append(i, tokenizer.eod) for i, side in zip(encoded, sides, strict=True) if side == split]
            if closed:
                offsets[split].append(tokens[split].size + np.cumsum([len(ids) for ids in closed]))
                tokens[split].append(np.concatenate(closed))
        counts = [text.count("\ufffd") for text in texts]
        replaced += sum(counts)
        documents_replaced += sum(count > 0 for count in counts)
    writers = {
        name: w for split in SPLITS for name, w in ((split, tokens[split]), (f"{split}-offsets", offsets[split]))
    }
    finished = {name: writer.finish() for name, writer in writers.items()}
    return {
        "documents": {split: offsets[split].size - 1 for split in SPLITS},
        "tokens": {split: tokens[split].size for split in SPLITS},
        "replaced": replaced,
        "documents_replaced": documents_replaced,
        "documents_left_out": len(left_out),
        "ends": {name: ends for name, (_, ends) in finished.items()},
        "fingerprint": hashlib.sha256("".join(digest for digest, _ in finished.values()).encode()).hexdigest()[:32],
    }


def _tell_of_no_text(info: StoreInfo) -> None:
    if info.documents_replaced or info.documents_left_out:
        print(
            f"equimu: corpus {info.corpus!r}: {info.documents_replaced} of {sum(info.documents.values())} documents hold bytes "
            f"that are not UTF-8 ({info.replaced} characters replaced); {info.documents_left_out} more, no text, left out",
            file=sys.stderr,
            flush=True,
        )
