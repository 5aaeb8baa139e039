"""Text to token ids and back: raw bytes, or any tokenizer file of Hugging Face's `tokenizers`."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Integer

from equimu._errors import EquimuError, printable
from equimu._json import loads
from equimu._values import path_text
from equimu.data._address import SCHEME, read_address
from equimu.data._bounded import bounded
from equimu.files import expanded, read_regular

# What published tokenizers call the two special tokens; used only where exactly one of a list is there.
_BOS_NAMES = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[BOS]")
_EOD_NAMES = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[EOS]")
_OFFERED = 9  # special tokens that a message names
_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_MOST_BYTES, _MOST_CONFIG_BYTES = 2**29, 2**24
# Encoding takes about a second for each 2^20 characters. A pattern that tries everything takes years.
_PART_CHARACTERS = 2**18
_SECONDS, _SECONDS_PER_CHARACTER = 4.0, 10 / 2**20


@runtime_checkable
class Tokenizer(Protocol):
    """What a token store and a sampler need to know of a tokenizer.

    `fingerprint` names the map from text to ids: equal fingerprints, equal ids. A store keeps it, so that
    tokens are never read with another tokenizer than the one that wrote them.

    - `name`: what configs call it.
    - `vocab_size`: the number of ids.
    - `bos`, `eod`: ids that stand before and after a document.
    - `encode_batch`: ids of several texts, without `bos` and `eod`.
    - `decode`: the text of some ids.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def bos(self) -> int: ...
    @property
    def eod(self) -> int: ...
    def encode_batch(self, texts: Sequence[str]) -> list[Integer[np.ndarray, " _"]]: ...
    def decode(self, ids: Sequence[int] | Integer[np.ndarray, " tokens"]) -> str: ...


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """A token is a byte of the text's UTF-8: 256 ids, nothing to train or to download.

    Byte 0 never stands in text, so it serves as end-of-document and as beginning-of-document, and the
    vocabulary stays at 256. (A corpus file that holds it is refused as binary.)

    - `name`: `bytes`.
    - `fingerprint`: what a store made with it is known by.
    - `vocab_size`: 256.
    - `bos`, `eod`: 0, before and after a document.
    """

    name: str = dataclasses.field(default="bytes", init=False)
    fingerprint: str = dataclasses.field(default="bytes-eod0", init=False)
    vocab_size: int = dataclasses.field(default=256, init=False)
    bos: int = dataclasses.field(default=0, init=False)
    eod: int = dataclasses.field(default=0, init=False)

    def encode_batch(self, texts: Sequence[str]) -> list[Integer[np.ndarray, " _"]]:
        """Token ids of each text, without special tokens.

        Args:
            texts: texts without the character NUL.

        Returns:
            One uint8 array per text.

        Raises:
            EquimuError: a text holds NUL.
        """
        if any("\0" in text for text in texts):
            raise EquimuError(
                "a text holds the character NUL, which the bytes tokenizer keeps for end-of-document; "
                "remove it from the text or use another tokenizer"
            )
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    @property
    def byte_lengths(self) -> Int[np.ndarray, " vocab"]:
        """See `byte_lengths`."""
        return np.where(np.arange(self.vocab_size) == self.eod, 0, 1)

    def decode(self, ids: Sequence[int] | Integer[np.ndarray, " tokens"]) -> str:
        """The text of token ids; special ids are left out, bytes that are not UTF-8 become U+FFFD."""
        return bytes(i for i in map(int, ids) if i != self.eod).decode(errors="replace")


class HuggingFaceTokenizer:
    """A `tokenizer.json` of Hugging Face's `tokenizers` package (needs the extra `hf`), or a folder with one.

    Text is encoded as it is: no special tokens are added, text that looks like a special token is not taken
    for one, and truncation or padding set in the file is switched off.

    Args:
        path: the JSON file; or its folder, whose `tokenizer_config.json`, if there is one, names the two tokens first.
        bos: beginning-of-document token, e.g. `"<s>"`; None takes the one the file has under a usual name,
            and the end-of-document token where it has none.
        eod: end-of-document token, e.g. `"</s>"`; None takes the one the file has under a usual name.

    Raises:
        EquimuError: no such file, not a tokenizer file, an unknown or ambiguous special token, or the
            package `tokenizers` is missing.
    """

    def __init__(self, path: str | Path, *, bos: str | None = None, eod: str | None = None):
        path = expanded(path_text("the path of the tokenizer", path), "the path of the tokenizer")
        try:
            import tokenizers
        except ImportError:
            raise EquimuError(
                f"tokenizer file {path} needs the package 'tokenizers': pip install 'equimu[hf]'"
            ) from None
        named: dict[str, str] = {}
        if path.is_dir():
            named = _named_tokens(path / _CONFIG)
            path = path / _FILE
        try:
            content = read_regular(path, _MOST_BYTES)
        except OSError as error:
            raise EquimuError(
                f"cannot read tokenizer file {path}: {error.strerror}; write 'bytes', the path of a tokenizer.json "
                f"or of a folder with one, or {SCHEME}NAME of the hub"
            ) from None
        try:
            self._tokenizer = bounded(lambda: tokenizers.Tokenizer.from_buffer(content), _SECONDS)
        except (ValueError, TimeoutError) as error:
            raise EquimuError(f"{path} is not a tokenizer file of Hugging Face's `tokenizers`: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self.name: str = str(path)
        # Ids may have holes (T5's sentinels, reserved tokens), so the count of tokens would be too small.
        self.vocab_size: int = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if self.vocab_size == 0:
            raise EquimuError(f"{path} has an empty vocabulary")
        # Some name tokens that they do not have.
        named = {key: token for key, token in named.items() if self._tokenizer.token_to_id(token) is not None}
        self.eod: int = self._special(eod or named.get("eos_token"), _EOD_NAMES, "eod")
        self.bos: int = self._special(bos or named.get("bos_token"), _BOS_NAMES, "bos", default=self.eod)
        ids = f"{self.bos},{self.eod}".encode()
        self.fingerprint: str = "hf-" + hashlib.sha256(content + ids).hexdigest()[:32]

    def _special(self, token: str | None, usual: Sequence[str], word: str, default: int | None = None) -> int:
        added = self._tokenizer.get_added_tokens_decoder()
        special = [token.content for _, token in sorted(added.items()) if token.special]
        if token is not None:
            token_id = self._tokenizer.token_to_id(token)
            if token_id is None:
                raise EquimuError(f"{self.name} has no token {token!r} for {word}; {_offered(word, special)}")
            return token_id
        found = {t.content: i for i, t in added.items() if t.special and t.content in usual}
        if not found and default is not None:
            return default
        if len(found) != 1:
            where = "ends" if word == "eod" else "begins"
            raise EquimuError(
                f"tokenizer {self.name} does not say which token {where} a document; {_offered(word, list(found) or special)}"
            )
        return found.popitem()[1]

    def encode_batch(self, texts: Sequence[str]) -> list[Integer[np.ndarray, " _"]]:
        """Token ids of each text (in parallel threads), without special tokens: one uint32 array per text.

        Raises:
            EquimuError: the file's patterns find no end on some text, or the package gives up.
        """
        return [ids for part in in_batches(texts, _PART_CHARACTERS) for ids in self._encode(part)]

    def _encode(self, texts: list[str]) -> list[Integer[np.ndarray, " _"]]:
        seconds = _SECONDS + _SECONDS_PER_CHARACTER * sum(map(len, texts))
        try:
            encodings = bounded(lambda: self._tokenizer.encode_batch_fast(texts, add_special_tokens=False), seconds)
        except (ValueError, TimeoutError) as error:
            raise EquimuError(
                f"tokenizer file {self.name} cannot encode this text: {error}; use another tokenizer"
            ) from None
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    @property
    def byte_lengths(self) -> Int[np.ndarray, " vocab"] | None:
        """See `byte_lengths`."""
        if type(self._tokenizer.decoder).__name__ != "ByteLevel":
            return None
        # There each character of a token's name stands for a byte; tokens that were added are written as they are.
        lengths = np.zeros(self.vocab_size, np.int64)
        for name, token in self._tokenizer.get_vocab(with_added_tokens=True).items():
            lengths[token] = len(name)
        for token, added in self._tokenizer.get_added_tokens_decoder().items():
            lengths[token] = 0 if added.special else len(added.content.encode())
        return lengths

    def decode(self, ids: Sequence[int] | Integer[np.ndarray, " tokens"]) -> str:
        """The text of token ids; special tokens are left out."""
        special = {self.bos, self.eod}
        return self._tokenizer.decode([i for i in map(int, ids) if i not in special], skip_special_tokens=True)


def _offered(word: str, tokens: Sequence[str]) -> str:
    """What to write in the place of a special token that is not known."""
    of_it = (
        f"one of its special tokens, {', '.join(tokens[:_OFFERED])}"
        if tokens
        else "any of its tokens, as none is special"
    )
    more = ", ..." if len(tokens) > _OFFERED else ""
    return f"write PATH?{word}=TOKEN, in Python {word}='TOKEN', with {of_it}{more}"


def _named_tokens(path: Path) -> dict[str, str]:
    """The tokens that a `tokenizer_config.json` names `bos_token` and `eos_token`."""
    try:
        found: Any = loads(read_regular(path, _MOST_CONFIG_BYTES))
    except (OSError, ValueError):
        return {}
    named: dict[str, str] = {}
    for key in ("bos_token", "eos_token"):
        token = found.get(key) if isinstance(found, dict) else None
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token:
            named[key] = token
    return named


def _from_hub(name: str, revision: str | None) -> Path:
    """A folder with the files of a tokenizer of the hub, fetched into Hugging Face's cache unless they are there.

    Raises:
        EquimuError: there is no such tokenizer, or the hub is out of reach.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise EquimuError(
            f"tokenizer {SCHEME}{name} needs the package 'tokenizers': pip install 'equimu[hf]'"
        ) from None
    try:
        path = Path(huggingface_hub.hf_hub_download(name, _FILE, revision=revision))
    except Exception as error:  # of several packages, by no promise
        message = printable(" ".join(str(error).split()))[:200]
        raise EquimuError(
            f"tokenizer {SCHEME}{name} has not come from the hub ({message}); "
            "write another name, or the path of a tokenizer.json"
        ) from None
    with contextlib.suppress(Exception):  # it need not be there
        huggingface_hub.hf_hub_download(name, _CONFIG, revision=revision)
    return path.parent


def byte_lengths(tokenizer: Tokenizer) -> Int[np.ndarray, " vocab"] | None:
    """Of how many bytes of text each token is, 0 for special ones; None where the tokenizer does not say so token by token.

    The byte tokenizer and byte-level BPE do. Others leave spaces out, or change letters.
    """
    return getattr(tokenizer, "byte_lengths", None)


def in_batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """The texts, as many at a time as have about so many characters together."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= size:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def tokenizer_from_name(name: str, *, bos: str | None = None, eod: str | None = None) -> Tokenizer:
    """The tokenizer that a config or a flag names.

    Args:
        name: `"bytes"`; the path of a Hugging Face `tokenizer.json`, or of a folder with one; or `"hf://NAME"` of the hub.
            Behind it `?eod=TOKEN` or `?bos=TOKEN&eod=TOKEN`, and of the hub `revision=`.
        bos: beginning-of-document token of a tokenizer file; see `HuggingFaceTokenizer`.
        eod: end-of-document token of a tokenizer file.

    Returns:
        A `ByteTokenizer` or a `HuggingFaceTokenizer`.

    Raises:
        EquimuError: see `HuggingFaceTokenizer`; or special tokens given for `"bytes"`.
    """
    name = path_text("the tokenizer", name)
    if name != "bytes":
        on_hub = name.startswith(SCHEME)
        if not on_hub and ("?" not in name or expanded(name, "the path of the tokenizer").exists()):
            return HuggingFaceTokenizer(name, bos=bos, eod=eod)
        address = read_address(name, "tokenizer", ("eod", "bos", "revision") if on_hub else ("eod", "bos"))
        options = address.options
        path = _from_hub(address.name, options.get("revision")) if on_hub else address.name
        return HuggingFaceTokenizer(path, bos=bos or options.get("bos"), eod=eod or options.get("eod"))
    if bos is not None or eod is not None:
        raise EquimuError("tokenizer 'bytes' has byte 0 as its only special token; leave bos and eod out")
    return ByteTokenizer()
