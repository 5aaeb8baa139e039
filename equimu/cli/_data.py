"""`equimu data`."""

import dataclasses
import sys

from equimu._errors import EquimuError, counted
from equimu._values import Index, Part, PathLike, Size
from equimu.cli._command import Command, Place
from equimu.data import DatasetCorpus, read_corpus, tokenizer_from_name, write_parts, write_store


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Command):
    """The flags of `equimu data`."""

    store: Place
    """Folder or URL of the store."""
    corpus: PathLike = "stdlib"
    """"stdlib"; a file, folder or glob of text; or a data set, "hf://NAME?config=...&split=...&column=..."."""
    tokenizer: PathLike = "bytes"
    """"bytes"; the path of a Hugging Face tokenizers JSON file or of its folder, or "hf://NAME" of the hub; with ?eod=TOKEN
    behind it, TOKEN is its end-of-document token."""
    validation_share: Part = 0.05
    """Share of the documents held out."""
    dtype: str | None = None
    """uint8, uint16 or uint32; the smallest that holds the vocabulary by default."""
    process: Index = 0
    """Number of this process, where several tokenize their shares of a data set."""
    processes: Size = 1
    """How many they are; the one that finishes last makes the store."""

    def __call__(self) -> None:
        """Writes the store, or this process's share of it, and prints what it holds."""
        corpus, tokenizer = read_corpus(self.corpus), tokenizer_from_name(self.tokenizer)
        if self.process >= self.processes:
            raise EquimuError(f"process={self.process} is none of processes={self.processes}; they are counted from 0")
        if self.processes > 1:
            if not isinstance(corpus, DatasetCorpus):
                raise EquimuError(f"processes={self.processes}: several share a data set only; write corpus=hf://...")
            missing = write_parts(
                self.store,
                corpus,
                tokenizer,
                process=self.process,
                processes=self.processes,
                validation=self.validation_share,
                dtype=self.dtype,
            )
            if missing:
                left = f"{counted(missing, 'shard')} of others {'is' if missing == 1 else 'are'} still missing"
                print(f"equimu: the share of process {self.process} is written; {left}", file=sys.stderr)
                return
        made = write_store(self.store, corpus, tokenizer, validation=self.validation_share, dtype=self.dtype)
        for split, count in made.info.tokens.items():
            print(f"{split}: {counted(count, 'token')} in {counted(made.info.documents[split], 'document')}")
