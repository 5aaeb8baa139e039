"""A task of functions, for notebooks and scripts."""

import dataclasses
from collections.abc import Callable
from typing import Any

from equimu._types import PyTree
from equimu._values import check, check_function
from equimu.data import Data
from equimu.tasks._fields import execution
from equimu.tasks._losses import LossLike
from equimu.tasks._task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionTask(Task):
    """A task of functions; see `task`."""

    name: str
    functions: dict[str, Callable[..., Any]] = execution(None)
    batches: Data = execution(None)

    def __hash__(self) -> int:
        return hash((self.name, *self.functions.values(), self.batches))

    @property
    def make(self) -> Callable[..., Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The function that was given."""
        return self.functions["make"]

    @property
    def loss(self) -> Callable[..., LossLike]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The function that was given."""
        return self.functions["loss"]

    def data(self) -> Data:
        """The data that was given."""
        return self.batches

    def evaluate(self, model: PyTree, batch: Any, **given: Any) -> LossLike:
        """The function that was given, or the loss."""
        return self.functions.get("evaluate", self.loss)(model, batch, **given)

    def trained(self, model: PyTree) -> PyTree:
        """The function that was given, or all."""
        return self.functions["trained"](model) if "trained" in self.functions else True


def task(
    *,
    name: str,
    make: Callable[..., Any],
    data: Data,
    loss: Callable[..., LossLike],
    evaluate: Callable[..., LossLike] | None = None,
    trained: Callable[[Any], PyTree] | None = None,
) -> Task:
    """A task without a class.

    Args:
        name: part of what a run is: other functions under the same name would be taken for the same run.
        make: the model's constructor; called as `make(**sizes, key=key)`.
        data: where batches come from.
        loss: of a model and a batch; see `Task.loss`.
        evaluate: what validation reports; the loss by default.
        trained: from a model to a filter spec of what is trained; all by default.

    Returns:
        The task.

    Raises:
        EquimuError: what should be a function is none.
    """
    check(str, name=name)
    check(Data, data=data)
    functions = {"make": make, "loss": loss} | {
        key: function for key, function in (("evaluate", evaluate), ("trained", trained)) if function is not None
    }
    for key, function in functions.items():
        check_function(key, function, "see equimu.Task")
    return FunctionTask(name=name, functions=functions, batches=data)
