"""The experiment of a coordinate check: a few steps of training at one size, with every site and every leaf measured.

The numbers of the rules are inputs of the compiled program, so that one compilation serves all parameterizations, all seeds and
all planted faults of one model, optimizer and size.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu.diagnostics._record import record
from equimu.parameterization import NUMBERS, Rule, initialize, is_rule, rules_of, with_numbers
from equimu.parameterization._leaves import is_array_or_shape

Loss: TypeAlias = Callable[[Any, Any], Any]
MakeOptimizer: TypeAlias = Callable[[PyTree], optax.GradientTransformation]
Forward: TypeAlias = Callable[[PyTree, PyTree], PyTree]

# These programs run for a moment: optimizing their code for several times that would be in vain.
_COMPILER_OPTIONS = {"xla_backend_optimization_level": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured at one size. Axes: seed, step, site or leaf; steps count from 0 (the start) or from 1 (updates).

    - `sites`: shapes of what is put out, by name, in the order of execution.
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


class Experiment:
    """Compiled programs of one model, loss and optimizer, for trees of rules that differ in their numbers only."""

    def __init__(self, *, loss: Loss, batches: Sequence[Any], optimizer: MakeOptimizer, steps: int, forward: Forward):
        """
        Args:
            loss: of the model that the forward pass uses, and a batch; a scalar.
            batches: used in turn. Sites are recorded on the first.
            optimizer: from a tree of rules.
            steps: updates.
            forward: from a tree and a model to what the loss is given; `equimu.scaled`.
        """
        self._loss = loss
        self._optimizer = optimizer
        self._forward = forward
        order = [batches[step % len(batches)] for step in range(steps)]
        self._batches = jax.tree.map(lambda *xs: jnp.stack([jnp.asarray(x) for x in xs]), *order)
        self._programs: dict[Any, tuple[Callable[..., Any], dict[str, tuple[int, ...]]]] = {}

    def measure(self, tree: PyTree, seeds: Sequence[int]) -> Measured:
        """Trains from each seed, and measures."""
        rules = rules_of(tree)
        # What the program is made for: everything of the rules but their numbers. Flags that choose code are among it.
        bare = dict.fromkeys(NUMBERS, 0.0)
        key = tuple((dataclasses.replace(r, **bare, init_mean=None), *_numbers(r)) for r in rules)
        if key not in self._programs:
            sites: dict[str, tuple[int, ...]] = {}
            self._programs[key] = (jax.jit(self._program(tree, sites), compiler_options=_COMPILER_OPTIONS), sites)
        run, sites = self._programs[key]
        numbers = {rule.path: _numbers(rule) for rule in rules}
        # Drawn outside the program: generators of random numbers would be a third of what there is to compile.
        starts = (eqx.filter(initialize(tree, jax.random.key(seed)), eqx.is_array) for seed in seeds)
        found = [jax.device_get(run(numbers, start, self._batches)) for start in starts]
        stacked = {name: np.stack([one[name] for one in found]).astype(np.float64) for name in found[0]}
        return Measured(sites=dict(sites), leaves=tuple(rule.path for rule in rules), **stacked)

    def _program(self, like: PyTree, sites: dict[str, tuple[int, ...]]) -> Callable[..., dict[str, Array]]:
        # What is no array of the model: functions, for example.
        code = eqx.filter(like, lambda leaf: not is_rule(leaf) and not is_array_or_shape(leaf))

        def run(numbers: Any, model: PyTree, batches: Any) -> dict[str, Array]:
            tree = with_numbers(like, numbers)
            optimizer = optax.with_extra_args_support(self._optimizer(tree))
            params, static = eqx.partition(eqx.combine(model, code), eqx.is_inexact_array)
            probe = jax.tree.map(lambda x: x[0], batches)

            def used(params: PyTree) -> PyTree:
                return self._forward(tree, eqx.combine(params, static))

            def weights(params: PyTree) -> list[Array]:
                return jax.tree.leaves(eqx.filter(used(params), eqx.is_inexact_array))

            def objective(params: PyTree, batch: Any) -> Array:
                return self._loss(used(params), batch)

            def outputs(params: PyTree) -> list[Array]:
                found = record(self._loss, used(params), probe)
                sites.update({name: value.shape for name, value in found.items()})
                return list(found.values())

            def step(carry: Any, batch: Any) -> Any:
                params, state = carry
                loss, slopes = jax.value_and_grad(objective)(params, batch)
                updates, new_state = optimizer.update(slopes, state, params)
                # Decoupled decay is what an update owes to the weights.
                undecayed, _ = optimizer.update(slopes, state, jax.tree.map(jnp.zeros_like, params))
                parts = [
                    _decay(*each) for each in zip(*map(jax.tree.leaves, (params, updates, undecayed)), strict=True)
                ]
                moved = jax.tree.unflatten(jax.tree.structure(params), [part[1] for part in parts])
                moves = zip(weights(eqx.apply_updates(params, moved)), weights(params), strict=True)
                new = eqx.apply_updates(params, updates)
                return (new, new_state), {
                    "loss": loss,
                    "decay": jnp.stack([part[0] for part in parts]),
                    **_columns([_leaf(b - a, g) for (b, a), g in zip(moves, jax.tree.leaves(slopes), strict=True)]),
                    **_columns([_site(now, then) for now, then in zip(outputs(new), start, strict=True)]),
                }

            _check(objective, params, probe)
            start = outputs(params)
            if not start:
                raise EquimuError(
                    "the loss calls no module of the model it is given, so there is nothing to check; let it call the model"
                )
            begin = _columns([_site(x, x) for x in start])
            _, behind = jax.lax.scan(step, (params, optimizer.init(params)), batches)
            found = {name: behind[name] for name in behind if name not in begin}
            found |= {name: jnp.concatenate([begin[name][None], behind[name]]) for name in begin}
            found["weight"] = jnp.stack([_rms(w) for w in weights(params)])
            found["stored"] = jnp.stack([_rms(p) for p in jax.tree.leaves(params)])
            return found

        return run


def pooled(measured: Sequence[Measured]) -> list[Measured]:
    """The same with sites and leaves that all sizes have.

    A deeper model made of a list of blocks has more of them: what stands in each block is then one site or leaf,
    `blocks[*].norm` for example, of the root mean square over blocks.
    """
    lengths = [_lengths([*one.sites, *one.leaves]) for one in measured]
    varying = {path for one in lengths for path in one if any(one[path] != other.get(path) for other in lengths)}

    def rename(name: str) -> str:
        return _INDEX.sub(lambda m: "[*]" if _INDEX.sub("[*]", name[: m.start()]) in varying else m[0], name)

    return [_pool(one, rename) for one in measured] if varying else list(measured)


def _lengths(names: Sequence[str]) -> dict[str, int]:
    """How long each list in a model is, by its path."""
    found: dict[str, int] = {}
    for name in names:
        for m in _INDEX.finditer(name):
            path = _INDEX.sub("[*]", name[: m.start()])
            found[path] = max(found.get(path, 0), int(m[1]) + 1)
    return found


def first_of_pool(name: str) -> str:
    """A site or leaf that a name stands for."""
    return name.replace("[*]", "[0]")


def _pool(one: Measured, rename: Callable[[str], str]) -> Measured:
    def group(names: Sequence[str]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            found.setdefault(rename(name), []).append(index)
        return found

    def mean_square(values: np.ndarray, groups: dict[str, list[int]]) -> np.ndarray:
        return np.stack([np.sqrt(np.mean(values[..., where] ** 2, axis=-1)) for where in groups.values()], axis=-1)

    sites, leaves, shapes = group(list(one.sites)), group(one.leaves), list(one.sites.values())
    return dataclasses.replace(
        one,
        sites={name: shapes[where[0]] for name, where in sites.items()},
        leaves=tuple(leaves),
        **{name: mean_square(getattr(one, name), sites) for name in _OF_SITES},
        **{name: mean_square(getattr(one, name), leaves) for name in _OF_LEAVES},
    )


_INDEX = re.compile(r"\[(\d+)\]")
_OF_SITES = ("output", "output_abs", "change", "change_abs")
_OF_LEAVES = ("weight", "stored", "update", "flatness", "decay", "gradient")


def _numbers(rule: Rule) -> dict[str, Any]:
    # Running averages that forget as fast as at the base are a part of the program, as `numbers_of` has it.
    names = [name for name in ("init_mean", *NUMBERS) if name != "forgetting" or rule.forgetting != 1.0]
    return {name: np.float32(getattr(rule, name)) for name in names if getattr(rule, name) is not None}


def _check(objective: Callable[..., Any], params: PyTree, batch: Any) -> None:
    shape = getattr(jax.eval_shape(objective, params, batch), "shape", None)
    if shape != ():
        raise EquimuError(f"the loss must be a scalar, got shape {shape}; take its mean")


def _rms(x: Array) -> Array:
    return jnp.sqrt(jnp.mean(jnp.abs(x) ** 2))


def _site(now: Array, start: Array) -> dict[str, Array]:
    change = now - start
    return {
        "output": _rms(now),
        "output_abs": jnp.mean(jnp.abs(now)),
        "change": _rms(change),
        "change_abs": jnp.mean(jnp.abs(change)),
    }


def _leaf(move: Array, gradient: Array) -> dict[str, Array]:
    """Over the entries that have a gradient: rows of a table that the batch does not read stay where they are."""
    has = gradient != 0
    share = jnp.maximum(jnp.mean(has), 1e-30)
    size = _rms(move * has) / jnp.sqrt(share)
    largest = jnp.max(jnp.abs(move * has))
    return {
        "update": size,
        "flatness": size / jnp.where(largest == 0, 1, largest),
        "gradient": _rms(gradient) / jnp.sqrt(share),
    }


def _decay(weight: Array, update: Array, undecayed: Array) -> tuple[Array, Array]:
    """By what share of itself a leaf decays, and its update without that.

    An optimizer whose steps are relative to the weights, such as Adafactor, owes them more than a decay: what it does without
    them says nothing, its share is NaN, and its update is left whole.
    """
    owed = update - undecayed
    square = jnp.sum(jnp.abs(weight) ** 2)
    share = -jnp.real(jnp.vdot(weight, owed)) / jnp.where(square == 0, 1, square)
    is_share = (weight.size > 1) & (_rms(owed + share * weight) <= 0.1 * _rms(owed))
    return jnp.where(is_share, share, jnp.nan), jnp.where(is_share, undecayed, update)


def _columns(rows: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: jnp.stack([row[name] for row in rows]) for name in rows[0]}
