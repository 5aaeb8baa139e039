"""Arrays that are used twice: tied embeddings, and what `eqx.nn.Shared` ties."""

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import equinox as eqx
import jax
from jax.tree_util import GetAttrKey, tree_flatten_with_path

from equimu._errors import EquimuError
from equimu._types import is_array_or_shape
from equimu.declarations import Leaf, dotted
from equimu.parameterization._law import Law
from equimu.parameterization._parameterization import Parameterization
from equimu.parameterization._rule import Role, Rule
from equimu.parameterization._sizes import Geometry, dimensions, role_of
from equimu.parameterization._trace import Blueprint


def tied_slot(
    slot: Leaf, source: Rule, geometry: Geometry, parameterization: Parameterization, blueprint: Blueprint
) -> Rule:
    """The rule of the scalar that carries the multiplier of a tied array's second use. It is never trained.

    One array has one standard deviation and one learning rate, so both uses must ask for the same growth of each with the
    width; the constant between their standard deviations goes into the multiplier.
    """
    (leaf,) = (leaf for leaf in geometry.leaves if leaf.path == source.path)
    assert leaf.axes is not None and leaf.axes.tied is not None
    sizes, wide_in, wide_out = dimensions(leaf, leaf.axes.tied, geometry)
    role = role_of(leaf.axes.tied, wide_in, wide_out)
    first, second = parameterization.row(source.role), parameterization.row(role)
    for number in ("init_std", "lr", "weight_decay", "eps"):
        growth = (
            _width_exponent(getattr(first, number), source.role),
            _width_exponent(getattr(second, number), role),
        )
        if growth[0] != growth[1]:
            raise EquimuError(
                f"{source.path} is tied, which {parameterization.name} does not permit: its {number} would go as "
                f"width^{growth[0]} as {source.role} and as width^{growth[1]} as {role}; use tpv(8), or untie the embeddings"
            )
    # The array arrives at its second use with the first use's multiplier already applied.
    used = first.multiplier(source.dimensions) * first.init_std(source.dimensions)
    multiplier = second.multiplier(sizes) * second.init_std(sizes) / used
    return dataclasses.replace(
        source,
        path=slot.path,
        leaf=slot,
        shape=slot.shape,
        dtype=slot.dtype,
        axes=(),
        role="scalar",
        init_mean=1.0,
        init_std=0.0,
        multiplier=multiplier,
        lr=0.0,
        weight_decay=0.0,
        eps=1.0,
        dimensions=sizes,
        blueprint=blueprint,
    )


def _width_exponent(law: Law, role: Role) -> Fraction:
    """The power of the width in a law, for a leaf of this role."""
    grows = {
        "fan_in": role in ("hidden", "output"),
        "fan_out": role in ("hidden", "input", "vector"),
        "width": role != "scalar",
    }
    return sum((e for s, e in law.exponents if grows.get(s.removesuffix("_ratio"), False)), Fraction(0))


def with_second_uses(model: Any) -> Any:
    """The shapes of the same model with everything that `eqx.nn.Shared` ties standing at both of its places."""
    shared = any(map(_is_shared, jax.tree.leaves(model, is_leaf=_is_shared)))
    return eqx.filter_eval_shape(_expanded, model) if shared else model


def places_of(model: Any) -> dict[str, str]:
    """By the path of each array, second uses included, the path of the array itself.

    Args:
        model: shapes of the model.
    """
    own = {dotted(path): dotted(path) for path, _ in _arrays(model)}
    return own | {path: min(sources) for path, sources in _second_uses(model).items() if sources}


def check_second_uses(model: Any, rules: Mapping[str, Rule], parameterization: Parameterization) -> None:
    """Checks that both uses of what `eqx.nn.Shared` ties ask for the same rule: there is one array, and no other multiplier.

    Args:
        model: shapes of the model.
        rules: by path, those of all arrays with second uses standing where they are used.
        parameterization: the table that the rules were made by.

    Raises:
        EquimuError: the uses differ; names both.
    """
    for path, sources in _second_uses(model).items():
        for source in sources:
            difference = _difference(rules[source], rules[path], parameterization)
            if difference is not None:
                raise EquimuError(
                    f"{source} is used again as {path}, which {parameterization.name} does not permit with eqx.nn.Shared: "
                    f"{difference}; take equimu.nn.TiedEmbedding (with tpv(8)), which has a multiplier for each use, or do "
                    "not share it"
                )


def _difference(first: Rule, second: Rule, parameterization: Parameterization) -> str | None:
    """What two uses of one array ask for differently: a growth with the width, or a multiplier. None if nothing."""
    for number in ("init_std", "multiplier", "lr", "weight_decay", "eps"):
        growth = [_width_exponent(getattr(parameterization.row(r.role), number), r.role) for r in (first, second)]
        if growth[0] != growth[1]:
            return (
                f"its {number} would go as width^{growth[0]} as {first.role} and as width^{growth[1]} as {second.role}"
            )
    if first.multiplier != second.multiplier:
        return f"its multiplier would be {first.multiplier} there and {second.multiplier} here"
    return None


def _second_uses(model: Any) -> dict[str, set[str]]:
    """The path of each second use, and those of the arrays that it is made of."""
    found: dict[str, set[str]] = {}
    nodes, _ = tree_flatten_with_path(model, is_leaf=_is_shared)
    for prefix, node in nodes:
        if not _is_shared(node):
            continue
        inside = (*prefix, GetAttrKey("pytree"))
        arrays = {dotted((*inside, *path)): x for path, x in _arrays(node.pytree)}

        def uses(given: list[Any], node: Any = node, inside: Any = inside) -> dict[str, Any]:
            leaves, structure = jax.tree.flatten(node)
            remaining = iter(given)
            leaves = [next(remaining) if is_array_or_shape(x) else x for x in leaves]
            full = _expanded(jax.tree.unflatten(structure, leaves)).pytree
            return {dotted((*inside, *path)): x for path, x in _arrays(full)}

        closed, made = jax.make_jaxpr(uses, return_shape=True)(list(arrays.values()))
        origins = {var: {path} for var, path in zip(closed.jaxpr.invars, arrays, strict=True)}
        for equation in closed.jaxpr.eqns:
            upstream = set[str]().union(*(origins.get(v, set()) for v in equation.invars if not hasattr(v, "val")))
            origins.update(dict.fromkeys(equation.outvars, upstream))
        for path, var in zip(sorted(made), closed.jaxpr.outvars, strict=True):
            if path not in arrays:
                found[path] = origins.get(var, set())
    return found


def _expanded(model: Any) -> Any:
    def expand(node: Any) -> Any:
        if not _is_shared(node):
            return node
        inner = eqx.tree_at(lambda n: n.pytree, node, _expanded(node.pytree))
        return eqx.tree_at(lambda n: n.pytree, inner, inner())

    return jax.tree.map(expand, model, is_leaf=_is_shared)


def _is_shared(node: Any) -> bool:
    return isinstance(node, eqx.nn.Shared)


def _arrays(tree: Any) -> list[tuple[Any, Any]]:
    return [(path, x) for path, x in tree_flatten_with_path(tree)[0] if is_array_or_shape(x)]
