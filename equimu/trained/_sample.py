"""Text that a trained language model writes after prompts."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from equimu._errors import EquimuError, counted
from equimu._values import Size, check, shown
from equimu.data import Tokenizer, tokenizer_from_name
from equimu.nn import Continuation, Sampling, generate, stream
from equimu.tasks import LanguageModel, Task
from equimu.trained._load import Trained, load


class Sample(NamedTuple):
    """What was written after a prompt.

    - `prompt`: as it was given.
    - `text`: what follows it.
    - `tokens`: of the text.
    - `ended`: with the `"document"`, at the number of `"tokens"` that was asked for, or at the end of the `"context"`.
    """

    prompt: str
    text: str
    tokens: list[int]
    ended: Literal["document", "tokens", "context"]


def sample(
    run: str | Path | Trained,
    prompts: Sequence[str],
    task: type[Task] | Task | None = None,
    *,
    tokens: int = 100,
    sampling: Sampling | None = None,
    seed: int = 0,
    context: int | None = None,
    store: str | None = None,
) -> list[Sample]:
    """Continues prompts by the model of a run of the language model, on one device.

    Each prompt begins a document, so an empty one asks for a document of the model's own.

    Args:
        run: as of `equimu.trained.load`, or what that gave.
        prompts: texts, continued together.
        task: as of `load`, where it is a subclass of `equimu.LanguageModel`.
        tokens: to write at most, after each.
        sampling: how tokens are chosen; by default at temperature 1.
        seed: of what is drawn.
        context: positions of prompt and continuation together, with one for the beginning of the document; None for as many as
            a row of the training had, which is what the model has learned. More are told on stderr.
        store: as of `load`.

    Returns:
        A sample for each prompt. It depends on the prompt, the seed and `sampling`, and not on the other prompts; a prompt that
        is given several times has several.

    Raises:
        EquimuError: as `load`; the run is of another task, or a prompt leaves no room in the context.

    Example:
        >>> for each in sample("runs/3f0c", ["def ", "import "], tokens=50):
        ...     print(each.prompt + each.text)
    """
    trained, tokenizer, limit, stop = _ready(run, task, context, store)
    ids = _encoded(trained, tokenizer, prompts, limit)
    found = generate(trained.model, ids, tokens=tokens, sampling=sampling, seed=seed, stop=stop, context=limit)
    return [
        Sample(prompt, tokenizer.decode(each.tokens), each.tokens, _ended(each))
        for prompt, each in zip(prompts, found, strict=True)
    ]


def stream_text(
    run: str | Path | Trained,
    prompt: str,
    task: type[Task] | Task | None = None,
    *,
    tokens: int = 100,
    sampling: Sampling | None = None,
    seed: int = 0,
    context: int | None = None,
    store: str | None = None,
) -> Iterator[str]:
    """The text of `sample` for one prompt, in pieces as they are written.

    A character of which a part is still to come is kept back until it is whole.

    Args:
        run, task, tokens, sampling, seed, context, store: as of `sample`.
        prompt: the text to continue.

    Yields:
        Pieces of the text.
    """
    trained, tokenizer, limit, stop = _ready(run, task, context, store)
    ids = _encoded(trained, tokenizer, [prompt], limit)
    pieces = stream(trained.model, ids, tokens=tokens, sampling=sampling, seed=seed, stop=stop, context=limit)
    return _joined(pieces, tokenizer)


def _joined(pieces: Iterator[list[Continuation]], tokenizer: Tokenizer) -> Iterator[str]:
    told = whole = ""
    for (each,) in pieces:
        whole = tokenizer.decode(each.tokens)
        # A decoder writes U+FFFD for bytes that are no character, or none yet.
        safe = whole.rstrip("\ufffd")
        if safe.startswith(told) and len(safe) > len(told):
            yield safe[len(told) :]
            told = safe
    if len(whole) > len(told):
        yield whole[len(told) :]


def _ready(
    run: str | Path | Trained, given: type[Task] | Task | None, context: int | None, store: str | None
) -> tuple[Trained, Tokenizer, int, int]:
    """The run, its tokenizer, the context, and the token that ends a document."""
    check(Size | None, context=context)
    trained = run if isinstance(run, Trained) else load(run, given, store=store)
    task = trained.config.task
    if not isinstance(task, LanguageModel):
        raise EquimuError(
            f"{trained.folder} is a run of {type(task).__name__}, which is no language model and writes no text"
        )
    tokenizer = tokenizer_from_name(task.text.tokenizer)
    if context is not None and context > task.text.seq:
        message = (
            f"context={context} is more than rows of the training had, {task.text.seq}; no position behind was trained"
        )
        print(f"equimu: {message}", file=sys.stderr, flush=True)
    return trained, tokenizer, task.text.seq if context is None else context, tokenizer.eod


def _encoded(trained: Trained, tokenizer: Tokenizer, prompts: Sequence[str], context: int) -> list[np.ndarray]:
    """Token ids of each prompt, after what stands before a document in the training."""
    check(tuple[str, ...], prompts=prompts)
    task = trained.config.task
    assert isinstance(task, LanguageModel)
    begin = tokenizer.bos if task.text.windows == "document" else tokenizer.eod
    encoded = [np.concatenate([[begin], ids]).astype(np.int64) for ids in tokenizer.encode_batch(list(prompts))]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) >= context:
            raise EquimuError(
                f"the prompt {shown(prompt)} has {counted(len(ids) - 1, 'token')}, which after the one that begins a document "
                f"leave no room in a context of {context}; shorten it, or give a larger context (rows of the training had "
                f"{task.text.seq})"
            )
    return encoded


def _ended(each: Continuation) -> Literal["document", "tokens", "context"]:
    return "document" if each.ended == "stop" else each.ended
