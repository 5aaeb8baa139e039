"""A model's constructor at fixed sizes, traced for shapes: no array is allocated."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
from jax.core import Tracer

from equimu._errors import EquimuError


@dataclasses.dataclass(frozen=True, eq=False)
class Blueprint:
    """A model's constructor at fixed sizes.

    It makes what `eqx.nn.make_with_state` makes: a model without the initial values of its state. (Those hold objects that
    differ between two calls, so with them no two models would have the same structure.)
    """

    make: Callable[..., Any]
    sizes: Mapping[str, int]

    def __call__(self, key: Any) -> Any:
        model = self.make(**self.sizes, key=key)
        return eqx.nn.make_with_state(lambda: model)()[0] if _has_initial_state(model) else model

    def state(self, key: Any) -> Any:
        """The state that the model starts with; None where it has none."""
        model = self.make(**self.sizes, key=key)
        return eqx.nn.make_with_state(lambda: model)()[1] if _has_initial_state(model) else None

    def shapes(self) -> Any:
        """The model with a `jax.ShapeDtypeStruct` in place of each array, which is an object of its own.

        Raises:
            EquimuError: a function in the model closes over an array, which is then no part of the model's tree.
        """
        return self._traced[1]

    def program(self) -> Any:
        """The constructor as a closed jaxpr, from a key to the model's arrays in the order of `shapes`."""
        return self._traced[0]

    @functools.cached_property
    def _traced(self) -> tuple[Any, Any]:
        closed, arrays, rest = eqx.filter_make_jaxpr(self)(jax.random.key(0))
        for path, leaf in jax.tree_util.tree_flatten_with_path(rest)[0]:
            if callable(leaf) and any(isinstance(value, Tracer) for value in _closed_over(leaf)):
                raise EquimuError(
                    f"the function at {jax.tree_util.keystr(path).removeprefix('.')} closes over an array that the constructor "
                    "makes, which no rule and no optimizer can reach; make the array a field of an eqx.Module that is called "
                    "instead"
                )
        return closed, eqx.combine(arrays, rest)


class Blueprints:
    """A constructor at several sizes, traced once at each.

    Args:
        make: the constructor.
    """

    def __init__(self, make: Callable[..., Any]):
        self._make = make
        self._known: dict[tuple[tuple[str, int], ...], Blueprint] = {}

    def __call__(self, sizes: Mapping[str, int]) -> Blueprint:
        """The constructor at these sizes."""
        key = tuple(sorted(sizes.items()))
        if key not in self._known:
            self._known[key] = Blueprint(self._make, dict(sizes))
        return self._known[key]


def _has_initial_state(model: Any) -> bool:
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, eqx.nn.StateIndex))
    return any(eqx.is_array(x) for node in nodes if isinstance(node, eqx.nn.StateIndex) for x in jax.tree.leaves(node))


def _closed_over(function: Any) -> Iterator[Any]:
    """What a function holds that is not in the model's tree: the cells of its closure, the arguments of a partial, its self."""
    if isinstance(function, functools.partial):
        yield from (*function.args, *function.keywords.values())
        yield from _closed_over(function.func)
    for cell in getattr(function, "__closure__", None) or ():
        try:
            value = cell.cell_contents
        except ValueError:
            continue  # a name that is bound later
        yield from jax.tree.leaves(value)
        if callable(value) and value is not function:
            yield from _closed_over(value)
