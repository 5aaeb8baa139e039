"""What a run asks the devices for."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh


class StepPair(NamedTuple):
    """A compiled step that measures its norms, and one that does not; called as a single one is, with `measure` last."""

    measured: Any
    plain: Any

    def __call__(self, *arguments: Any) -> Any:
        """That step which `measure`, the last argument, asks for."""
        *rest, measure = arguments
        return (self.measured if measure else self.plain)(*rest)

    def memory_analysis(self) -> Any:
        """That of the step that measures, which needs more."""
        return self.measured.memory_analysis()


def step_kinds(mesh: Mesh) -> tuple[bool | None, ...]:
    """Of each step to compile, whether it measures its norms; None for one step that is told so by its last argument.

    There are two where the compiler makes a selection of a condition one of whose branches is constants, as XLA does for
    GPUs. One step would then measure its norms each time, only to throw them away: at a width of 2048 a tenth of all that
    moves through memory outside of the matrix products (`benchmarks.gpu_program`).
    """
    return (True, False) if mesh.devices.flat[0].platform in ("gpu", "cuda", "rocm") else (None,)


def one_step(compiled: Sequence[Any]) -> Any:
    """What is called for the steps that `step_kinds` asks for, compiled, in their order."""
    return compiled[0] if len(compiled) == 1 else StepPair(*compiled)


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
