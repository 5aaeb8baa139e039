"""`Task`: what is trained. A constructor, data and a loss, from which everything else follows."""

import abc
import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from equimu._errors import EquimuError, nearest
from equimu._types import PyTree
from equimu._values import Size, check
from equimu.data import Data
from equimu.sharding import gather_shards
from equimu.tasks._losses import LossLike, Sums, as_losses, summed


class Task(abc.ABC):
    """What is trained: a constructor of models of any size, data, and a loss.

    Subclass it as a frozen dataclass: its fields are flags of the command line and part of what a run is.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class NextByte(mu.Task):
        ...     seq: int = 64
        ...
        ...     def make(self, width: int = 128, *, key):
        ...         return Gru(width, key=key)
        ...
        ...     def data(self):
        ...         return mu.data.text("stdlib", seq=self.seq, rows=16)
        ...
        ...     def loss(self, model, batch):
        ...         logits = jax.vmap(model)(batch.inputs)
        ...         return optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets), batch.mask
    """

    @abc.abstractmethod
    def make(self, *args: Any, **kwargs: Any) -> Any:
        """A model. The arguments, all named, are its sizes, whole numbers with or without a default, and `key`.

        Which sizes are widths and which depths is found by tracing.
        """

    @abc.abstractmethod
    def data(self) -> Data:
        """Where batches come from: `equimu.data.text`, `arrays`, `source`, or a `Data` of one's own."""

    @abc.abstractmethod
    def loss(self, *args: Any, **kwargs: Any) -> LossLike:
        """The losses of the rows of a batch: `loss(self, model, batch)`, an array of shape (rows, ...).

        Or a pair of these and of weights, or `Losses`. The mean over rows, micro-batches, devices and processes is taken by
        the library. Two more arguments are given to a loss that has them:

        - `keys`: a random key for each row, a function of the run's seed, the step and the row (dropout). Models are in
          inference mode in evaluations.
        - `state`: the model's `eqx.nn.State` (BatchNorm); the loss then gives `Losses(..., state=new_state)`. What a norm
          computes over the batch it computes over the rows of one device and micro-batch.
        """

    def evaluate(self, model: PyTree, batch: Any, **given: Any) -> LossLike:
        """The losses that validation reports; those of `loss` by default, by the model in inference mode."""
        return self.loss(model, batch, **given)

    def trained(self, model: PyTree) -> PyTree:
        """Which arrays are trained: a filter spec, as `eqx.partition` takes it. All of them by default."""
        return True

    # What follows is for tasks that know more of their model than its loss: `LanguageModel` is one.

    def sums(
        self, model: PyTree, batch: Any, *, keys: Any = None, state: Any = None, row_weights: Any = None, training: bool
    ) -> tuple[Sums, Any]:
        """Sums of the losses of some rows, and the model's state after them.

        Args:
            model: with a `Shard` in place of each array that devices share.
            batch: the rows of one device and micro-batch.
            keys: one for each row.
            state: of the model.
            row_weights: 0 for rows that fill up a batch.
            training: or evaluation.

        Raises:
            EquimuError: what the loss gave is none, or it takes a state and gives none back.
        """
        model = gather_shards(model)
        given = {name: value for name, value in (("keys", keys), ("state", state)) if name in self.loss_takes}
        if not training:
            model = eqx.nn.inference_mode(model)
        where = f"{type(self).__name__}.{'loss' if training else 'evaluate'}"
        losses = as_losses((self.loss if training else self.evaluate)(model, batch, **given), where)
        if training and "state" in given and losses.state is None:
            raise EquimuError(
                f"{where} takes the model's state and gives none back; give equimu.Losses(..., state=state)"
            )
        return summed(losses, row_weights, where), losses.state

    def totals(self, model: PyTree, batch: Any, *, keys: Any = None, state: Any = None) -> tuple[Any, Any]:
        """The sum of the weights of some rows, and what the objective is divided by: the same, or a number for each device.

        By default the loss is traced for it; the compiled program has nothing of that but the weights.
        """
        weight = self.sums(model, batch, keys=keys, state=state, training=True)[0].weight
        return weight, weight

    def batch_like(self) -> PyTree:
        """The shapes of a batch, as `jax.ShapeDtypeStruct`s; by default those of the first batch of the data."""
        batch = self.data().training(0).batch(0)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)

    def units(self) -> tuple[str, int]:
        """What logs count, and how many of it a row has."""
        data = self.data()
        return data.unit, data.units_per_row

    @property
    def program(self) -> Hashable:
        """What of the task is part of the compiled program; fields that only say what the data is may be left out."""
        return self

    @functools.cached_property
    def loss_takes(self) -> frozenset[str]:
        """Which of `keys` and `state` the loss takes.

        Raises:
            EquimuError: it has another signature.
        """
        return _extras(self.loss, type(self).__name__)

    @functools.cached_property
    def sizes(self) -> Mapping[str, int | None]:
        """The names of the model's sizes, with their defaults.

        Raises:
            EquimuError: `make` has no size, or takes no key.
        """
        return _sizes_of(self.make, type(self).__name__)

    def complete(self, size: Mapping[str, int], what: str = "size") -> dict[str, int]:
        """All sizes, those left out at their defaults.

        Raises:
            EquimuError: an unknown name, a size that is left out and has no default, or one that is not a whole number.
        """
        for name in size:
            if name not in self.sizes:
                raise EquimuError(
                    f"{what} names {name!r}, which {_name(self)}.make does not have: {nearest(name, self.sizes)}"
                )
        found: dict[str, int] = {}
        for name, default in self.sizes.items():
            value = size.get(name, default)
            if value is None:
                raise EquimuError(f"{_name(self)} needs {what}.{name}; {_name(self)}.make has no default for it")
            check(Size, **{f"{what}.{name}": value})
            found[name] = int(value)
        return found


def _name(task: Task) -> str:
    return type(task).__name__


def _extras(loss: Callable[..., Any], name: str) -> frozenset[str]:
    parameters = list(inspect.signature(loss).parameters.values())
    more = [parameter.name for parameter in parameters[2:]]
    if len(parameters) < 2 or not set(more) <= {"keys", "state"}:
        given = ", ".join(parameter.name for parameter in parameters)
        raise EquimuError(
            f"{name}.loss takes a model and a batch, and of its own choice keys and state: loss(self, model, batch, *, keys, "
            f"state); got ({given})"
        )
    return frozenset(more)


def _sizes_of(make: Callable[..., Any], name: str) -> dict[str, int | None]:
    parameters = inspect.signature(make).parameters
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    if "key" not in parameters or any(parameter.kind in kinds for parameter in parameters.values()):
        raise EquimuError(f"{name}.make takes sizes by name and a key, e.g. make(self, width: int = 128, *, key)")
    sizes = {
        each.name: None if each.default is inspect.Parameter.empty else each.default
        for each in parameters.values()
        if each.name != "key"
    }
    if not sizes:
        raise EquimuError(
            f"{name}.make has no size, so there is nothing to scale; e.g. make(self, width: int = 128, *, key)"
        )
    return sizes


def mean_loss(task: Task, model: PyTree, batch: Any, *, state: Any = None) -> Array:
    """The loss that is differentiated, of a model that no devices share, as a scalar.

    Args:
        task: whose loss it is.
        model: with its multipliers applied.
        batch: of the task's data.
        state: of the model.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    given = {"keys": jax.random.split(jax.random.key(0), rows), "state": state}
    where = f"{type(task).__name__}.loss"
    losses = as_losses(task.loss(model, batch, **{name: given[name] for name in task.loss_takes}), where)
    sums = summed(losses, None, where)
    loss = sums.objective / jnp.where(sums.weight > 0, sums.weight, 1)
    return loss if sums.auxiliary is None else loss + sums.auxiliary / rows
