"""Several runs of one program computed together, vectorised: each has a lane of the arrays.

Runs are trained in threads of their own, by the same loop as ever. What they ask the device for waits until all that have a
lane have asked; then one call computes it for all. A run that ends leaves its lane to the next one.
"""

import concurrent.futures
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from equimu._types import PyTree
from equimu._values import Real
from equimu.training._functions import Functions, one_step, step_kinds
from equimu.training._step import StepMetrics

_SHARE = 0.9  # of a device's memory that a step may take


class Lanes:
    """The lanes of one program, on one device.

    Args:
        functions: of the program, not compiled; of one run each.
        state_like: shapes of the arrays of one run's state.
        mesh: of the device.
        count: runs that are computed together, at most; fewer where the device has no memory for so many.
        examples: arguments of `init`, of `step` after its state and before its last, and of `evaluate` after its state.
    """

    def __init__(
        self,
        functions: Functions,
        state_like: Sequence[jax.ShapeDtypeStruct],
        mesh: Mesh,
        count: int,
        examples: tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]],
    ):
        of_init, of_step, of_evaluate = examples
        self._whole = NamedSharding(mesh, PartitionSpec())
        with concurrent.futures.ThreadPoolExecutor(4) as beside:
            init = beside.submit(self._jit(functions.init).lower(*of_init).compile)
            while True:
                like = [jax.ShapeDtypeStruct((count, *x.shape), x.dtype, sharding=self._whole) for x in state_like]
                evaluate = self._jit(_vectorized_evaluate(functions.evaluate)).lower(like, [of_evaluate] * count)
                steps = [
                    self._jit(step, 0).lower(like, [of_step] * count, *[np.ones(count, bool)] * 2, *told)
                    for step, told in _vectorized_steps(functions.step, mesh)
                ]
                # The step takes longest, and begins first.
                compiled = [beside.submit(step.compile) for step in steps]
                evaluated = beside.submit(evaluate.compile)
                self._step = one_step([each.result() for each in compiled])
                if count == 1 or _bytes(self._step) <= _SHARE * _memory(mesh):
                    break
                count = (count + 1) // 2
            self._init, self._evaluate = init.result(), evaluated.result()
        self._load = self._jit(_load, 0)
        self._take = self._jit(_take)
        self._state = self._jit(lambda: [jnp.zeros(x.shape, x.dtype) for x in like])()
        self._arrays, self._idle_step, self._idle_evaluate = len(like), of_step, of_evaluate
        self._free = list(range(count))[::-1]
        self._taken: set[int] = set()
        self._asked: dict[int, tuple[str, Any]] = {}
        self._answers: dict[int, Any] = {}
        self._changed = threading.Condition()

    def join(self) -> Functions:
        """A lane for one run, as functions; waits for one if all are taken. The state that they take may be one's own."""
        with self._changed:
            self._changed.wait_for(lambda: self._free)
            lane = self._free.pop()
            self._taken.add(lane)

        def load(leaves: Sequence[Array]) -> _State:
            self._ask(lane, "load", list(leaves))
            return _State(self._arrays, lambda: self._arrays_of(lane))

        def own(state: Any) -> "_State":
            return state if isinstance(state, _State) else load(state)

        def step(state: Any, batch: PyTree, numbers: Any, hyper: Any, measure: Any) -> tuple[Any, Any]:
            state = own(state)
            return state, self._ask(lane, "step", ((batch, numbers, hyper), bool(measure)))

        def evaluate(state: Any, *inputs: Any) -> Any:
            own(state)
            return self._ask(lane, "evaluate", inputs)

        return Functions(lambda *given: load(self._init(*given)), step, evaluate, lambda: self._leave(lane))

    def _jit(self, function: Callable[..., Any], *consumed: int) -> Any:
        return jax.jit(function, donate_argnums=consumed, out_shardings=self._whole)

    def _ask(self, lane: int, kind: str, what: Any) -> Any:
        with self._changed:
            self._asked[lane] = (kind, what)
            self._answer()
            self._changed.wait_for(lambda: lane in self._answers)
            answer = self._answers.pop(lane)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _leave(self, lane: int) -> None:
        with self._changed:
            if lane in self._taken:
                self._taken.remove(lane)
                self._free.append(lane)
                self._answer()
                self._changed.notify_all()

    def _answer(self) -> None:
        """Computes what is asked for, if all have asked."""
        if not self._taken or len(self._asked) < len(self._taken):
            return
        asked, self._asked = self._asked, {}
        try:
            for kind in ("load", "step", "evaluate"):
                mine = {lane: what for lane, (of, what) in asked.items() if of == kind}
                if mine:
                    self._answers.update(getattr(self, f"_{kind}_all")(mine))
        except BaseException as error:
            self._answers.update(dict.fromkeys(asked, error))
        self._changed.notify_all()

    def _load_all(self, mine: dict[int, Any]) -> dict[int, None]:
        for lane, leaves in mine.items():
            self._state = self._load(self._state, leaves, np.int32(lane))
        return dict.fromkeys(mine)

    def _step_all(self, mine: dict[int, Any]) -> dict[int, PyTree]:
        lanes = range(len(self._free) + len(self._taken))
        inputs = [mine[lane][0] if lane in mine else self._idle_step for lane in lanes]
        measured = np.array([lane in mine and mine[lane][1] for lane in lanes])
        steps = np.array([lane in mine for lane in lanes])
        # All are measured or none, so that nothing is computed where nobody wants it.
        self._state, metrics = self._step(self._state, inputs, steps, measured, measured.any())
        return _parts(metrics, mine)

    def _evaluate_all(self, mine: dict[int, Any]) -> dict[int, PyTree]:
        lanes = range(len(self._free) + len(self._taken))
        return _parts(self._evaluate(self._state, [mine.get(lane, self._idle_evaluate) for lane in lanes]), mine)

    def _arrays_of(self, lane: int) -> list[Array]:
        with self._changed:
            return self._take(self._state, np.int32(lane))


class _State(Sequence[Array]):
    """The arrays of one run, which lie in its lane until they are asked for."""

    def __init__(self, count: int, arrays: Callable[[], list[Array]]):
        self._count, self._arrays = count, arrays

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._arrays()[index]

    def __iter__(self) -> Iterator[Array]:
        return iter(self._arrays())


class _Fetched:
    """Numbers of all lanes, brought from the device once, when one of them is looked at."""

    def __init__(self, tree: PyTree):
        self._leaves: list[Any] = jax.tree.leaves(tree)
        self._is_fetched = False
        self._lock = threading.Lock()

    def leaf(self, index: int) -> np.ndarray:
        with self._lock:
            if not self._is_fetched:
                self._leaves, self._is_fetched = jax.device_get(self._leaves), True
        return self._leaves[index]


class _Number:
    """An array of one lane, as far as the loop needs it to be one."""

    def __init__(self, fetched: _Fetched, index: int, lane: int):
        self._fetched, self._index, self._lane = fetched, index, lane

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self._fetched.leaf(self._index)[self._lane], dtype)

    def __float__(self) -> float:
        return float(np.asarray(self))

    def __int__(self) -> int:
        return int(np.asarray(self))


def _parts(tree: PyTree, lanes: dict[int, Any]) -> dict[int, PyTree]:
    """What each lane is answered, of arrays of all lanes."""
    fetched, structure = _Fetched(tree), jax.tree.structure(tree)
    count = range(structure.num_leaves)
    return {lane: jax.tree.unflatten(structure, [_Number(fetched, i, lane) for i in count]) for lane in lanes}


def _stacked(parts: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *each: jnp.stack(each), *parts)


def _vectorized_steps(step: Callable[..., Any], mesh: Mesh) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """The steps of `step_kinds`, each with an example of the last arguments of its own."""

    def choose(lanes: Bool[Array, " lanes"], one: Array, other: Any) -> Array:
        return jnp.where(lanes.reshape(-1, *(1,) * (one.ndim - 1)), one, other)

    def vectorized(
        state: list[Array],
        inputs: Sequence[Any],
        mine: Bool[Array, " lanes"],
        measured: Bool[Array, " lanes"],
        measure: Any,
    ) -> tuple[list[Array], StepMetrics]:
        new, metrics = jax.vmap(step, (0, 0, 0, 0, None))(state, *_stacked(inputs), measure)
        norms = metrics.grad_norm, metrics.update_rms, metrics.inspected
        grad_norm, update_rms, inspected = jax.tree.map(lambda x: choose(measured, x, jnp.nan), norms)
        metrics = metrics._replace(grad_norm=grad_norm, update_rms=update_rms, inspected=inspected)
        return [choose(mine, after, before) for after, before in zip(new, state, strict=True)], metrics

    return [
        (vectorized, (np.bool_(True),)) if kind is None else (functools.partial(vectorized, measure=kind), ())
        for kind in step_kinds(mesh)
    ]


def _vectorized_evaluate(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    return lambda state, inputs: jax.vmap(evaluate)(state, *_stacked(inputs))


def _load(state: list[Array], leaves: list[Array], lane: Any) -> list[Array]:
    return [x.at[lane].set(leaf) for x, leaf in zip(state, leaves, strict=True)]


def _take(state: list[Array], lane: Any) -> list[Array]:
    return [x[lane] for x in state]


def _bytes(compiled: Any) -> Real:
    found = compiled.memory_analysis()
    if found is None:
        return 0.0
    return (
        found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    )


def _memory(mesh: Mesh) -> Real:
    """Of the device, where it says so."""
    known = mesh.devices.flat[0].memory_stats() or {}
    return known.get("bytes_limit", float("inf"))
