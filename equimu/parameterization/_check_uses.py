"""Where what is declared of an array's axes and how the model uses it disagree, with the line to write."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu._values import check_function
from equimu.declarations import Leaf, dotted, is_within
from equimu.parameterization._rule import Rule, Tree
from equimu.parameterization._tree import required_rules, rules_of
from equimu.parameterization._uses import Use, shapes_of, uses, words_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disagreement:
    """One array whose declaration is not how it is used.

    - `path`, `rule`, `uses`: the array.
    - `what`: what it is used as, and what it is declared as.
    - `line`: what to write.
    """

    path: str
    rule: Rule
    uses: tuple[Use, ...]
    what: str
    line: str

    def __str__(self) -> str:
        return f"{self.path} {self.what}: {self.line}"


def check_uses(tree: Tree[Any], function: Callable[..., Any], *args: Any) -> list[Disagreement]:
    """Compares how a program uses each array of a model with what is declared of its axes. It costs one trace, and no memory.

    An array whose declaration is right for what the model's own code multiplies it by may be among them: a table that is
    contracted again times 1/n, for example. Whether it is right, `coord_check` measures.

    Args:
        tree: the tree of rules.
        function: called as `function(model, *args)`; a loss, for example.
        *args: what else it takes, or its shapes.

    Raises:
        EquimuError: the tree has no rules, or the function uses no array of the model.

    Returns:
        One entry an array, in the order of the tree's leaves; empty where all agree.

    Example:
        >>> for disagreement in mu.check_uses(tree, loss, batch):
        ...     print(disagreement)
    """
    required_rules(tree, "check_uses")
    check_function("function", function, "of a model and what else is given")
    found = uses(function, tree, *args)
    if not any(found.values()):
        raise EquimuError("function uses no array of the model that it is given; give a loss of the model")
    return disagreements(tree, found)


def disagreements(tree: Tree[Any], found: Mapping[str, Sequence[Use]]) -> list[Disagreement]:
    """`check_uses` of uses that are known.

    Args:
        tree: of rules.
        found: the uses of each array, by its path; see `uses`.
    """
    shapes = shapes_of(tree)
    made: list[Disagreement] = []
    for rule in rules_of(tree):
        each = tuple(found.get(rule.path, ()))
        leaf = rule.leaf
        if leaf.tied_source is not None and not each:
            what = f"is declared to multiply the second use of {leaf.tied_source}, and the model does not use it"
            line = "multiply what the second use makes by it, or take equimu.nn.TiedEmbedding"
            made.append(_disagreement(rule, each, what, line))
        if not each or rule.role == "scalar" or leaf.tied_source is not None:
            continue
        declared = _sides(rule, frozenset(a for a, word in enumerate(rule.axes) if word in _IN))
        odd = [use for use in each if _as_used(rule, use) != declared]
        if leaf.axes is not None and leaf.axes.tied is not None:
            odd = []  # both uses are declared
        if odd and len(odd) < len(each):
            what = f"is used twice, as {_name(_as_used(rule, odd[0]))} too, and is declared as {_name(declared)} only"
            made.append(_disagreement(rule, each, what, _tied_line(leaf, shapes)))
        elif odd or all(_sums_other_axes(rule, use) for use in each):
            used = _as_used(rule, each[0])
            name = "a map that sums over other axes" if used == declared else _name(used)
            words = words_of(leaf, each, sorted(_wide(rule)))
            made.append(
                _disagreement(
                    rule, each, f"is used as {name}, and is declared as {_name(declared)}", _line(leaf, words, shapes)
                )
            )
        elif rule.role == "output" and all(_is_inner(rule, use) for use in each):
            words = words_of(leaf, each, sorted(_wide(rule)))
            what = "is declared as an output layer, and what it makes stays inside the network, multiplied with other features"
            made.append(_disagreement(rule, each, what, _line(leaf, words, shapes)))
    return made


_IN = ("in", "kernel")


def _disagreement(rule: Rule, found: tuple[Use, ...], what: str, line: str) -> Disagreement:
    return Disagreement(path=rule.path, rule=rule, uses=found, what=what, line=line)


def _wide(rule: Rule) -> frozenset[int]:
    """The axes that grow with the width, as far as the role tells."""
    words = {"hidden": (*_IN, "out"), "output": _IN, "input": ("out",), "vector": ("out",)}.get(rule.role, ())
    return frozenset(axis for axis, word in enumerate(rule.axes) if word in words)


def _sides(rule: Rule, contracted: frozenset[int]) -> tuple[bool, bool]:
    """Whether an array reads many features, and makes many, if these axes of it are contracted."""
    wide = _wide(rule)
    return bool(wide & contracted), bool(wide - contracted)


def _as_used(rule: Rule, use: Use) -> tuple[bool, bool]:
    contracted = use.contracted
    # A stack of which each part reads its own features is none if they are summed: its parts are heads.
    stacks = {axis for axis in contracted if rule.axes[axis] == "stack" and rule.shape[axis] > 1}
    if stacks and contracted - stacks and use.kind == "product" and not _wide(rule) & contracted:
        return True, bool(_wide(rule) - contracted)
    return _sides(rule, contracted)


def _sums_other_axes(rule: Rule, use: Use) -> bool:
    """Whether a product sums over other axes than those that are declared to be."""
    declared = {axis for axis, word in enumerate(rule.axes) if word in _IN}
    odd = {axis for axis in use.contracted ^ declared if rule.shape[axis] > 1}
    # A product with rows of zeros and a one is a look-up.
    rows = {axis for axis in odd if rule.axes[axis] == "table" and use.partner == "data"}
    return use.kind == "product" and bool(odd - rows)


def _is_inner(rule: Rule, use: Use) -> bool:
    outs = [axis for axis in use.kept if rule.axes[axis] == "out"]
    return use.kind == "product" and bool(outs) and all(use.stays_inside(axis) for axis in outs)


def _name(sides: tuple[bool, bool]) -> str:
    return {
        (True, True): "a map of features",
        (True, False): "a readout of features",
        (False, True): "an input layer, a look-up or a vector",
        (False, False): "something that reads no features and makes none",
    }[sides]


# --- the line to write


def _line(leaf: Leaf, words: Sequence[str] | None, shapes: PyTree) -> str:
    words = ("...",) * len(leaf.shape) if words is None else words
    return _call(leaf, shapes, "(" + ", ".join(f'"{word}"' for word in words) + ("," if len(words) == 1 else "") + ")")


def _tied_line(leaf: Leaf, shapes: PyTree) -> str:
    tied = 'equimu.axes("table", "out", tied=("out", "in"), tied_multiplier="scale")'
    return (
        "take equimu.nn.TiedEmbedding with tpv(8), or give the module a field `scale = jnp.asarray(1.0)`, multiply what the "
        f"second use makes by it, and declare {_call(leaf, shapes, tied)}"
    )


def _call(leaf: Leaf, shapes: PyTree, declaration: str) -> str:
    owner, field = _declarer(leaf, shapes)
    named = f"{field}={declaration}" if field.isidentifier() else f'**{{"{field}": {declaration}}}'
    return f"equimu.register_axes({owner}, {named})"


def _declarer(leaf: Leaf, shapes: PyTree) -> tuple[str, str]:
    """The innermost class of the user's that can declare an array, and the array's path below it.

    A layer of Equinox's has its declaration for all models, so the module around it says otherwise.
    """
    around = [(path, node) for path, node in _modules(shapes) if not path or is_within(leaf.path, path)]
    for path, node in reversed(around):
        if not type(node).__module__.startswith(("equinox.", "equimu.")):
            return type(node).__name__, leaf.path[len(path) :].lstrip(".")
    if leaf.owner is not None and leaf.field is not None:
        return type(leaf.owner).__name__, leaf.field
    return "MyModule", "field"


def _modules(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, eqx.Module]]:
    """Modules by path, outermost first."""
    if isinstance(node, eqx.Module):
        yield dotted(path), node
    children, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    for key, child in children:
        if child is not node:
            yield from _modules(child, (*path, *key))
