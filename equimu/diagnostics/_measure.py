"""The experiment of a coordinate check: a few steps of training at one size, with every site and every leaf measured.

The numbers of the rules are inputs of the compiled programs, so that one compilation serves all parameterizations and all seeds
of one model, optimizer and size. What is compiled is the step and the recording forward pass alone: draws and statistics would
be most of the time to compile, and are hardly any to compute.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from equimu._errors import EquimuError
from equimu._types import PyTree, is_array_or_shape
from equimu.diagnostics._about import About
from equimu.diagnostics._record import record_all
from equimu.diagnostics._statistics import (
    Statistics,
    each_of,
    each_rms,
    layered,
    of_leaf,
    of_site,
    over_steps,
    wide,
    with_layers,
)
from equimu.optim import as_transformation
from equimu.parameterization import (
    NUMBERS,
    Rule,
    Tree,
    Use,
    initial_state,
    initialize,
    is_rule,
    rules_of,
    uses_in,
    with_numbers,
)

Loss: TypeAlias = Callable[..., Any]
MakeOptimizer: TypeAlias = Callable[[Tree[Any]], optax.GradientTransformation]
Forward: TypeAlias = Callable[[PyTree, PyTree], PyTree]

# These programs run for a moment: optimizing their code for several times that would be in vain.
_COMPILER_OPTIONS = {"xla_backend_optimization_level": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured at one size. Axes: seed, step, site or leaf; steps count from 0 (the start) or from 1 (updates).

    - `sites`: shapes of what is put out, by name, in the order of execution; `about`: what else is known of each. Of a stack
      that is scanned over, each layer is a site after that of the whole.
    - `uses`: how the model uses its arrays, by path; `last`: the arrays that make the outcome.
    - `output`, `output_abs`: root mean square and mean absolute value of each site, from step 0.
    - `change`, `change_abs`: the same of its difference from step 0; zero at step 0.
    - `leaves`: paths, in the order of the tree's rules.
    - `weight`: root mean square of each leaf as the forward pass uses it, seed and leaf only; `stored` of the leaf itself.
    - `update`: of the update without decay, as the forward pass sees it, over the entries that have a gradient.
    - `flatness`: root mean square over largest entry of the same, 1 where all entries move alike (the first step of Adam).
    - `decay`: by what share of itself a leaf shrinks in a step; NaN where no such share is seen.
    - `gradient`: root mean square, over the entries that have one.
    - `loss`: of the batch of each step, seed and step only.
    """

    sites: dict[str, tuple[int, ...]]
    about: dict[str, About]
    uses: dict[str, tuple[Use, ...]]
    last: frozenset[str]
    leaves: tuple[str, ...]
    output: np.ndarray
    output_abs: np.ndarray
    change: np.ndarray
    change_abs: np.ndarray
    weight: np.ndarray
    stored: np.ndarray
    update: np.ndarray
    flatness: np.ndarray
    decay: np.ndarray
    gradient: np.ndarray
    loss: np.ndarray


class _Step(NamedTuple):
    """What a step makes. Lists have an array a leaf: as stored, its gradient, and what the forward pass uses of it.

    - `update`, `undecayed`: by how much the leaf changes, and would if the weights were zero.
    - `used`, `used_after`, `used_undecayed`: forward weights before the step, behind it, and after the undecayed one.
    """

    params: PyTree
    state: Any
    loss: Array
    stored: list[Array]
    gradient: list[Array]
    update: list[Array]
    undecayed: list[Array]
    used: list[Array]
    used_after: list[Array]
    used_undecayed: list[Array]


class _Programs(NamedTuple):
    """Compiled, for trees of rules that differ in their numbers only; `traced` is filled when `outputs` is traced."""

    init: Callable[[Any, PyTree], Any]
    step: Callable[[Any, PyTree, Any, Any], _Step]
    outputs: Callable[[Any, PyTree, Any], list[Array]]
    traced: "_Traced"


@dataclasses.dataclass
class _Traced:
    """What is known once the recording forward pass is traced."""

    sites: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict[str, tuple[int, ...]])
    about: dict[str, About] = dataclasses.field(default_factory=dict[str, About])
    uses: dict[str, tuple[Use, ...]] = dataclasses.field(default_factory=dict[str, tuple[Use, ...]])
    last: frozenset[str] = frozenset()


class Experiment:
    """The training that is measured, of one model, loss and optimizer."""

    def __init__(self, *, loss: Loss, batches: Sequence[Any], optimizer: MakeOptimizer, steps: int, forward: Forward):
        """
        Args:
            loss: of the model that the forward pass uses, and a batch; a scalar. One with an argument `state` is given the
                `eqx.nn.State` that the model starts with.
            batches: used in turn. Sites are recorded on the first.
            optimizer: from a tree of rules.
            steps: updates.
            forward: from a tree and a model to what the loss is given; `equimu.scaled`.
        """
        self._loss = loss
        self._has_state = "state" in inspect.signature(loss).parameters
        self._optimizer = optimizer
        self._forward = forward
        self._batches = [batches[step % len(batches)] for step in range(steps)]
        self._programs: dict[Any, _Programs] = {}

    def measure(self, tree: Tree[Any], seeds: Sequence[int]) -> Measured:
        """Trains from each seed, and measures."""
        programs, numbers = self._program(tree)
        runs = [self._run(programs, numbers, initialize(tree, jax.random.key(seed))) for seed in seeds]
        sites, about = with_layers(programs.traced.sites, programs.traced.about)
        return Measured(
            sites=sites,
            about=about,
            uses=programs.traced.uses,
            last=programs.traced.last,
            leaves=tuple(rule.path for rule in rules_of(tree)),
            **{name: np.stack([run[name] for run in runs]) for name in runs[0]},
        )

    def reached(self, tree: Tree[Any]) -> list[bool]:
        """Of each leaf, whether the loss depends on it at all: at a point that is not a special one, unlike a start at zero."""
        programs, numbers = self._program(tree)
        model = initialize(tree, jax.random.key(0))
        params = eqx.filter(model, eqx.is_array)
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        moved = [
            x + 0.1 * jax.random.normal(key, x.shape, x.dtype) if eqx.is_inexact_array(x) else x
            for x, key in zip(leaves, keys, strict=True)
        ]
        params = jax.tree.unflatten(structure, moved)
        state = programs.init(numbers, params)
        found = np.zeros(len(rules_of(tree)), bool)
        for batch in self._batches:
            found |= [bool(np.any(wide(x) != 0)) for x in programs.step(numbers, params, state, batch).gradient]
        return [bool(one) for one in found]

    def _program(self, tree: Tree[Any]) -> tuple[_Programs, Any]:
        rules = rules_of(tree)
        # What a program is made for: everything of the rules but their numbers. Flags that choose code are among it.
        bare = dict.fromkeys(NUMBERS, 0.0)
        key = tuple((dataclasses.replace(r, **bare, init_mean=None), *_numbers(r)) for r in rules)
        if key not in self._programs:
            self._programs[key] = self._compiled(tree)
        return self._programs[key], {rule.path: _numbers(rule) for rule in rules}

    def _run(self, programs: _Programs, numbers: Any, model: PyTree) -> Statistics:
        params = eqx.filter(model, eqx.is_array)
        probe = self._batches[0]
        state = programs.init(numbers, params)
        start = programs.outputs(numbers, params, probe)
        if not start:
            raise EquimuError(
                "the loss calls no module of the model it is given, so there is nothing to check; let it call the model"
            )
        about = list(programs.traced.about.values())
        start = layered(start, about)
        sites, leaves = [each_of(of_site, start, start)], []
        losses: list[float] = []
        first: dict[str, np.ndarray] = {}
        for batch in self._batches:
            made = programs.step(numbers, params, state, batch)
            if not first:
                first = {"weight": each_rms(made.used), "stored": each_rms(made.stored)}
            leaves.append(each_of(of_leaf, *made[3:]))
            params, state = made.params, made.state
            losses.append(float(made.loss))
            sites.append(each_of(of_site, layered(programs.outputs(numbers, params, probe), about), start))
        return {**first, **over_steps(sites), **over_steps(leaves), "loss": np.array(losses)}

    def _compiled(self, like: PyTree) -> _Programs:
        # What is not an array of the model: functions, for example.
        code = eqx.filter(like, lambda leaf: not is_rule(leaf) and not is_array_or_shape(leaf))
        has_rule = jax.tree.map(is_rule, like)
        traced = _Traced()
        loss = self._loss
        if self._has_state:
            # What it starts with depends on no key, and is the same all along: the check is of a few steps.
            loss = functools.partial(self._loss, state=eqx.filter_jit(initial_state)(like, jax.random.key(0)))

        def split(params: PyTree) -> tuple[PyTree, PyTree]:
            return eqx.partition(eqx.combine(params, code), has_rule)

        def optimizer(numbers: Any) -> optax.GradientTransformationExtraArgs:
            return as_transformation("optimizer", self._optimizer(with_numbers(like, numbers)))

        def init(numbers: Any, params: PyTree) -> Any:
            return optimizer(numbers).init(split(params)[0])

        def outputs(numbers: Any, params: PyTree, batch: Any) -> list[Array]:
            used = self._forward(with_numbers(like, numbers), eqx.combine(*split(params)))
            found, traced.about, flow = record_all(loss, used, batch)
            traced.sites = {name: value.shape for name, value in found.items()}
            traced.uses, traced.last = uses_in(flow), flow.last
            return list(found.values())

        def step(numbers: Any, params: PyTree, state: Any, batch: Any) -> _Step:
            tree = with_numbers(like, numbers)
            trained, rest = split(params)

            def used(trained: PyTree) -> PyTree:
                return self._forward(tree, eqx.combine(trained, rest))

            def weights(trained: PyTree) -> list[Array]:
                return jax.tree.leaves(eqx.filter(used(trained), has_rule))

            def objective(trained: PyTree) -> Array:
                return _scalar(loss(used(trained), batch))

            value, gradient = jax.value_and_grad(objective)(trained)
            update, new_state = optimizer(numbers).update(gradient, state, trained)
            # Decoupled decay is what an update owes to the weights.
            undecayed, _ = optimizer(numbers).update(gradient, state, jax.tree.map(jnp.zeros_like, trained))
            after = eqx.apply_updates(trained, update)
            return _Step(
                eqx.filter(eqx.combine(after, rest), eqx.is_array),
                new_state,
                value,
                *map(jax.tree.leaves, (trained, gradient, update, undecayed)),
                *map(weights, (trained, after, eqx.apply_updates(trained, undecayed))),
            )

        def compiled(function: Any) -> Any:
            return jax.jit(function, compiler_options=_COMPILER_OPTIONS)

        return _Programs(compiled(init), compiled(step), compiled(outputs), traced)


def _numbers(rule: Rule) -> dict[str, Any]:
    # Running averages that forget as fast as at the base are a part of the program, as `numbers_of` has it.
    names = [name for name in ("init_mean", *NUMBERS) if name != "one_minus_beta" or rule.one_minus_beta != 1.0]
    return {name: np.float32(getattr(rule, name)) for name in names if getattr(rule, name) is not None}


def _scalar(loss: Any) -> Array:
    if jnp.shape(loss) != ():
        raise EquimuError(f"the loss must be a scalar, got shape {jnp.shape(loss)}; take its mean")
    return loss
