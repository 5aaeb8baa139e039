"""The train step: loss and gradient inside `shard_map`, the optimizer outside it, in one compiled program.

Norms and every other statistic of the gradients are global only outside the `shard_map`, which is why optax is there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from equimu._errors import EquimuError, nearest
from equimu._types import PyTree
from equimu.data import Batch
from equimu.train._loss import cross_entropy_sum
from equimu.train._mesh import BATCH, BATCH_AXES


class TrainState(NamedTuple):
    """What a step takes and gives: the trained arrays, the optimizer's state, and the number of updates done."""

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]


class StepMetrics(NamedTuple):
    """Of one step: mean loss over counted targets, global norm of the raw gradient, RMS of all entries of the update."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    update_rms: Float[Array, ""]


def loss_and_gradient(
    apply: Callable[[PyTree], PyTree],
    mesh: Mesh,
    *,
    accumulate: int = 1,
    denominator: str = "mask",
) -> Callable[[PyTree, Batch], tuple[Float[Array, ""], PyTree]]:
    """The function (params, batch) → (mean loss over counted targets, gradient), over all devices of a mesh.

    Args:
        apply: from the trained arrays to the model that is called; here multipliers are applied.
        mesh: with the axes of `make_mesh`. Parameters are replicated.
        accumulate: parts of each device's rows that are worked off one after the other.
        denominator: what the differentiated loss is divided by: `"mask"`, the counted targets, or `"positions"`.

    Raises:
        EquimuError: unknown denominator, or (when called) rows that do not divide into equal parts.
    """
    if denominator not in ("mask", "positions"):
        raise EquimuError(f"denominator {denominator!r} is unknown: {nearest(denominator, ('mask', 'positions'))}")

    def local(params: PyTree, batch: Batch) -> tuple[Float[Array, ""], PyTree]:
        targets = jax.lax.psum(jnp.sum(batch.mask), BATCH_AXES)
        positions = batch.mask.size * mesh.shape["data"] * mesh.shape["fsdp"]
        divisor = jnp.maximum(targets, 1) if denominator == "mask" else jnp.float32(positions)
        # Each device's own copy from here on: its gradient stays its own until the one sum at the end. (Left replicated,
        # the copies would be made, kept for the backward pass and summed in every iteration of the scan over the blocks.)
        params = jax.tree.map(_vary, params)

        def loss(params: PyTree, part: Batch) -> Float[Array, ""]:
            return _summed_loss(apply(params), part) / divisor

        gradient = jax.value_and_grad(loss)
        if accumulate == 1:
            mine = gradient(params, batch)
        else:
            rows = batch.mask.shape[0]
            if rows % accumulate != 0:
                raise EquimuError(f"{rows} rows a device cannot be worked off in {accumulate} equal parts")
            parts = jax.tree.map(lambda x: x.reshape(accumulate, rows // accumulate, *x.shape[1:]), batch)

            def add(total: Any, part: Batch) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, gradient(params, part)), None

            shapes = jax.eval_shape(gradient, params, batch)
            mine, _ = jax.lax.scan(add, jax.tree.map(lambda s: _vary(jnp.zeros(s.shape, s.dtype)), shapes), parts)
        value, grads = jax.lax.psum(mine, BATCH_AXES)
        return value * divisor / jnp.maximum(targets, 1), grads

    return jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(), BATCH), out_specs=PartitionSpec())


def update(
    state: TrainState,
    loss: Float[Array, ""],
    grads: PyTree,
    optimizer: optax.GradientTransformation,
    measure: bool | Bool[Array, ""] = True,
) -> tuple[TrainState, StepMetrics]:
    """One update of the state by an optimizer.

    Args:
        state: before the update.
        loss, grads: of the batch.
        optimizer: what the state's `opt_state` belongs to.
        measure: whether the norms are wanted in this step; they cost a pass over all gradients and updates, and are NaN
            where not.
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = eqx.apply_updates(state.params, updates)

    def norms() -> tuple[Array, Array]:
        entries = sum(x.size for x in jax.tree.leaves(updates))
        return optax.tree.norm(grads), optax.tree.norm(updates) / jnp.sqrt(entries)

    def nothing() -> tuple[Array, Array]:
        return jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), jax.eval_shape(norms))

    grad_norm, update_rms = jax.lax.cond(measure, norms, nothing)
    return TrainState(params, opt_state, state.step + 1), StepMetrics(loss, grad_norm, update_rms)


def evaluation(apply: Callable[[PyTree], PyTree], mesh: Mesh) -> Callable[[PyTree, Batch], tuple[Array, Array]]:
    """The function (params, batch) → (summed loss, number of counted targets), over all devices of a mesh."""

    def local(params: PyTree, batch: Batch) -> tuple[Array, Array]:
        return jax.lax.psum((_summed_loss(apply(params), batch), jnp.sum(batch.mask)), BATCH_AXES)

    return jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(), BATCH), out_specs=PartitionSpec())


def _summed_loss(model: Any, batch: Batch) -> Float[Array, ""]:
    inputs, targets, mask = (jnp.asarray(x) for x in batch)
    logits = jax.vmap(model)(inputs)
    return cross_entropy_sum(logits, targets, mask.astype(logits.dtype))


def _vary(x: Array) -> Array:
    """A value that is the same on all devices, as one that each device has for itself."""
    return jax.lax.pcast(x, BATCH_AXES, to="varying")
