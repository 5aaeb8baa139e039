"""The train step: loss and gradient inside `shard_map`, the optimizer outside it, in one compiled program.

Norms and every other statistic of the gradients are global only outside the `shard_map`, which is why optax is there.

Along `data` devices have the same weights and different rows; their gradients are summed once an update. Along `fsdp` they have
different rows too, and different parts of the weights, which each layer gathers where it uses them, so that their gradients are
scattered layer by layer: kept until the end of an update, they would be the whole model. Along `tensor` they share the work on
each layer of the same rows.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu._varying import vary, varying_axes
from equimu.sharding import BATCH_AXES, TENSOR, is_mesh_aware, partition_specs, shards
from equimu.tasks import Sums, Task, add
from equimu.training._model_state import mapped_state, plain_state


class TrainState(NamedTuple):
    """What a step takes and gives.

    - `params`: the trained arrays.
    - `opt_state`: of the optimizer.
    - `step`: the number of updates done.
    - `buffers`: the model's other arrays, of integers for example.
    - `state`: its `eqx.nn.State`; None where it has none.
    """

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]
    buffers: PyTree = None
    state: PyTree = None


class StepMetrics(NamedTuple):
    """Of one step: mean loss, global norm of the raw gradient, RMS of all entries of the update.

    - `metrics`: means of the task's own, by name.
    - `updates`: done so far, where updates may be skipped.
    - `inspected`: what the `inspect` of `update` returned.

    - `loss`, `grad_norm`, `update_rms`: scalars.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    update_rms: Float[Array, ""]
    metrics: Mapping[str, Float[Array, ""]] = {}
    updates: Int[Array, ""] | None = None
    inspected: PyTree = None


class Outcome(NamedTuple):
    """What the loss of a batch is, and what it leads to.

    - `loss`: mean over all that counts.
    - `grads`: of the trained arrays.
    - `metrics`: means of the task's own, by name.
    - `state`: of the model, after the batch.
    """

    loss: Float[Array, ""]
    grads: PyTree
    metrics: Mapping[str, Float[Array, ""]]
    state: PyTree


def loss_and_gradient(
    task: Task, apply: Callable[[PyTree, PyTree], PyTree], mesh: Mesh, specs: PyTree = None, *, accumulate: int = 1
) -> Callable[..., Outcome]:
    """The function (params, batch, keys, buffers, state) → `Outcome`, over all devices of a mesh.

    Params and gradient lie on the mesh as their specs say. Keys, one for each row, are None where the loss takes none.

    Args:
        task: whose loss it is.
        apply: from the trained arrays and the buffers to the model that is called, of the same structure; here multipliers are
            applied. Inside it sees each device's part of the arrays.
        mesh: with the axes of `make_mesh`.
        specs: of the trained arrays; by default those of `partition_specs`.
        accumulate: micro-batches of each device's rows that are computed one after the other.

    Raises:
        EquimuError: (when called) sizes that do not divide over the mesh or into equal parts.
    """

    def local(
        params: PyTree, batch: PyTree, keys: PyTree, buffers: PyTree, state: PyTree, specs: PyTree, devices: _Devices
    ) -> Any:
        model = shards(apply(params, buffers), specs)
        mine, denominator = task.totals(model, batch, keys=keys, state=mapped_state(state))
        weight = devices.sum(mine)
        if isinstance(denominator, float):
            divisor = jnp.float32(denominator * _row_devices(mesh))
        else:
            divisor = _at_least_one(devices.sum(denominator))
        rows = _rows(batch)
        # Each device's own copy from here on: its gradient stays its own until the one sum at the end. (Left replicated,
        # the copies would be made, kept for the backward pass and summed in every iteration of the scan over the blocks.)
        # Only what is gathered from shards is summed where it is used: its gradient is kept nowhere whole.
        params = vary(params, devices.axes) if devices.typed else params

        def loss(params: PyTree, state: PyTree, part: PyTree, keys: PyTree) -> tuple[Array, tuple[Sums, PyTree]]:
            model = shards(apply(params, buffers), specs)
            sums, state = task.sums(model, part, keys=keys, state=mapped_state(state), training=True)
            objective = sums.objective / divisor
            if sums.auxiliary is not None:
                objective = objective + sums.auxiliary / (rows * _row_devices(mesh))
            return objective, (sums._replace(objective=jnp.float32(0), auxiliary=None), plain_state(state))

        gradient = jax.grad(loss, has_aux=True)
        if accumulate == 1:
            grads, (sums, state) = gradient(params, state, batch, keys)
        else:
            if rows % accumulate != 0:
                raise EquimuError(f"{rows} rows on each device cannot be computed in {accumulate} equal micro-batches")
            parts = jax.tree.map(lambda x: x.reshape(accumulate, rows // accumulate, *x.shape[1:]), (batch, keys))

            def micro_batch(carry: tuple[PyTree, PyTree], part: tuple[PyTree, PyTree]) -> tuple[Any, Sums]:
                total, state = carry
                grads, (sums, state) = gradient(params, state, *part)
                return (add(total, grads), state), sums

            zeros = jax.tree.map(lambda x: vary(jnp.zeros(x.shape, x.dtype), varying_axes(x)), params)
            own_state = vary(state, frozenset(_row_axes(mesh)) if devices.typed else frozenset())
            (grads, state), each = jax.lax.scan(micro_batch, (zeros, own_state), parts)
            sums = jax.tree.map(jnp.sum, each)
        metrics = {
            name: devices.sum(total) / _at_least_one(devices.sum(count))
            for name, (total, count) in sums.metrics.items()
        }
        return Outcome(
            devices.sum(sums.loss) / _at_least_one(weight),
            jax.tree.map(devices.sum, grads, specs),
            metrics,
            jax.tree.map(devices.mean, state),
        )

    def on_mesh(params: PyTree, batch: PyTree, keys: PyTree, buffers: PyTree, state: PyTree) -> Outcome:
        own = partition_specs(params, mesh) if specs is None else specs
        devices = _Devices(params, mesh)
        whole, rows = PartitionSpec(), _batch_spec(mesh)
        outputs: tuple[Any, Any, Any, Any] = (whole, own, whole, whole)
        mapped = jax.shard_map(
            functools.partial(local, specs=own, devices=devices),
            mesh=mesh,
            in_specs=(own, rows, rows, whole, whole),
            out_specs=Outcome(*outputs),
            check_vma=devices.typed,
        )
        return mapped(params, batch, keys, buffers, state)

    return on_mesh


def update(
    state: TrainState,
    outcome: Outcome,
    optimizer: optax.GradientTransformation,
    measure: bool | Bool[Array, ""] = True,
    *,
    skip_nonfinite: bool = False,
    inspect: Callable[[PyTree, PyTree, PyTree, PyTree], PyTree] = lambda *_: None,
) -> tuple[TrainState, StepMetrics]:
    """One update of the state by an optimizer.

    Args:
        state: before the update.
        outcome: of the batch.
        optimizer: what the state's `opt_state` belongs to.
        measure: whether the norms are wanted in this step; they cost a pass over all gradients and updates, and are NaN
            where not.
        skip_nonfinite: whether the state stays as it was where the loss or the gradient's norm is not finite.
        inspect: what else is wanted of a step that is measured: arrays from (params, updates, grads, new optimizer state).
    """
    loss, grads = outcome.loss, outcome.grads
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = eqx.apply_updates(state.params, updates)

    def measured() -> tuple[Array, Array, PyTree]:
        entries = sum(x.size for x in jax.tree.leaves(updates))
        inspected = inspect(state.params, updates, grads, opt_state)
        return optax.tree.norm(grads), optax.tree.norm(updates) / entries**0.5, inspected

    def nothing() -> tuple[Array, Array, PyTree]:
        return jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), jax.eval_shape(measured))

    grad_norm, update_rms, inspected = jax.lax.cond(measure, measured, nothing)
    new = TrainState(params, opt_state, state.step + 1, state.buffers, outcome.state)
    metrics = StepMetrics(loss, grad_norm, update_rms, outcome.metrics, inspected=inspected)
    if not skip_nonfinite:
        return new, metrics
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
    new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
    return new, metrics._replace(updates=new.step)


def evaluation(
    task: Task, apply: Callable[[PyTree, PyTree], PyTree], mesh: Mesh, specs: PyTree = None
) -> Callable[..., Mapping[str, tuple[Float[Array, ""], Float[Array, ""]]]]:
    """The function (params, batch, row_weights, keys, buffers, state) → pairs of a sum and its weight, over all devices.

    By name: `loss`, and the task's own metrics.

    Args:
        task: whose `evaluate` is asked.
        apply: what makes the model of the parameters and the state that is not trained.
        mesh: of the devices.
        specs: partition specs of the parameters; None where each device has all.
    """

    def local(
        params: PyTree,
        batch: PyTree,
        row_weights: Array,
        keys: PyTree,
        buffers: PyTree,
        state: PyTree,
        specs: PyTree,
        devices: _Devices,
    ) -> Mapping[str, tuple[Array, Array]]:
        params = vary(params, devices.axes) if devices.typed else params
        model = shards(apply(params, buffers), specs)
        given = {"keys": keys, "state": mapped_state(state)}
        sums, _ = task.sums(model, batch, **given, row_weights=row_weights, training=False)
        return jax.tree.map(devices.sum, {"loss": (sums.loss, sums.weight), **sums.metrics})

    def on_mesh(
        params: PyTree, batch: PyTree, row_weights: Array, keys: PyTree, buffers: PyTree, state: PyTree
    ) -> Mapping[str, tuple[Array, Array]]:
        own = partition_specs(params, mesh) if specs is None else specs
        devices = _Devices(params, mesh)
        whole, rows = PartitionSpec(), _batch_spec(mesh)
        mapped = jax.shard_map(
            functools.partial(local, specs=own, devices=devices),
            mesh=mesh,
            in_specs=(own, rows, rows, rows, whole, whole),
            out_specs=whole,
            check_vma=devices.typed,
        )
        return mapped(params, batch, row_weights, keys, buffers, state)

    return on_mesh


def _rows(batch: PyTree) -> int:
    return jax.tree.leaves(batch)[0].shape[0]


def _row_axes(mesh: Mesh) -> tuple[str, ...]:
    return tuple(axis for axis in BATCH_AXES if mesh.shape[axis] > 1)


def _row_devices(mesh: Mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def _at_least_one(weight: Array) -> Array:
    """A sum of weights as a divisor: where nothing counts, the sum of what counts is 0 too."""
    return jnp.where(weight > 0, weight, 1)


def _batch_spec(mesh: Mesh) -> PartitionSpec:
    """As a batch lies, less the axes of one device: nothing need be summed along those, and a sum of one is a copy."""
    return PartitionSpec(_row_axes(mesh))


class _Devices:
    """What the devices of a mesh have parts of, and how the parts add up.

    The types of values say over which axes they vary where the model is mesh-aware. JAX has no such types for collectives over
    a `vmap`'s own axis, as BatchNorm has, so any other model is mapped without them: of what it makes, each device that has
    other rows has its own part.

    Args:
        params: of the model.
        mesh: with the axes of `make_mesh`.
    """

    def __init__(self, params: PyTree, mesh: Mesh):
        self.typed = is_mesh_aware(params)
        self._rows = frozenset(_row_axes(mesh))
        # Along these devices do different work.
        self.axes = self._rows | ({TENSOR} if self.typed and mesh.shape[TENSOR] > 1 else set())

    def sum(self, x: Array, spec: PartitionSpec | None = None) -> Array:
        """The sum over the devices that have parts of the sum, and not parts of the array.

        A constant, such as the number of a device's rows, counts on each device that has rows.
        """
        axes = self._apart(x) - set(spec or ())
        return jax.lax.psum(vary(x, axes) if self.typed else x, tuple(sorted(axes))) if axes else x

    def mean(self, x: Array) -> Array:
        """The mean over the devices that have seen different rows; of what is not a float, the largest."""
        axes = tuple(sorted(self._rows))
        if not axes:
            return x
        return jax.lax.pmean(x, axes) if jnp.issubdtype(x.dtype, jnp.inexact) else jax.lax.pmax(x, axes)

    def _apart(self, x: Array) -> frozenset[str]:
        return varying_axes(x) | self._rows if self.typed else self._rows
