"""The coordinate check of a run: its model, parameterization, optimizer and data, at several widths or depths."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from equimu._errors import EquimuError, ExitCode
from equimu._types import PyTree
from equimu._values import Count, Positive, Size, check, checked
from equimu.data import Batch, Loader
from equimu.diagnostics._check import CoordinateProbe
from equimu.diagnostics._result import CoordinateCheck
from equimu.train import (
    RunConfig,
    build_make,
    build_optimizer,
    build_parameterization,
    cross_entropy_sum,
    open_data,
)


class OffError(EquimuError):
    """The check ran, and something is not as the parameterization says."""

    exit_code = ExitCode.NO


def check_run(
    config: RunConfig,
    *,
    widths: Sequence[int] = (64, 128, 256),
    depths: Sequence[int] = (),
    heads: int | None = None,
    learning_rate: float = 2**-9,
    steps: int = 3,
    seeds: int = 6,
    on_size: Callable[[int, int], None] = lambda done, size: None,
) -> CoordinateCheck:
    """The coordinate check of what a config describes.

    Args:
        config: model, parameterization, optimizer and data; not used are its width (or depth), learning rate and schedule.
        widths: values of d_model.
        depths: values of n_layer to check instead, at the config's width.
        heads: how many heads there are at every width, so that head_dim grows; by default head_dim stays as it is.
        learning_rate: base learning rate, constant; so small that a few steps are far from the end of training.
        steps: updates, each on the next batch of the data.
        seeds: how many.
        on_size: called after each size with how many are done, and the size.

    Returns:
        Rows and verdict.

    Raises:
        EquimuError: as `coord_check`; heads that do not divide a width.
    """
    check(RunConfig, config=config)
    widths, depths = (
        checked(name, sizes, tuple[Size, ...]) for name, sizes in (("widths", widths), ("depths", depths))
    )
    check(Size | None, heads=heads)
    check(Positive, learning_rate=learning_rate)
    check(Count, steps=steps, seeds=seeds)
    store = open_data(config.data)
    loader = Loader(store, seq=config.data.seq, rows=config.data.rows, seed=config.seed, windows=config.data.windows)
    sizes = [{"n_layer": depth} for depth in depths] or [{"d_model": width} for width in widths]
    for width in widths if heads is not None else ():
        if width % (heads or 1) != 0:
            raise EquimuError(f"{heads} heads do not divide width {width}; take a divisor of all widths")

    def make(*, d_model: int, n_layer: int, key: Any) -> Any:
        model = config.model if heads is None else dataclasses.replace(config.model, head_dim=d_model // heads)
        whole = build_make(dataclasses.replace(config, model=model), store.info.vocab_size)
        return whole(d_model=d_model, n_layer=n_layer, key=key)

    def loss(model: Any, batch: Batch) -> Any:
        inputs, targets, mask = map(jnp.asarray, batch)
        logits = jax.vmap(model)(inputs)
        return cross_entropy_sum(logits, targets, mask) / jnp.maximum(jnp.sum(mask), 1)

    def optimizer(tree: PyTree) -> Any:
        still = dataclasses.replace(config.optimizer, decay="constant")
        decay = config.optimizer.weight_decay
        return build_optimizer(still, tree, learning_rate=learning_rate, weight_decay=decay, steps=steps, warmup=0)

    rules = config.parameterization
    base_n_layer = rules.base_n_layer or min(depths or [config.model.n_layer])
    probe = CoordinateProbe(
        make,
        base={"d_model": rules.base_width, "n_layer": base_n_layer},
        sizes=[{"d_model": config.model.width, "n_layer": config.model.n_layer} | size for size in sizes],
        loss=loss,
        batches=[loader.batch(step) for step in range(steps)],
        optimizer=optimizer,
        steps=steps,
    )
    return probe(build_parameterization(rules, config.optimizer), seeds=range(seeds), on_size=on_size)
