"""The loss of a run over a whole split of its data."""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from equimu._errors import printable
from equimu._types import PyTree
from equimu._values import Real, Size, check, checked
from equimu.data import ValidationBatches, byte_lengths, tokenizer_from_name
from equimu.sharding import shard_batch
from equimu.tasks import LanguageModel, Task
from equimu.trained._load import Trained, load
from equimu.training import Means, data_of

Split = Literal["validation", "train"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a run's model gives on a split of its data.

    - `folder`, `step`: of the run.
    - `split`: `"validation"` or `"train"`.
    - `loss`: mean over the split, in what the task's loss is in; of the language model in nats a token.
    - `metrics`: means of the task's own, by name.
    - `bits_per_byte`: of the language model, where its tokenizer knows of how many bytes a token is, else None. What the ends
      of documents cost is in it; they are of no bytes.
    - `unit`, `count`: what the loss is the mean over, and how many of it: tokens of text that count, examples of other data.
    - `same_data`: whether the data are those that the run was trained on.
    """

    folder: Path
    step: int
    split: Split
    loss: Real
    metrics: Mapping[str, Real]
    bits_per_byte: Real | None
    unit: str
    count: int
    same_data: bool


def evaluate(
    run: str | Path | Trained,
    task: type[Task] | Task | None = None,
    *,
    split: Split = "validation",
    rows: int | None = None,
    store: str | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluates a run's model on all of a split, on one device. Nothing is written.

    Args:
        run: as of `equimu.trained.load`, or what that gave.
        task: as of `load`.
        split: `"validation"`, or `"train"` where the data can be read in order.
        rows: of a batch; None for those that the run was trained with. They change the time that it takes, not the result.
        store: as of `load`.
        on_batch: called with how many of the run's own batches were read so far, and how many there are.

    Returns:
        The means.

    Raises:
        EquimuError: as `load`, or the data cannot be read so.
    """
    check(Size | None, rows=rows)
    split = checked("split", split, Split)
    trained = run if isinstance(run, Trained) else load(run, task, store=store)
    config, data = trained.config, data_of(trained.config.task)
    same = data.fingerprint == trained.identity.get("data")
    if not same:
        message = f"the data of {trained.folder} are others now than when it was trained; this is the loss on them as they are"
        print(f"equimu: {printable(message)}", file=sys.stderr, flush=True)
    own, sizes = config.task, None
    in_nats = isinstance(own, LanguageModel) and type(own).sums is LanguageModel.sums
    if isinstance(own, LanguageModel) and in_nats:
        sizes = byte_lengths(tokenizer_from_name(own.text.tokenizer))
    batches = data.whole(split)
    means, examples, total_bytes = Means(), 0, 0
    for read, batch, weights in _batches(batches, rows):
        placed: Any = shard_batch((batch, weights), trained.program.mesh)
        means.add(trained.evaluate(*placed))
        examples += int(np.count_nonzero(weights))
        total_bytes += 0 if sizes is None else int(np.sum(sizes[batch.targets], where=batch.mask > 0))
        if on_batch is not None:
            on_batch(read, len(batches))
    found = means.values()
    loss, weight = found.pop("loss"), means.weight("loss")
    return Evaluation(
        folder=trained.folder,
        step=trained.step,
        split=split,
        loss=loss,
        metrics=found,
        bits_per_byte=loss * weight / math.log(2) / total_bytes if total_bytes else None,
        unit="tokens" if in_nats else "examples",
        count=round(weight) if in_nats else examples,
        same_data=same,
    )


def _batches(batches: ValidationBatches, rows: int | None) -> Iterator[tuple[int, PyTree, np.ndarray]]:
    """Batches with the weights of their rows, and how many were read for it. With so many rows, the last has what is left."""
    waiting: Any = None
    for number in range(len(batches)):
        batch, weights = batches.batch(number), batches.weights(number)
        if rows is None:
            yield number + 1, batch, weights
            continue
        there = (jax.tree.map(lambda x: x[weights > 0], batch), weights[weights > 0])  # noqa: B023
        waiting = there if waiting is None else jax.tree.map(lambda *x: np.concatenate(x), waiting, there)
        while len(waiting[1]) >= rows:
            yield number + 1, *jax.tree.map(lambda x: x[:rows], waiting)
            waiting = jax.tree.map(lambda x: x[rows:], waiting)
    if waiting is not None and len(waiting[1]):
        yield len(batches), *waiting
