"""How a model uses each of its arrays, read off the traced program: a second opinion on what is declared of their axes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax

from equimu._types import PyTree, is_array_or_shape
from equimu.declarations import Leaf, locate
from equimu.parameterization._rule import is_rule
from equimu.tracing import Flow, follow

Kind: TypeAlias = Literal["product", "lookup", "multiply", "add", "other"]
Partner: TypeAlias = Literal["activation", "data", "parameter", "constant"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """One meeting of an array with what depends on the data. Axes are those of the array, counted from 0.

    - `kind`: a `product` (of matrices, or a convolution), a `lookup` of some of its rows, `multiply` or `add` entry by entry,
      or another operation.
    - `partner`: what it meets: an `activation`, or the `data` itself.
    - `where`: the path of the module that does it, where that is known.
    - `contracted`: axes that are summed over with the partner's, or in what it is multiplied with, before anything else.
    - `kernel`: those of them that are positions of a convolution, or channels of a group.
    - `read`: axes that it is looked up along. `shared`: axes of which each entry meets its own part of the partner.
    - `kept`: axes that are there in the outcome.
    - `fates`: of each kept axis, what becomes of it in the end: `contracted with activation` (or `parameter`, `data`,
      `constant`), `summed`, `exponential`, `output` (also what a loss reads); `bent` if a nonlinear function came before that.
    """

    path: str
    kind: Kind
    partner: Partner
    where: str
    contracted: frozenset[int]
    kernel: frozenset[int]
    read: frozenset[int]
    shared: frozenset[int]
    kept: frozenset[int]
    fates: Mapping[int, frozenset[str]]

    def stays_inside(self, axis: int) -> bool:
        """Whether what a kept axis indexes is only ever multiplied with other features, as keys and values are."""
        fates = self.fates.get(axis, frozenset())
        return any(fate.startswith("contracted") for fate in fates) and not fates & {
            "output",
            "exponential",
            "bent",
            "other",
        }


def uses(function: Callable[..., Any], model: PyTree, *args: Any) -> dict[str, tuple[Use, ...]]:
    """How `function(model, *args)` uses each array of a model, in the order of execution. Nothing is computed.

    Args:
        function: calls the model; of any output.
        model: an Equinox module or a tree of them, its shapes, or its tree of rules.
        *args: what else the function takes, or its shapes.

    Returns:
        By path; an array that is not used has no entry of length. A layer that is called twice uses its arrays twice.
    """
    shapes = shapes_of(model)
    arrays, static = eqx.partition((shapes, args), is_array_or_shape)
    leaves, structure = jax.tree.flatten(arrays)

    def run(*leaves: Any) -> Any:
        whole, args = eqx.combine(jax.tree.unflatten(structure, leaves), static)
        return eqx.filter(function(whole, *args), eqx.is_array)

    paths = [leaf.path if leaf.trainable else "" for leaf in locate(shapes)]
    found = follow(jax.make_jaxpr(run)(*leaves), [*paths, *[None] * (len(leaves) - len(paths))])
    return {path: () for path in paths if path} | uses_in(found)


def uses_in(found: Flow) -> dict[str, tuple[Use, ...]]:
    """The uses that were found in a traced program, by path."""
    made: dict[str, list[Use]] = {}
    for met in found.meetings.values():
        # What a loss reads does not stay inside, whatever the loss then multiplies it with.
        read = {"output"} if met.path in found.last else set[str]()
        fates = {axis: frozenset(each | read) for axis, each in met.fates.items()}
        # Entry by entry, and then a sum of nothing but that: a dot product.
        dotted = {
            axis
            for axis, each in fates.items()
            if met.kind == "multiply" and each - {"output"} == frozenset(["summed"])
        }
        use: Any = dataclasses.asdict(met) | {name: frozenset(getattr(met, name)) for name in _AXES}
        del use["summed"]
        use |= {"contracted": frozenset(met.summed | dotted), "kept": frozenset(met.kept - dotted), "fates": fates}
        made.setdefault(met.path, []).append(Use(**use))
    return {path: tuple(each) for path, each in made.items()}


_AXES = ("kernel", "read", "shared", "kept")


def shapes_of(model: PyTree) -> PyTree:
    """A model with shapes in place of its arrays, or of its rules."""

    def shape(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_rule(leaf) or is_array_or_shape(leaf) else leaf

    return jax.tree.map(shape, model)


def words_of(leaf: Leaf, found: Sequence[Use], wide: Sequence[int]) -> tuple[str, ...] | None:
    """The words that the uses of an array give its axes; None where it is not used, or in unequal ways.

    Args:
        leaf: the array.
        found: its uses.
        wide: its axes that grow.
    """
    readings = {tuple(_word(axis, size, use, axis in wide) for axis, size in enumerate(leaf.shape)) for use in found}
    if len(readings) != 1:
        return None
    (words,) = readings
    first = next((axis for axis, word in enumerate(words) if word != "stack"), len(words))
    return words[first:] or None


def _word(axis: int, size: int, use: Use, grows: bool) -> str:
    if axis in use.contracted:
        return "kernel" if axis in use.kernel else "in"
    if axis in use.read:
        return "table"
    if axis in use.shared or axis not in use.kept or size == 1:
        return "stack"  # of a size of 1, which only broadcasts
    # Entries that are added, one at each position or each of a batch, are read and not summed.
    if use.kind != "product" and not grows:
        return "table"
    return "inner" if use.kind == "product" and not grows and use.stays_inside(axis) else "out"
