"""The arrays of a traced model: where each stands, who owns it, and what its axes are declared to be."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, keystr, tree_flatten_with_path, treedef_is_leaf

from equimu._axes import Axes, find_axes, find_tied_source
from equimu._errors import EquimuError


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a model.

    - `path`: as one would write it behind the model's name: `blocks.mlp.up.weight`, `layers[0].bias`.
    - `owner`, `field`: the innermost module that holds it, and the field there (None outside any module).
    - `axes`: its declaration, None where there is none.
    - `tied_source`: the path of the tied array whose second multiplier this scalar carries, None for all other leaves.
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    owner: Any
    field: str | None
    axes: Axes | None
    tied_source: str | None

    @property
    def trainable(self) -> bool:
        """Whether it is an inexact array: one that has a rule."""
        return bool(jnp.issubdtype(self.dtype, jnp.inexact))

    @property
    def stacks(self) -> int:
        """How many axes stand in front of the declared ones."""
        return 0 if self.axes is None else len(self.shape) - len(self.axes.words)

    @property
    def pattern(self) -> str:
        """The path with its list indices left out: the same for the same array of each block in a list."""
        return re.sub(r"\[\d+\]", "[]", self.path)

    def describe(self) -> str:
        """Path, type and shape, for messages."""
        return f"{self.path} ({jnp.dtype(self.dtype).name}{list(self.shape)})"


def is_array_or_shape(x: Any) -> bool:
    """Whether a leaf is an array or stands for one."""
    return eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)


def locate(model: Any) -> list[Leaf]:
    """All arrays of a model (or of its shapes), in the order of `jax.tree.leaves`.

    Raises:
        EquimuError: an array has fewer axes than its declaration.
    """
    return list(_walk(model, (), None, (), None))


def _walk(
    node: Any, path: tuple[Any, ...], owner: Any, owner_path: tuple[Any, ...], field: str | None
) -> Iterator[Leaf]:
    if node is None:
        return
    if treedef_is_leaf(jax.tree.structure(node)):
        if is_array_or_shape(node):
            yield _leaf(node, path, owner, owner_path, field)
        return
    children, _ = tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    for (key,), child in children:
        if isinstance(key, GetAttrKey):
            yield from _walk(child, (*path, key), node, path, key.name)
        else:
            yield from _walk(child, (*path, key), owner, owner_path, field)


def _leaf(node: Any, path: tuple[Any, ...], owner: Any, owner_path: tuple[Any, ...], field: str | None) -> Leaf:
    declared = None if field is None else find_axes(owner, field)
    source = None if field is None else find_tied_source(owner, field)
    tied_source = None if source is None else dotted((*owner_path, GetAttrKey(source)))
    leaf = Leaf(dotted(path), tuple(node.shape), node.dtype, owner, field, declared, tied_source)
    if leaf.stacks < 0:
        raise EquimuError(f"{leaf.describe()} has fewer axes than {type(owner).__name__}.{field} declares: {declared}")
    return leaf


def dotted(path: tuple[Any, ...]) -> str:
    """A JAX key path as it is written in Python behind the model's name."""
    return keystr(path).removeprefix(".")


def is_within(path: str, where: str) -> bool:
    """Whether a path is `where` or lies inside it; components are compared whole."""
    return path == where or path.startswith((where + ".", where + "["))
