"""Next-token cross-entropy: over a vocabulary that devices share, and in chunks of tokens."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu._values import Real
from equimu._varying import vary, varying_axes
from equimu.data import Batch, PackedBatch
from equimu.sharding import TENSOR, gather_shards, is_mesh_aware, own_positions, tensor_parallel_size

# Logits that are in memory at once, unless a chunk is given: 128 MiB of float32.
MOST_LOGITS = 2**25

# The sum that is differentiated, and the cross-entropy in it, of the positions that count.
Sums: TypeAlias = tuple[Float[Array, ""], Float[Array, ""]]


def summed_losses(model: Any, batch: Batch | PackedBatch, *, z_loss: Real = 0.0, chunk: int | None = None) -> Sums:
    """The summed loss of a batch, and the cross-entropy in it, in nats.

    A mesh-aware model, which tells its logits' features from their readout, has its logits made in chunks of tokens where
    they are many, so that they are never whole in memory; each chunk's gradient is made with its loss.

    Args:
        model: from tokens, and segment ids of a `PackedBatch`, to logits; called on one row at a time, under `jax.vmap`.
        batch: the rows of this device.
        z_loss: adds z_loss · log²Z to the loss of each position, Z being the sum of exp(logits). (PaLM, arXiv 2204.02311.)
        chunk: positions whose logits are made at once; by default as many as make `MOST_LOGITS`.
    """
    targets, mask = jnp.asarray(batch.targets), jnp.asarray(batch.mask)
    if not is_mesh_aware(model):
        return _sums(over_rows(gather_shards(model), batch), targets, mask, z_loss=z_loss)
    x = over_rows(model.features, batch)
    n = tensor_parallel_size(x)
    if x.shape[1] < targets.shape[1]:
        targets, mask = (jax.vmap(functools.partial(own_positions, n=n))(a) for a in (targets, mask))
    axis = TENSOR if n > 1 and model.vocab_size % n == 0 else None
    tokens = (x.reshape(-1, x.shape[-1]), targets.reshape(-1), mask.reshape(-1))
    arrays, static = eqx.partition(model.readout(), eqx.is_inexact_array)

    def sums(arrays: PyTree, x: Array, targets: Array, mask: Array) -> Sums:
        return _sums(eqx.combine(arrays, static)(x), targets, mask, z_loss=z_loss, axis=axis)

    most = chunk or max(1, MOST_LOGITS * (n if axis else 1) // model.vocab_size)
    parts = math.ceil(targets.size / most)
    if parts == 1:
        return sums(arrays, *tokens)
    return _in_chunks(sums, vary(arrays, varying_axes(x)), *(_cut(a, parts) for a in tokens))


def over_rows(function: Callable[..., Array], batch: Batch | PackedBatch) -> Float[Array, "rows ..."]:
    """What a function makes of each row: of its tokens, and of its segment ids if it has any.

    Raises:
        EquimuError: rows have segment ids, and the function does not take them.
    """
    if not isinstance(batch, PackedBatch):
        return jax.vmap(function)(jnp.asarray(batch.inputs))
    try:
        inspect.signature(function).bind(0, 0)
    except TypeError:
        raise EquimuError(
            'windows="packed" needs a model that is called as model(tokens, segment_ids), as nn.Transformer is; '
            'this one takes tokens alone: write windows="concatenate" or "document"'
        ) from None
    return jax.vmap(function)(jnp.asarray(batch.inputs), jnp.asarray(batch.segment_ids))


def cross_entropy_sum(
    logits: Float[Array, "*batch seq vocab"],
    targets: Int[Array, "*batch seq"],
    mask: Float[Array, "*batch seq"],
) -> Float[Array, ""]:
    """The sum of -log p(target) over the positions where the mask is 1, in nats, in the logits' dtype.

    Args:
        logits: scores, float32 or better.
        targets: the right token of each position.
        mask: 1 where a target counts, else 0.
    """
    return _sums(logits, targets, mask)[1]


def _sums(logits: Array, targets: Array, mask: Array, *, z_loss: Real = 0.0, axis: str | None = None) -> Sums:
    """The sums over logits of the whole vocabulary, or of the device's share where devices along a mesh axis share it."""
    if axis is None:
        log_z = jax.nn.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    else:
        peak = jax.lax.pmax(jax.lax.stop_gradient(jnp.max(logits, axis=-1)), axis)
        log_z = peak + jnp.log(jax.lax.psum(jnp.sum(jnp.exp(logits - peak[..., None]), axis=-1), axis))
        local = targets - logits.shape[-1] * jax.lax.axis_index(axis)
        known = (local >= 0) & (local < logits.shape[-1])
        mine = jnp.take_along_axis(logits, jnp.where(known, local, 0)[..., None], axis=-1)[..., 0]
        picked = jax.lax.psum(jnp.where(known, mine, 0), axis)
    mask = mask.astype(logits.dtype)
    cross_entropy = jnp.sum(mask * (log_z - picked))
    # Zero is a Python number where there is no z-loss: the program then has nothing of it.
    return (cross_entropy + z_loss * jnp.sum(mask * log_z**2) if z_loss else cross_entropy), cross_entropy


def _cut(x: Array, parts: int) -> Array:
    """Tokens in equal parts, filled up with zeros: a mask of zero counts nothing."""
    size = math.ceil(x.shape[0] / parts)
    filled = jnp.pad(x, [(0, parts * size - x.shape[0]), *[(0, 0)] * (x.ndim - 1)])
    return filled.reshape(parts, size, *x.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_chunks(sums: Callable[..., Sums], arrays: PyTree, x: Array, targets: Array, mask: Array) -> Sums:
    """`sums` over all chunks, one after the other.

    Differentiated, it makes the gradient of each chunk together with its loss, while its logits are there: one product less
    than making them again in the backward pass. The gradient of the arrays adds up in float32 or better.
    """
    each = jax.lax.map(lambda chunk: sums(arrays, *chunk), (x, targets, mask))
    return jax.tree.map(jnp.sum, each)


def _in_chunks_forward(sums: Callable[..., Sums], arrays: PyTree, x: Array, targets: Array, mask: Array) -> Any:
    def add(total: PyTree, chunk: tuple[Array, Array, Array]) -> tuple[PyTree, tuple[Sums, Array]]:
        value, (slope, x_slope) = jax.value_and_grad(sums, argnums=(0, 1), has_aux=True)(arrays, *chunk)
        return jax.tree.map(lambda t, s: t + s.astype(t.dtype), total, slope), (value, x_slope)

    def zeros(w: Array) -> Array:
        return vary(jnp.zeros(w.shape, jnp.promote_types(w.dtype, jnp.float32)), varying_axes(w))

    slope, (each, x_slope) = jax.lax.scan(add, jax.tree.map(zeros, arrays), (x, targets, mask))
    slope = jax.tree.map(lambda s, w: s.astype(w.dtype), slope, arrays)
    return jax.tree.map(jnp.sum, each), (slope, x_slope)


def _in_chunks_backward(sums: Callable[..., Sums], slopes: tuple[PyTree, Array], given: Sums) -> Any:
    del sums
    # The cross-entropy beside the objective is there to be looked at.
    slope, x_slope = jax.tree.map(lambda s: (s * given[0]).astype(s.dtype), slopes)
    return slope, x_slope, None, None


_in_chunks.defvjp(_in_chunks_forward, _in_chunks_backward)
