"""`convert`: a training that runs under one tree of rules goes on under an equivalent one."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu.optim._multi_transform import MultiTransformState, groups_of
from equimu.parameterization import Model, Rule, Tree, check_same_structure, is_rule, rules_of, shift_of_numbers

# By which power of a leaf's gradient an array of an optax state grows, by its field: moments follow gradients, Adafactor's
# momentum is an average of updates, which shrink as the weights do. What has no path (counts) does not grow.
_POWERS = {"mu": 1, "trace": 1, "nu": 2, "v": 2, "v_row": 2, "v_col": 2, "ema": -1, "count": 0, "ns_coeffs": 0}
_TOLERANCE = 1e-9  # between numbers that were computed in another order


def convert(model: Model, opt_state: PyTree, from_tree: Tree[Model], to_tree: Tree[Model]) -> tuple[Model, PyTree]:
    """The model and optimizer state with which training goes on under another tree as it would have under its own.

    Weights are divided by the growth of their multipliers, and moments follow the gradients, which grow with the multipliers.
    The optimizer to go on with is the same function of `to_tree` as it was of `from_tree`. Clipping by the global norm is not
    part of the equivalence: norms of gradients change.

    Args:
        model: as trained under `from_tree`.
        opt_state: of an optimizer of this library (or any `multi_transform`) under `from_tree`.
        from_tree, to_tree: trees of rules of this model.

    Returns:
        Model and optimizer state for `to_tree`.

    Raises:
        EquimuError: the trees are not equivalent: names the first leaf and the number that differ; or the state holds something
            of which it is not known how it follows the gradients.
    """
    check_same_structure(from_tree, model)
    check_same_structure(to_tree, model)
    growth: dict[str, float] = {}
    for before, after in zip(rules_of(from_tree), rules_of(to_tree), strict=True):
        growth[before.path] = float(after.multiplier / before.multiplier)
        _check_equivalent(before, after, growth[before.path])

    def weight(rule: Any, leaf: Any) -> Any:
        return (leaf / growth[rule.path]).astype(leaf.dtype) if is_rule(rule) else leaf

    def state(node: Any) -> Any:
        return _regroup(node, from_tree, to_tree, growth) if isinstance(node, MultiTransformState) else node

    is_groups = lambda node: isinstance(node, MultiTransformState)  # noqa: E731
    return jax.tree.map(weight, to_tree, model), jax.tree.map(state, opt_state, is_leaf=is_groups)


def _check_equivalent(before: Rule, after: Rule, growth: float) -> None:
    for name in ("optimizer", "decay"):
        if getattr(before, name) != getattr(after, name):
            raise EquimuError(
                f"{before.path}: {name} is {getattr(before, name)!r} in one tree and {getattr(after, name)!r} in the other; "
                "only trees for the same one can be equivalent"
            )
    if before.lr == after.lr == 0.0:
        return  # it is not trained, so only what the forward pass sees matters
    shift = shift_of_numbers(growth, before.optimizer, before.decay) | {"one_minus_beta": 1.0}
    for name in ("lr", "eps", "weight_decay", "one_minus_beta"):
        expected, found = getattr(before, name) * shift[name], getattr(after, name)
        if not math.isclose(expected, found, rel_tol=_TOLERANCE):
            raise EquimuError(
                f"{before.path}: {name} is {getattr(before, name):g} in one tree and {found:g} in the other; with the "
                f"multipliers {before.multiplier:g} and {after.multiplier:g} that is another training, equivalent would be "
                f"{expected:g}"
            )


def _regroup(
    state: MultiTransformState, from_tree: Tree[Any], to_tree: Tree[Any], growth: Mapping[str, float]
) -> MultiTransformState:
    """The state with its moments rescaled, in the groups of the other tree."""
    sources = {rule.path: state.groups[name] for name, members in groups_of(from_tree).items() for rule in members}

    def merged(nodes: dict[str, Any], field: str) -> Any:
        """One node from those of the groups that its members come from."""
        first = next(iter(nodes.values()))
        if any(type(node) is not type(first) for node in nodes.values()):
            raise EquimuError(
                "leaves that form one group in the new tree have optimizer states of different kinds in the old one"
            )
        if isinstance(first, dict):
            return {path: rescaled(node[path], path, field) for path, node in nodes.items()}
        return _rebuild(first, lambda i, name: merged({p: node[i] for p, node in nodes.items()}, name or field))

    def rescaled(node: Any, path: str, field: str) -> Any:
        """What belongs to one leaf."""
        if not isinstance(node, tuple):
            if field not in _POWERS:
                raise EquimuError(f"convert does not know how {field!r} of an optimizer's state follows the gradients")
            return (node * growth[path] ** _POWERS[field]).astype(node.dtype) if _POWERS[field] else node
        return _rebuild(node, lambda i, name: rescaled(node[i], path, name or field))

    groups = {
        name: merged({rule.path: sources[rule.path] for rule in members}, "")
        for name, members in groups_of(to_tree).items()
    }
    return MultiTransformState(groups)


def _rebuild(node: Any, child: Any) -> Any:
    """A tuple of the same kind, its entries made by `child(index, field name or None)`; what is not a tuple, as it is."""
    if not isinstance(node, tuple):
        return node
    fields = getattr(node, "_fields", (None,) * len(node))
    made = [child(i, name) for i, name in enumerate(fields)]
    return type(node)(*made) if hasattr(node, "_fields") else tuple(made)
