"""`equimu sample`."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import tyro

from equimu._errors import EquimuError
from equimu._values import Count, NotNegative, PathLike, Seed, Size
from equimu.cli._command import Command, Place
from equimu.files import expanded, read_regular
from equimu.nn import Sampling
from equimu.tasks import find_task
from equimu.trained import load, sample, stream_text

_MOST_BYTES = 2**24  # of prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(Command):
    """The flags of `equimu sample`."""

    run: Place
    """Folder of a run, whose newest checkpoint is taken, or RUN/checkpoints/step-N."""
    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Texts to continue; "" for a document of the model's own. Without any, the lines of standard input."""
    task: str | None = None
    """Of a run of a language model of your own: my.py:Mine, here or as the first word."""
    file: PathLike | None = None
    """File of prompts, one a line."""
    tokens: Count = 100
    """To write at most."""
    temperature: NotNegative = 1.0
    """0 takes the most likely token each time."""
    top_k: Size | None = None
    """Only so many of the most likely tokens."""
    top_p: float | None = None
    """Only the most likely tokens that together reach this probability."""
    seed: Seed = 0
    """Of the draws."""
    context: Size | None = None
    """Positions of prompt and text together; those of a row of the training by default."""
    store: PathLike | None = None
    """Where the run's token store is now, if that is another place."""
    json: bool = False
    """Print an object of JSON for each prompt, a line each."""

    def __call__(self) -> None:
        """Prints the prompts and what follows them."""
        sampling = Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
        trained = load(self.run, None if self.task is None else find_task(self.task), store=self.store)
        prompts = self._prompts()
        given: dict[str, Any] = {
            "tokens": self.tokens,
            "sampling": sampling,
            "seed": self.seed,
            "context": self.context,
        }
        if len(prompts) == 1 and not self.json:
            pieces = stream_text(trained, prompts[0], **given)
            print(_shown(prompts[0]), end="", flush=True)
            for piece in pieces:
                print(_shown(piece), end="", flush=True)
            print()
            return
        found = sample(trained, prompts, **given)
        if self.json:
            for each in found:
                print(json.dumps({**each._asdict(), "step": trained.step}))
            return
        print("\n---\n".join(_shown(each.prompt + each.text) for each in found))

    def _prompts(self) -> list[str]:
        if self.prompts and self.file is not None:
            raise EquimuError("prompts are given and --file, too; give one of them")
        if self.prompts:
            return list(self.prompts)
        if self.file is None and sys.stdin.isatty():
            raise EquimuError('there is no prompt; write one after the run ("" for none), or give --file')
        where = "standard input" if self.file is None else self.file
        try:
            content = sys.stdin.buffer.read() if self.file is None else _read(self.file)
            lines = content.decode().splitlines()
        except OSError as error:
            raise EquimuError(
                f"cannot read the prompts in {where}: {error.strerror}; give a file of prompts, "
                "one a line, or write them after the run"
            ) from None
        except UnicodeDecodeError:
            raise EquimuError(
                f"the prompts in {where} are not UTF-8 text; convert them, as `iconv -t utf-8` does"
            ) from None
        if not lines:
            raise EquimuError(f"{where} has no prompt; write one a line")
        return lines


def _read(file: str) -> bytes:
    return read_regular(Path(expanded(file, "--file")), _MOST_BYTES)


def _shown(text: str) -> str:
    """The text as a terminal only shows it: what it would obey becomes an escape. Elsewhere as it is."""
    if not sys.stdout.isatty():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
