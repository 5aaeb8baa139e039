"""The compiled programs of a run: one set serves all runs that differ only in numbers.

Learning rate, decay, length, seed and the numbers of the rules are inputs of the programs, so a sweep over them, and over
parameterizations, compiles once per width.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import sys
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from equimu._errors import printable
from equimu._types import Key, PyTree
from equimu.optim import AdamW, Optimizer
from equimu.parameterization import (
    Tree,
    dotted,
    initial_state,
    initialize,
    is_rule,
    multiplied,
    numbers_of,
    rules_of,
    with_numbers,
)
from equimu.runs import RunConfig, Sizes
from equimu.sharding import make_mesh, partition_specs, state_specs, with_specs
from equimu.tasks import LanguageModel
from equimu.training._flops import model_flops
from equimu.training._functions import Functions, one_step, step_kinds
from equimu.training._lanes import Lanes
from equimu.training._leaf_measures import measure_leaves
from equimu.training._step import StepMetrics, TrainState, evaluation, loss_and_gradient, update
from equimu.training._utilization import peak_of

# The numbers of all rules, in the order of `numbers_of`: one input instead of one for each.
Numbers: TypeAlias = Float[Array, " numbers"]
"""The numbers of all rules of a tree, in the order of `numbers_of`."""


class Hyperparameters(NamedTuple):
    """What differs between runs of one program, apart from the numbers of the rules."""

    learning_rate: Any
    weight_decay: Any
    steps: Any
    warmup: Any
    seed: Any
    optimizer: Mapping[str, Any]
    """Other numbers of the optimizer, by field."""


def hyperparameters_of(config: RunConfig) -> Hyperparameters:
    """The run-time values of a config."""
    optimizer = config.optimizer
    return Hyperparameters(
        learning_rate=jnp.float32(optimizer.learning_rate),
        weight_decay=jnp.float32(optimizer.weight_decay),
        steps=jnp.int32(config.steps),
        warmup=jnp.int32(round(optimizer.warmup * config.steps)),
        seed=jnp.uint32(config.seed),
        optimizer=optimizer.inputs(),
    )


def build_optimizer(optimizer: Optimizer, tree: Tree[Any], hyper: Hyperparameters) -> optax.GradientTransformation:
    """An optimizer of a tree of rules, with these numbers in the place of its own.

    Args:
        optimizer: whose other fields are taken.
        tree: of rules.
        hyper: the numbers, which may be traced.
    """
    return optimizer.with_inputs(hyper.optimizer).build(
        tree,
        learning_rate=hyper.learning_rate,
        weight_decay=hyper.weight_decay,
        steps=hyper.steps,
        warmup=hyper.warmup,
    )


class Program:
    """Compiled initialisation, step and evaluation of all runs that share a program.

    A state is passed as the flat list of its arrays: taking modules apart and putting them together again would cost the
    loop more than a small model's step does.

    Args:
        config: of one of the runs.
        tree: its tree of rules.
        mesh: of their devices.
        lanes: runs that are computed together, vectorised.
    """

    def __init__(self, config: RunConfig, tree: Tree[Any], mesh: Mesh, lanes: int = 1):
        self.mesh: Mesh = mesh
        self._lanes = lanes
        self._config = config
        self._tree = tree
        # The model less its arrays: activation functions and the like.
        self._static = jax.tree.map(lambda leaf: None if is_rule(leaf) else leaf, tree)
        numbers, self._numbers_structure = jax.tree.flatten(numbers_of(tree))
        hyper = hyperparameters_of(config)
        zeros = jnp.zeros(len(numbers))
        state = jax.eval_shape(self._init, zeros, hyper, jax.random.key(0))
        specs = self._specs = partition_specs(tree, mesh)
        of_optimizer = state_specs(self.optimizer(self.rules(zeros), hyper), state.params, specs, mesh)
        whole = jax.tree.map(lambda _: PartitionSpec(), (state.buffers, state.state))
        all_specs = (specs, of_optimizer, PartitionSpec(), *whole)
        self._state_like = jax.tree.leaves(with_specs(tuple(state), all_specs, mesh))
        self._state_structure = jax.tree.structure(state)
        self._compiled: Callable[[], Functions] | None = None
        self._lock = threading.Lock()
        self.step_flops: float | None = None
        """Operations of a step that the mathematics needs, once it is compiled; None where the devices' peak is not known."""

    def compiled(self, batch: PyTree, numbers: Numbers, hyper: Hyperparameters) -> Functions:
        """The compiled functions of one run, for arguments like these. Threads that ask for them together compile them once."""
        return self.ready(batch, numbers, hyper)()

    def ready(self, batch: PyTree, numbers: Numbers, hyper: Hyperparameters) -> Callable[[], Functions]:
        """Compiles, and gives what gives each run its functions."""
        with self._lock:
            if self._compiled is None:
                self._compiled = self._vectorized(batch, numbers, hyper) if self._lanes > 1 else None
            if self._compiled is None:
                functions = self._of_one_run(batch, numbers, hyper)
                self._compiled = lambda: functions
            return self._compiled

    @property
    def functions(self) -> Functions:
        """The functions of one run, before they are compiled."""
        return Functions(self._initial_leaves, self._step, self._evaluate)

    def _of_one_run(self, batch: PyTree, numbers: Numbers, hyper: Hyperparameters) -> Functions:
        state = self.state_like
        # The step takes longest, and begins first.
        traced = [self.traced_step(batch, numbers, hyper, measure) for measure in step_kinds(self.mesh)]
        if peak_of(self.mesh) is not None:
            self.step_flops = model_flops(self._config, self._tree, traced[0].jaxpr)
        steps = [step.lower() for step in traced]
        evaluate = jax.jit(self._evaluate).lower(state, batch, _weights_like(batch), numbers)
        init = jax.jit(self._initial_leaves, out_shardings=[x.sharding for x in state])
        init = init.lower(numbers, hyper, jax.random.key(0))
        lowered = (*steps, evaluate, init)
        with concurrent.futures.ThreadPoolExecutor(len(lowered)) as pool:
            *steps, evaluate, init = pool.map(lambda program: program.compile(), lowered)
        return Functions(init, one_step(steps), evaluate)

    def _vectorized(self, batch: PyTree, numbers: Numbers, hyper: Hyperparameters) -> Callable[[], Functions] | None:
        """None where something in the model cannot be vectorised."""
        weights = jax.device_put(jnp.ones(_rows_of(batch)), _weights_like(batch).sharding)
        examples = (numbers, hyper, jax.random.key(0)), (batch, numbers, hyper), (batch, weights, numbers)
        try:
            return Lanes(self.functions, self.state_like, self.mesh, self._lanes, examples).join
        except Exception as error:  # what is wrong without it, too, will be said again
            reason = printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])
            print(f"equimu: cells are trained one by one, as they cannot be vectorised ({reason})", file=sys.stderr)
            return None

    def _initial_leaves(self, numbers: Numbers, hyper: Hyperparameters, key: Key) -> list[Array]:
        return jax.tree.leaves(self._init(numbers, hyper, key))

    def traced_step(
        self, batch: PyTree, numbers: Numbers, hyper: Hyperparameters, measure: bool | None = None
    ) -> jax.stages.Traced:
        """The step for arguments like these, arrays or their shapes, before it is compiled.

        Args:
            batch, numbers, hyper: the arguments.
            measure: whether it measures its norms; None for an argument more, which says so at each step.
        """
        replicated = NamedSharding(self.mesh, PartitionSpec())
        out_shardings = ([x.sharding for x in self.state_like], replicated)
        step = self._step if measure is None else functools.partial(self._step, measure=measure)
        arguments = (self.state_like, batch, numbers, hyper, *((np.bool_(True),) if measure is None else ()))
        return jax.jit(step, donate_argnums=0, out_shardings=out_shardings).trace(*arguments)

    @property
    def state_like(self) -> list[jax.ShapeDtypeStruct]:
        """Shape, dtype and sharding of each array of a state, in the order of the list that the functions take."""
        return self._state_like

    def state(self, leaves: Sequence[Any]) -> TrainState:
        """A state from its arrays, or from what stands for them."""
        return jax.tree.unflatten(self._state_structure, leaves)

    def rules(self, numbers: Numbers) -> Tree[Any]:
        """The tree of rules with these numbers."""
        return with_numbers(self._tree, jax.tree.unflatten(self._numbers_structure, list(numbers)))

    def optimizer(self, tree: Tree[Any], hyper: Hyperparameters) -> Any:
        """The optimizer of a tree of rules."""
        return build_optimizer(self._config.optimizer, tree, hyper)

    def model(self, tree: Tree[Any], params: PyTree, buffers: PyTree) -> PyTree:
        """The model that is called: with these arrays, or a device's parts of them, each multiplied as its rule says."""
        return multiplied(tree, eqx.combine(params, buffers, self._static))

    def with_weights(
        self, leaves: Sequence[Any], weights: Mapping[str, np.ndarray], numbers: Numbers, hyper: Hyperparameters
    ) -> list[Array]:
        """A state with other weights, by path, and the optimizer's state that belongs to them."""
        state, like = self.state(leaves), self.state(self.state_like)

        def placed(path: Any, old: Array, shape: jax.ShapeDtypeStruct) -> Array:
            new = weights.get(dotted(path))
            if new is None:
                return old
            return jax.make_array_from_callback(
                shape.shape, shape.sharding, lambda index: new[index].astype(shape.dtype)
            )

        params = jax.tree_util.tree_map_with_path(placed, state.params, like.params)
        begin = self.optimizer(self.rules(numbers), hyper).init
        shardings = jax.tree.map(lambda x: x.sharding, like.opt_state)
        return jax.tree.leaves(state._replace(params=params, opt_state=jax.jit(begin, out_shardings=shardings)(params)))

    def _init(self, numbers: Numbers, hyper: Hyperparameters, key: Key) -> TrainState:
        tree = self.rules(numbers)
        params, rest = eqx.partition(initialize(tree, key), eqx.is_inexact_array)
        opt_state = self.optimizer(tree, hyper).init(params)
        return TrainState(params, opt_state, jnp.int32(0), eqx.filter(rest, eqx.is_array), initial_state(tree, key))

    def _step(
        self, leaves: list[Array], batch: PyTree, numbers: Numbers, hyper: Hyperparameters, measure: Any
    ) -> tuple[list[Array], StepMetrics]:
        tree, state = self.rules(numbers), self.state(leaves)
        gradient = loss_and_gradient(
            self._config.task,
            functools.partial(self.model, tree),
            self.mesh,
            self._specs,
            accumulate=self._config.accumulate,
        )
        keys = self._keys(batch, jax.random.fold_in(jax.random.key(hyper.seed), state.step))
        outcome = gradient(state.params, batch, keys, state.buffers, state.state)
        state, metrics = update(
            state,
            outcome,
            self.optimizer(tree, hyper),
            measure,
            skip_nonfinite=self._config.on_nonfinite == "skip",
            inspect=functools.partial(measure_leaves, tree, self._config.optimizer.with_inputs(hyper.optimizer)),
        )
        return jax.tree.leaves(state), metrics

    def _evaluate(
        self, leaves: list[Array], batch: PyTree, row_weights: Array, numbers: Numbers
    ) -> Mapping[str, tuple[Array, Array]]:
        tree, state = self.rules(numbers), self.state(leaves)
        evaluate = evaluation(self._config.task, functools.partial(self.model, tree), self.mesh, self._specs)
        keys = self._keys(batch, jax.random.key(0))
        return evaluate(state.params, batch, row_weights, keys, state.buffers, state.state)

    def _keys(self, batch: PyTree, key: Key) -> PyTree:
        """A key for each row, where the loss takes them."""
        return jax.random.split(key, _rows_of(batch)) if "keys" in self._config.task.loss_takes else None


def _rows_of(batch: PyTree) -> tuple[int, ...]:
    return jax.tree.leaves(batch)[0].shape[:1]


def _weights_like(batch: PyTree) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(_rows_of(batch), jnp.float32, sharding=jax.tree.leaves(batch)[0].sharding)


class Programs:
    """Compiled programs, shared by runs that differ only in the inputs of their program.

    The programs that were asked for last are kept, and all are freed with the object. Threads may share it.
    """

    def __init__(self, most: int = 24, *, lanes: int = 1, device: Any = None):
        """Keeps no program yet.

        Args:
            most: that are kept. A program is some 20 MB in some 900 pieces of memory, of which a process may have 65 530.
            lanes: runs of one program that are computed together, vectorised; they are trained in threads of their own.
            device: of runs that take one device; by default the first.
        """
        self.lanes: int = lanes
        self.device: Any = device
        self._most = most
        self._kept: collections.OrderedDict[Any, Program] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.made: int = 0
        """How many were made in all."""

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Hashable, make: Callable[[], Program]) -> Program:
        """The program of a key, made where there is none yet."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
                self.made += 1
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)  # freed when the runs that use it end
            return self._kept[key]


# Of runs that are given none: a run that follows another of its kind compiles nothing.
_LAST = Programs(most=2)


def program_for(
    config: RunConfig, tree: Tree[Any], mesh: Mesh | None = None, programs: Programs | None = None
) -> tuple[Program, Numbers]:
    """The program of a config, and the numbers of its rules.

    Args:
        config: the run.
        tree: its tree of rules.
        mesh: with the axes of `make_mesh`; one device by default.
        programs: where one is looked for, and kept; by default among the last two.
    """
    mesh = make_mesh() if mesh is None else mesh
    numbers = numbers_of(tree)
    # What of the tree is not among the numbers: the model, and which numbers there are.
    shapes = tuple((rule.path, rule.shape, rule.optimizer, *numbers[rule.path]) for rule in rules_of(tree))
    what = (config.task.program, _inputs_cleared(config), _optimizer_key(config.optimizer))
    key = (*what, shapes, jax.tree.structure(tree), mesh)
    programs = _LAST if programs is None else programs
    program = programs.find(key, lambda: Program(config, tree, mesh, programs.lanes))
    return program, jnp.asarray(jax.tree.leaves(numbers), jnp.float32)


def program_key(config: RunConfig) -> Hashable:
    """What a config says of its program. Runs of one key share a program, unless their tables treat arrays in other ways."""
    return config.task.program, config.size, _inputs_cleared(config), _optimizer_key(config.optimizer)


def _optimizer_key(optimizer: Optimizer) -> Hashable:
    """The optimizer less what is an input of the program. A decay of zero is another program, one without the decay."""
    inputs = {"learning_rate", "warmup", *optimizer.inputs()} | ({"weight_decay"} if optimizer.weight_decay else set())
    fields = [field.name for field in dataclasses.fields(optimizer)]
    return type(optimizer), tuple((name, None if name in inputs else getattr(optimizer, name)) for name in fields)


def _inputs_cleared(config: RunConfig) -> RunConfig:
    """The config less what is an input of its program, or not in it."""
    return dataclasses.replace(
        config,
        optimizer=AdamW(),
        parameterization="mup",
        # Of the task only what is in its program, which the config may not know.
        task=LanguageModel(),
        size=Sizes(),
        base=Sizes(),
        base_rows=None,
        base_steps=None,
        steps=1,
        seed=0,
        restore_from=None,
        # Stopping and recording are the loop's.
        on_nonfinite="skip" if config.on_nonfinite == "skip" else "stop",
        # When to log and what to validate on, too.
        log_every=1,
        validation_batches=None,
    )
