"""The train step: loss and gradient inside `shard_map`, the optimizer outside it, in one compiled program.

Norms and every other statistic of the gradients are global only outside the `shard_map`, which is why optax is there.

Along `data` devices have the same weights and different rows; their gradients are summed once an update. Along `fsdp` they have
different rows too, and different parts of the weights, which each layer gathers where it uses them, so that their gradients are
scattered layer by layer: kept until the end of an update, they would be the whole model. Along `tensor` they share the work on
each layer of the same rows.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from equimu._errors import EquimuError, nearest
from equimu._types import PyTree
from equimu.attention._varying import vary, varying_axes
from equimu.data import Batch
from equimu.nn._parallel import TENSOR, is_mesh_aware
from equimu.train._loss import summed_losses
from equimu.train._mesh import BATCH_AXES
from equimu.train._specs import partition_specs, shards


class TrainState(NamedTuple):
    """What a step takes and gives: the trained arrays, the optimizer's state, and the number of updates done."""

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]


class StepMetrics(NamedTuple):
    """Of one step: mean loss over counted targets, global norm of the raw gradient, RMS of all entries of the update.

    - `updates`: done so far, where updates may be skipped.
    - `inspected`: what the `inspect` of `update` told.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    update_rms: Float[Array, ""]
    updates: Int[Array, ""] | None = None
    inspected: PyTree = None


def loss_and_gradient(
    apply: Callable[[PyTree], PyTree],
    mesh: Mesh,
    *,
    accumulate: int = 1,
    denominator: str = "mask",
    z_loss: float = 0.0,
    chunk: int | None = None,
) -> Callable[[PyTree, Batch], tuple[Float[Array, ""], PyTree]]:
    """The function (params, batch) → (mean cross-entropy of counted targets, gradient), over all devices of a mesh.

    Params and gradient lie on the mesh as `partition_specs` says.

    Args:
        apply: from the trained arrays to the model that is called, of the same structure; here multipliers are applied. Inside
            it sees each device's part of the arrays.
        mesh: with the axes of `make_mesh`.
        accumulate: parts of each device's rows that are worked off one after the other.
        denominator: what the differentiated loss is divided by: `"mask"`, the counted targets, or `"positions"`.
        z_loss, chunk: as in `summed_losses`.

    Raises:
        EquimuError: unknown denominator, or (when called) sizes that do not divide over the mesh or into equal parts.
    """
    if denominator not in ("mask", "positions"):
        raise EquimuError(f"denominator {denominator!r} is unknown: {nearest(denominator, ('mask', 'positions'))}")

    def local(params: PyTree, batch: Batch, specs: PyTree) -> tuple[Float[Array, ""], PyTree]:
        targets = _sum_over_devices(jnp.sum(batch.mask))
        positions = batch.mask.size * mesh.shape["data"] * mesh.shape["fsdp"]
        divisor = jnp.maximum(targets, 1) if denominator == "mask" else jnp.float32(positions)
        # Each device's own copy from here on: its gradient stays its own until the one sum at the end. (Left replicated,
        # the copies would be made, kept for the backward pass and summed in every iteration of the scan over the blocks.)
        # Only what is gathered from shards is summed where it is used: its gradient is kept nowhere whole.
        params = vary(params, _worked_apart(params, mesh))

        def loss(params: PyTree, part: Batch) -> tuple[Float[Array, ""], Float[Array, ""]]:
            objective, cross_entropy = summed_losses(shards(apply(params), specs), part, z_loss=z_loss, chunk=chunk)
            return objective / divisor, cross_entropy

        gradient = jax.grad(loss, has_aux=True)
        if accumulate == 1:
            grads, summed = gradient(params, batch)
        else:
            rows = batch.mask.shape[0]
            if rows % accumulate != 0:
                raise EquimuError(f"{rows} rows a device cannot be worked off in {accumulate} equal parts")
            parts = jax.tree.map(lambda x: x.reshape(accumulate, rows // accumulate, *x.shape[1:]), batch)

            def add(total: PyTree, part: Batch) -> tuple[PyTree, Array]:
                grads, summed = gradient(params, part)
                return jax.tree.map(jnp.add, total, grads), summed

            zeros = jax.tree.map(lambda x: vary(jnp.zeros(x.shape, x.dtype), varying_axes(x)), params)
            grads, each = jax.lax.scan(add, zeros, parts)
            summed = jnp.sum(each)
        return _sum_over_devices(summed) / jnp.maximum(targets, 1), jax.tree.map(_sum_over_devices, grads, specs)

    def on_mesh(params: PyTree, batch: Batch) -> tuple[Float[Array, ""], PyTree]:
        specs = partition_specs(params, mesh)
        mapped = jax.shard_map(
            functools.partial(local, specs=specs),
            mesh=mesh,
            in_specs=(specs, _batch_spec(mesh)),
            out_specs=(PartitionSpec(), specs),
        )
        return mapped(params, batch)

    return on_mesh


def update(
    state: TrainState,
    loss: Float[Array, ""],
    grads: PyTree,
    optimizer: optax.GradientTransformation,
    measure: bool | Bool[Array, ""] = True,
    *,
    skip_nonfinite: bool = False,
    inspect: Callable[[PyTree, PyTree, PyTree, PyTree], PyTree] = lambda *_: None,
) -> tuple[TrainState, StepMetrics]:
    """One update of the state by an optimizer.

    Args:
        state: before the update.
        loss, grads: of the batch.
        optimizer: what the state's `opt_state` belongs to.
        measure: whether the norms are wanted in this step; they cost a pass over all gradients and updates, and are NaN
            where not.
        skip_nonfinite: whether the state stays as it was where the loss or the gradient's norm is no number.
        inspect: what else is wanted of a step that is measured: arrays from (params, updates, grads, new optimizer state).
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = eqx.apply_updates(state.params, updates)

    def measured() -> tuple[Array, Array, PyTree]:
        entries = sum(x.size for x in jax.tree.leaves(updates))
        told = inspect(state.params, updates, grads, opt_state)
        return optax.tree.norm(grads), optax.tree.norm(updates) / entries**0.5, told

    def nothing() -> tuple[Array, Array, PyTree]:
        return jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), jax.eval_shape(measured))

    grad_norm, update_rms, inspected = jax.lax.cond(measure, measured, nothing)
    new = TrainState(params, opt_state, state.step + 1)
    if not skip_nonfinite:
        return new, StepMetrics(loss, grad_norm, update_rms, inspected=inspected)
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
    new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
    return new, StepMetrics(loss, grad_norm, update_rms, new.step, inspected)


def evaluation(
    apply: Callable[[PyTree], PyTree], mesh: Mesh, *, chunk: int | None = None
) -> Callable[[PyTree, Batch], tuple[Array, Array]]:
    """The function (params, batch) → (summed cross-entropy, number of counted targets), over all devices of a mesh."""

    def local(params: PyTree, batch: Batch, specs: PyTree) -> tuple[Array, Array]:
        params = vary(params, _worked_apart(params, mesh))
        _, summed = summed_losses(shards(apply(params), specs), batch, chunk=chunk)
        return _sum_over_devices(summed), _sum_over_devices(jnp.sum(batch.mask))

    def on_mesh(params: PyTree, batch: Batch) -> tuple[Array, Array]:
        specs = partition_specs(params, mesh)
        evaluate = functools.partial(local, specs=specs)
        mapped = jax.shard_map(evaluate, mesh=mesh, in_specs=(specs, _batch_spec(mesh)), out_specs=PartitionSpec())
        return mapped(params, batch)

    return on_mesh


def _batch_spec(mesh: Mesh) -> PartitionSpec:
    """As a batch lies, less the axes of one device: nothing need be summed along those, and a sum of one is a copy."""
    return PartitionSpec(tuple(axis for axis in BATCH_AXES if mesh.shape[axis] > 1))


def _worked_apart(params: PyTree, mesh: Mesh) -> frozenset[str]:
    """The mesh axes along which devices do different work."""
    axes = (*BATCH_AXES, TENSOR) if is_mesh_aware(params) else BATCH_AXES
    return frozenset(axis for axis in axes if mesh.shape[axis] > 1)


def _sum_over_devices(x: Array, spec: PartitionSpec | None = None) -> Array:
    """The sum over the mesh axes along which the devices have parts of the sum, and not parts of the array."""
    axes = varying_axes(x) - set(spec or ())
    return jax.lax.psum(x, tuple(sorted(axes))) if axes else x
