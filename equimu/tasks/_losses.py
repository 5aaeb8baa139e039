"""What a task's loss gives for some rows, and the sums that rows, micro-batches and devices add up to."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu._values import Real, shown


class Losses(NamedTuple):
    """The loss of the rows of a batch, with what else a task has to say of them.

    - `values`: of shape (rows, ...): one loss for each row, or for each position of each row.
    - `weights`: by how much each value counts, of a shape that broadcasts to that of `values`; None where all count alike.
    - `auxiliary`: a scalar that is added to the loss that is differentiated (a router's balance, a penalty), as a mean over
      rows. It is not part of the loss that is reported.
    - `metrics`: further numbers to report, by name, of the shape of `values` or of (rows,); means are taken with the weights,
      or over rows.
    - `state`: the model's `eqx.nn.State` after these rows, for a loss that takes `state`.
    """

    values: Float[Array, "rows ..."]
    weights: Float[Array, "..."] | None = None
    auxiliary: Float[Array, ""] | Real = 0.0
    metrics: Mapping[str, Float[Array, "rows ..."]] = {}
    state: Any = None


LossLike: TypeAlias = "Losses | tuple[Any, Any] | Any"


class Sums(NamedTuple):
    """Sums over rows, which add up over micro-batches and devices.

    - `objective`: what is differentiated, still to be divided by the sum of weights of all rows.
    - `loss`, `weight`: the weighted sum of the values, and of the weights.
    - `auxiliary`: times the rows; None where the task has none.
    - `metrics`: by name, pairs of a weighted sum and of its weights.
    """

    objective: Float[Array, ""]
    loss: Float[Array, ""]
    weight: Float[Array, ""]
    auxiliary: Float[Array, ""] | None = None
    metrics: Mapping[str, tuple[Array, Array]] = {}


def as_losses(given: LossLike, where: str) -> Losses:
    """What a loss function gave, in full.

    Args:
        given: the values; a pair of values and weights; or `Losses`.
        where: the function, for messages.

    Raises:
        EquimuError: it is neither, or the values are a scalar.
    """
    if not isinstance(given, Losses):
        pair: Any = given if isinstance(given, tuple) and len(given) == 2 else (given,)
        given = Losses(*pair)
    values: Any = given.values
    if not isinstance(values, jax.Array) or not jnp.issubdtype(values.dtype, jnp.floating):
        raise EquimuError(
            f"{where} gives the losses of the rows, an array of floats, a pair of it and weights, or equimu.Losses; "
            f"got {shown(values)}"
        )
    if values.ndim == 0:
        raise EquimuError(
            f"{where} gives a scalar; give one loss for each row (do not take the mean: the library does, over devices and "
            "micro-batches too)"
        )
    return given


def summed(losses: Losses, row_weights: Float[Array, " rows"] | None, where: str) -> Sums:
    """The sums of the losses of some rows.

    Args:
        losses: of the rows.
        row_weights: 1 for rows that count, 0 for those that fill up a batch; None where all count.
        where: the loss function, for messages.

    Raises:
        EquimuError: weights or metrics that do not fit the values.
    """
    values = losses.values
    rows = (values.shape[0],) + (1,) * (values.ndim - 1)
    weights = _broadcast(1.0 if losses.weights is None else losses.weights, values, f"the weights of {where}")
    if row_weights is not None:
        weights = weights * row_weights.reshape(rows)
    # A value that does not count may be anything, infinite too.
    counted = jnp.where(weights != 0, values, 0) * weights
    loss = jnp.sum(counted)
    metrics: dict[str, tuple[Array, Array]] = {}
    for name, metric in losses.metrics.items():
        metric = jnp.asarray(metric, jnp.float32)
        per_row = metric.ndim == 1 and values.ndim > 1
        own = (jnp.ones(values.shape[:1]) if row_weights is None else row_weights) if per_row else weights
        metric = metric if per_row else _broadcast(metric, values, f"metric {name!r} of {where}")
        metrics[name] = (jnp.sum(jnp.where(own != 0, metric, 0) * own), jnp.sum(own))
    auxiliary = losses.auxiliary
    none = isinstance(auxiliary, float | int) and auxiliary == 0
    return Sums(loss, loss, jnp.sum(weights), None if none else jnp.asarray(auxiliary) * values.shape[0], metrics)


def _broadcast(x: Any, values: Array, what: str) -> Array:
    try:
        return jnp.broadcast_to(jnp.asarray(x, values.dtype), values.shape)
    except ValueError:
        raise EquimuError(f"{what} are of shape {jnp.shape(x)}, and the values of {values.shape}") from None


def add(sums: PyTree, more: PyTree) -> PyTree:
    """The sums of two sets of rows.

    Args:
        sums: of some rows.
        more: of others.
    """
    return jax.tree.map(jnp.add, sums, more)
