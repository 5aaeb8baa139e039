"""The compiled program of one run, with the run's own inputs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsFloat

import jax
import numpy as np
from jaxtyping import Array

from equimu._types import PyTree
from equimu._values import Real
from equimu.data import Data, ValidationBatches
from equimu.runs import RunConfig
from equimu.sharding import make_mesh, place_batch, rows_of_process
from equimu.training._build import build_tree
from equimu.training._functions import Functions
from equimu.training._program import Programs, hyperparameters_of, program_for
from equimu.training._runtime import RuntimeConfig
from equimu.training._step import StepMetrics
from equimu.training._utilization import peak_of


class BoundProgram:
    """What a run computes with: a program that runs share, compiled, and the numbers and batches that are this run's.

    A context: what computes several runs together waits for this one while it is entered.

    Args:
        config: the run.
        runtime: its devices.
        data: of its task.
        programs: compiled programs that runs share; None for those of the last runs.

    Attributes:
        mesh: of its devices.
        tree: its tree of rules.
        program: what is compiled.

    Raises:
        EquimuError: whatever is wrong with the config's sizes, its data or its devices.
    """

    def __init__(self, config: RunConfig, runtime: RuntimeConfig, data: Data, programs: Programs | None):
        device = None if programs is None else programs.device
        devices = None if device is None else [device]
        self.mesh = make_mesh(runtime.data, runtime.fsdp, runtime.tensor, devices=devices)
        self._rows = rows_of_process(self.mesh, data.rows)
        self._rows_of_batch = data.rows
        self.tree = build_tree(config, data.rows)
        self._seed, self._loader = config.seed, data.training(config.seed)
        self.program, self._numbers = program_for(config, self.tree, self.mesh, programs)
        self._hyper = hyperparameters_of(config)
        batch = self._place(self._loader.batch(0, self._rows))
        self._join = self.program.ready(batch, self._numbers, self._hyper)
        self._functions: Functions | None = None

    def __enter__(self) -> "BoundProgram":
        self._functions = self._join()
        return self

    def __exit__(self, *_: object) -> None:
        self._call.leave()

    @property
    def _call(self) -> Functions:
        assert self._functions is not None, "the program is used before it is entered"
        return self._functions

    def init(self) -> Sequence[Array]:
        """The state that the run begins with."""
        return self._call.init(self._numbers, self._hyper, jax.random.key(self._seed))

    @property
    def peak_steps_per_second(self) -> Real | None:
        """Steps a second if the devices did the mathematics at their peak; None where one of these is not known."""
        peak, flops = peak_of(self.mesh), self.program.step_flops
        return None if peak is None or not flops else peak / flops

    def begin_with(self, weights: Mapping[str, np.ndarray]) -> Sequence[Array]:
        """The state that the run begins with, with other weights.

        Args:
            weights: arrays of the model by path, before their multipliers are applied; of the others, the run's own.
        """
        return self.program.with_weights(self.init(), weights, self._numbers, self._hyper)

    def batches(self, first: int) -> Iterator[PyTree]:
        """Its batches from a step on, which counts from 0, on the devices."""
        return map(self._place, self._loader.iterate(first, self._rows))

    def step(self, state: Sequence[Array], batch: PyTree, measure: bool) -> tuple[Sequence[Array], StepMetrics]:
        """One step, which consumes the state; `measure` as of `update`."""
        return self._call.step(state, batch, self._numbers, self._hyper, np.bool_(measure))

    def evaluate(
        self, state: Sequence[Array], batches: ValidationBatches, number: int
    ) -> Mapping[str, tuple[SupportsFloat, SupportsFloat]]:
        """Pairs of a sum and its weight over one batch, of the loss and of each metric of the task."""
        batch, weights = batches.batch(number, self._rows), batches.weights(number, self._rows)
        placed: Any = self._place((batch, weights))
        return self._call.evaluate(state, *placed, self._numbers)

    def _place(self, batch: PyTree) -> PyTree:
        return place_batch(batch, self.mesh, self._rows, self._rows_of_batch)
