"""One training run, from its config to its folder."""

import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from equimu.data import Loader, OrderedLoader, TokenStore, open_store, prepare, tokenizer_from_name
from equimu.parameterization import to_json
from equimu.train._build import build_tree
from equimu.train._config import DataConfig, RunConfig
from equimu.train._mesh import shard_batch
from equimu.train._program import hyperparameters_of, program_for
from equimu.train._run import Run, RunFolder, read_run

OnRow = Callable[[Mapping[str, Any]], None]


def train(config: RunConfig, *, out: str | Path, on_row: OnRow | None = None) -> Run:
    """Trains one model, or reads the run if it was done before.

    Args:
        config: the run.
        out: root of the run folders; the run's own folder is named by a hash of its config and data.
        on_row: called with each row of metrics as it is written.

    Returns:
        The finished run.

    Raises:
        EquimuError: whatever is wrong with the config, before anything is written.
    """
    store = open_data(config.data)
    folder = RunFolder(Path(out), config, store.info)
    folder.check()
    if not folder.is_done:
        _train(config, store, folder, on_row or (lambda row: None))
    run = read_run(folder.path)
    assert run is not None
    return run


@functools.cache
def open_data(config: DataConfig) -> TokenStore:
    """The token store of a run; made, once, if it is a corpus.

    Raises:
        EquimuError: as `equimu.data.prepare` and `equimu.data.open_store`.
    """
    tokenizer = tokenizer_from_name(config.tokenizer)
    if config.store is not None:
        return open_store(config.store, tokenizer)
    return prepare(config.corpus, tokenizer, validation=config.validation_share)


@functools.cache
def _validation(config: DataConfig, batches: int | None) -> OrderedLoader:
    return OrderedLoader(open_data(config), seq=config.seq, rows=config.rows, windows=config.windows, first=batches)


def _train(config: RunConfig, store: TokenStore, folder: RunFolder, on_row: OnRow) -> None:
    # Everything that can be wrong shows in these lines, compilation included; only then is the folder made.
    data = config.data
    tree = build_tree(config, store.info.vocab_size)
    loader = Loader(store, seq=data.seq, rows=data.rows, seed=config.seed, windows=data.windows)
    validation = _validation(data, config.validation_batches)
    program, numbers = program_for(config, tree)
    hyper = hyperparameters_of(config)
    compiled = program.compiled(shard_batch(loader.batch(0), program.mesh), numbers, hyper)
    folder.start(to_json(tree))

    def log(row: dict[str, Any]) -> None:
        folder.append(row)
        on_row(row)

    state = compiled.init(numbers, hyper, jax.random.key(config.seed))
    batches = loader.iterate()
    started, logged = time.perf_counter(), 0
    for step in range(1, config.steps + 1):
        logs = step % config.log_every == 0 or step in (1, config.steps)
        batch = shard_batch(next(batches), program.mesh)
        state, metrics = compiled.step(state, batch, numbers, hyper, np.bool_(logs))
        if logs:
            loss = float(metrics.loss)  # waits for the device
            now = time.perf_counter()
            log(
                {
                    "step": step,
                    "tokens": step * data.rows * data.seq,
                    "loss": loss,
                    "grad_norm": float(metrics.grad_norm),
                    "update_rms": float(metrics.update_rms),
                    "tokens_per_second": (step - logged) * data.rows * data.seq / (now - started),
                }
            )
            started, logged = now, step
            if not math.isfinite(loss):
                folder.finish("diverged")
                return
    total = count = 0.0
    for batch in validation:
        summed, counted = compiled.evaluate(state, shard_batch(batch, program.mesh), numbers)
        total, count = total + float(summed), count + float(counted)
    loss = total / count
    log({"step": config.steps, "tokens": config.steps * data.rows * data.seq, "validation_loss": loss})
    folder.finish("finished" if math.isfinite(loss) else "diverged")
