"""The arrays of a traced model: where each stands, who owns it, and what its axes are declared to be."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, keystr, tree_flatten_with_path, treedef_is_leaf

from equimu._errors import EquimuError
from equimu._types import is_array_or_shape
from equimu.declarations._axes import (
    Axes,
    find_axes,
    find_branch_ends,
    find_inner_axes,
    find_normalised,
    find_residual,
    find_tied_source,
)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a model.

    - `path`: as one would write it after the model's name: `blocks.mlp.up.weight`, `layers[0].bias`.
    - `owner`, `field`: the innermost module that holds it, and the field there (None outside any module).
    - `inside`: its path below the owner: the field, or an entry of it, `weights['up']`.
    - `axes`: its declaration, None where there is none.
    - `tied_source`: the path of the tied array whose second multiplier this scalar carries, None for all other leaves.
    - `bias_of`: the path of the map that a bias is added to the output of, None for all other leaves.
    - `norm_of`: the path of the array whose norm this gain replaces, None for all other leaves.
    - `ends_branch`: whether it belongs to the part that ends a residual branch.
    - `normalised`: whether it is divided by its norm before it is used, without a gain.
    - `state`: whether it is part of the model's state (running statistics), which no optimizer trains.
    - `containers`: the lists, tuples and dictionaries around it, from the outermost, by path.
    - `declared`: whether a class declares its axes, or whether they were inferred.

    - `shape`, `dtype`: of the array at the target sizes.
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    owner: Any
    field: str | None
    inside: str
    axes: Axes | None
    tied_source: str | None
    bias_of: str | None
    norm_of: str | None
    ends_branch: bool
    normalised: bool
    state: bool
    containers: tuple[str, ...]
    declared: bool

    @property
    def trainable(self) -> bool:
        """Whether it is an inexact array that is not a state: one that has a rule."""
        return bool(jnp.issubdtype(self.dtype, jnp.inexact)) and not self.state

    @property
    def stacks(self) -> int:
        """How many axes stand in front of the declared ones."""
        return 0 if self.axes is None else len(self.shape) - len(self.axes.words)

    def describe(self) -> str:
        """Path, type and shape, for messages."""
        return f"{self.path} ({jnp.dtype(self.dtype).name}{list(self.shape)})"


def locate(model: Any) -> list[Leaf]:
    """All arrays of a model (or of its shapes), in the order of `jax.tree.leaves`.

    Raises:
        EquimuError: an array has fewer axes than its declaration, or the part that ends a residual branch is not a single map.
    """
    return [_leaf(node, place) for node, place in _nodes(model, _Place()) if is_array_or_shape(node)]


@dataclasses.dataclass(frozen=True)
class Children:
    """What a list, tuple or dictionary holds: the class of each child, and its key with numbers left out, "" in a list.

    - `alike`: whether the children are alike in structure and shapes, or in no need of keys to be told apart.
    """

    classes: tuple[str, ...]
    keys: tuple[str, ...]
    alike: bool

    def kinds(self, by_key: bool) -> Counter[str]:
        """How many children there are of each class, or of each key and class."""
        keys = self.keys if by_key else ("",) * len(self.keys)
        return Counter(f"{key} {cls}" for key, cls in zip(keys, self.classes, strict=True))


@dataclasses.dataclass(frozen=True)
class Containers:
    """What a model consists of beside its arrays.

    - `children`: of each list, tuple and dictionary, by path.
    - `residual`: the paths of the modules that are declared to have residual branches.
    - `plain`: the paths of those that are declared to have none. Equinox's own sequences are plain if what they hold is
      Equinox's as well.
    - `branch_ends`: the paths of all parts that are declared to end a residual branch, those without arrays too.
    """

    children: Mapping[str, Children]
    residual: tuple[str, ...]
    plain: tuple[str, ...]
    branch_ends: frozenset[str]


def containers_of(model: Any) -> Containers:
    """Walks a model for what holds its arrays."""
    children: dict[str, Children] = {}
    residual: list[str] = []
    plain: list[str] = []
    branch_ends = frozenset[str]()
    for node, place in _nodes(model, _Place()):
        branch_ends |= place.branch_ends
        path = dotted(place.path)
        if _is_container(node):
            children[path] = _children(node)
        declared = find_residual(node)
        if declared:
            residual.append(path)
        elif declared is not None and (not _is_equinox(node) or all(_is_equinox(part) for part in _modules(node))):
            plain.append(path)
    return Containers(children, tuple(residual), tuple(plain), branch_ends)


def _is_container(node: Any) -> bool:
    return isinstance(node, list | tuple | dict) and not hasattr(node, "_fields")


def _children(container: Any) -> Children:
    is_dict = isinstance(container, dict)
    children: list[Any] = list(container.values()) if is_dict else list(container)
    keys = [re.sub("[0-9]+", "#", str(key)) for key in container] if is_dict else [""] * len(children)
    structures = {str([jax.tree.structure(x), [getattr(y, "shape", 0) for y in jax.tree.leaves(x)]]) for x in children}
    classes = tuple(type(child).__name__ for child in children)
    return Children(classes, tuple(keys), alike=not is_dict or len(structures) <= 1)


def _is_equinox(module: Any) -> bool:
    return type(module).__module__.startswith("equinox.")


def _modules(node: Any) -> list[Any]:
    return [part for part, _ in _nodes(node, _Place()) if isinstance(part, eqx.Module)]


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where in a model a node stands: its path, the innermost module around it, and what modules around it declare."""

    path: tuple[Any, ...] = ()
    owner: Any = None
    owner_path: tuple[Any, ...] = ()
    field: str | None = None
    axes: Mapping[str, Axes] = dataclasses.field(default_factory=dict[str, Axes])
    branch_ends: frozenset[str] = frozenset()
    normalised: frozenset[str] = frozenset()
    state: bool = False
    containers: tuple[str, ...] = ()

    def below(self, end: str) -> str:
        """The path of a part of the node that stands here."""
        return dotted((*self.path, GetAttrKey(end)))


def _nodes(node: Any, place: _Place) -> Iterator[tuple[Any, _Place]]:
    yield node, place
    if node is None or treedef_is_leaf(jax.tree.structure(node)):
        return
    normalised = find_normalised(node)
    around = dataclasses.replace(
        place,
        # What an outer module declares is said of its own use of the part, so it goes first.
        axes={place.below(part): found for part, found in find_inner_axes(node).items()} | dict(place.axes),
        branch_ends=place.branch_ends | {place.below(end) for end in find_branch_ends(node)},
        normalised=place.normalised | ({place.below(normalised)} if normalised else set()),
        state=place.state or isinstance(node, eqx.nn.State),
        containers=(*place.containers, dotted(place.path)) if _is_container(node) else place.containers,
    )
    children, _ = tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    for (key,), child in children:
        inner = dataclasses.replace(around, path=(*place.path, key))
        if isinstance(key, GetAttrKey):
            inner = dataclasses.replace(inner, owner=node, owner_path=place.path, field=key.name)
        yield from _nodes(child, inner)


def _leaf(node: Any, place: _Place) -> Leaf:
    owner, field, path = place.owner, place.field, dotted(place.path)
    declared = place.axes.get(path)
    if declared is None and field is not None:
        declared = find_axes(owner, field)
    source = None if field is None else find_tied_source(owner, field)

    def sibling(name: str | None) -> str | None:
        return None if name is None else dotted((*place.owner_path, GetAttrKey(name)))

    leaf = Leaf(
        path=path,
        shape=tuple(node.shape),
        dtype=node.dtype,
        owner=owner,
        field=field,
        inside=dotted(place.path[len(place.owner_path) :]),
        axes=declared,
        tied_source=sibling(source),
        bias_of=sibling(None if declared is None else declared.bias_of),
        norm_of=sibling(None if declared is None else declared.norm_of),
        ends_branch=any(is_within(path, end) for end in place.branch_ends),
        normalised=path in place.normalised,
        state=place.state,
        containers=place.containers,
        declared=declared is not None,
    )
    if leaf.stacks < 0:
        raise EquimuError(f"{leaf.describe()} has fewer axes than {type(owner).__name__}.{field} declares: {declared}")
    if leaf.ends_branch and not {path, dotted(place.owner_path)} & place.branch_ends:
        (end,) = (end for end in place.branch_ends if is_within(path, end))
        raise EquimuError(
            f"{end} is declared to end a residual branch and holds {path} further inside, so a factor on all its arrays is "
            "none on its output; declare the last map or norm in it"
        )
    return leaf


def dotted(path: tuple[Any, ...]) -> str:
    """A JAX key path as it is written in Python after the model's name."""
    return keystr(path).removeprefix(".")


def is_within(path: str, where: str) -> bool:
    """Whether a path is `where` or lies inside it; components are compared whole."""
    return path == where or path.startswith((where + ".", where + "["))
