"""What a run asks the devices for."""

from collections.abc import Callable
from typing import Any, NamedTuple


class StepPair(NamedTuple):
    """A compiled step that measures its norms, and one that does not; called with `measure` as a single one is."""

    measured: Any
    plain: Any

    def __call__(self, *arguments: Any) -> Any:
        """(state, batch, numbers, hyperparameters, measure) → (state, metrics)."""
        *rest, measure = arguments
        return (self.measured if measure else self.plain)(*rest)

    def memory_analysis(self) -> Any:
        """That of the step that measures, which needs more."""
        return self.measured.memory_analysis()


class Functions(NamedTuple):
    """The functions of a program, to be traced or compiled.

    - `init`: (numbers, hyperparameters, key) → state.
    - `step`: (state, batch, numbers, hyperparameters, measure) → (state, metrics); compiled, it consumes the state.
    - `evaluate`: (state, batch, row weights, numbers) → pairs of a sum and its weight, of the loss and of each metric.
    - `leave`: says that the run asks for nothing more.
    """

    init: Callable[..., Any]
    step: Callable[..., Any]
    evaluate: Callable[..., Any]
    leave: Callable[[], None] = lambda: None
