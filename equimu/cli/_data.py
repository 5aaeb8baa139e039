"""`equimu data`."""

import dataclasses

from equimu._values import Part, PathLike
from equimu.cli._command import Command, Place
from equimu.data import read_corpus, tokenizer_from_name, write_store


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(Command):
    """The flags of `equimu data`."""

    store: Place
    """Folder or URL of the store."""
    corpus: PathLike = "stdlib"
    """"stdlib", or a file, folder or glob of text."""
    tokenizer: PathLike = "bytes"
    """"bytes", or the path of a Hugging Face tokenizers JSON file."""
    validation_share: Part = 0.05
    """Share of the documents held out."""
    dtype: str | None = None
    """uint8, uint16 or uint32; the smallest that holds the vocabulary by default."""

    def __call__(self) -> None:
        """Writes the store and prints what it holds."""
        made = write_store(
            self.store,
            read_corpus(self.corpus),
            tokenizer_from_name(self.tokenizer),
            validation=self.validation_share,
            dtype=self.dtype,
        )
        for split, count in made.info.tokens.items():
            print(f"{split}: {count} tokens in {made.info.documents[split]} documents")
