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
from jaxtyping import Array, Float, Int

from equimu._errors import EquimuError, nearest
from equimu._types import PyTree
from equimu.data import Batch
from equimu.train._loss import cross_entropy_sum
from equimu.train._mesh import AXES, BATCH

BATCH_AXES = AXES[:2]


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

        def loss(params: PyTree, part: Batch) -> Float[Array, ""]:
            return jax.lax.psum(_summed_loss(apply(params), part), BATCH_AXES) / divisor

        gradient = jax.value_and_grad(loss)
        if accumulate == 1:
            value, grads = gradient(params, batch)
        else:
            rows = batch.mask.shape[0]
            if rows % accumulate != 0:
                raise EquimuError(f"{rows} rows a device cannot be worked off in {accumulate} equal parts")
            parts = jax.tree.map(lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:]), batch)

            def add(total: Any, part: Batch) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, gradient(params, part)), None

            nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(gradient, params, batch))
            (value, grads), _ = jax.lax.scan(add, nothing, parts)
        return value * divisor / jnp.maximum(targets, 1), grads

    # Params come in replicated and the loss is a sum over devices: the checked shard_map adds up their gradients itself.
    return jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(), BATCH), out_specs=PartitionSpec())


def update(
    state: TrainState, loss: Float[Array, ""], grads: PyTree, optimizer: optax.GradientTransformation
) -> tuple[TrainState, StepMetrics]:
    """One update of the state by an optimizer."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = eqx.apply_updates(state.params, updates)
    entries = sum(x.size for x in jax.tree.leaves(updates))
    rms = optax.tree.norm(updates) / jnp.sqrt(entries)
    return TrainState(params, opt_state, state.step + 1), StepMetrics(loss, optax.tree.norm(grads), rms)


def evaluation(apply: Callable[[PyTree], PyTree], mesh: Mesh) -> Callable[[PyTree, Batch], tuple[Array, Array]]:
    """The function (params, batch) → (summed loss, number of counted targets), over all devices of a mesh."""

    def local(params: PyTree, batch: Batch) -> tuple[Array, Array]:
        return jax.lax.psum((_summed_loss(apply(params), batch), jnp.sum(batch.mask)), BATCH_AXES)

    return jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(), BATCH), out_specs=PartitionSpec())


def _summed_loss(model: Any, batch: Batch) -> Float[Array, ""]:
    inputs, targets, mask = (jnp.asarray(x) for x in batch)
    logits = jax.vmap(model)(inputs)
    return cross_entropy_sum(logits, targets, mask.astype(logits.dtype))
