"""How weights and their updates are aligned with what they multiply: the three terms of Everett et al. (arXiv 2407.05872)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu._values import Real
from equimu.diagnostics._record import record
from equimu.parameterization import Rule, Tree, rules_of, scaled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alignment:
    """Of one map after some training: the exponents of its three terms.

    Each is the power of the fan-in by which a product of matrix and vector is larger than its factors, all as root mean
    squares: 1/2 where they are independent, 1 where they are fully aligned. None where a factor is zero.

    - `update_input`: the weight's change, with its input at the start.
    - `weight_change`: the weight at the start, with the change of its input.
    - `update_change`: the weight's change, with the change of its input.

    A parameterization assumes these when it sets learning rates: with `update_input` near 1/2 the rates of
    `everett(..., "none")` are right, near 1 those of full alignment.
    """

    update_input: Real | None
    weight_change: Real | None
    update_change: Real | None


def alignments(
    tree: Tree[Any], before: PyTree, after: PyTree, function: Callable[..., Any], *args: Any
) -> dict[str, Alignment]:
    """The alignments of all matrices that a module applies to what it is called with.

    The cost is that of two forward passes; `before` can be drawn again, `initialize(tree, key)`.

    Args:
        tree: the tree of rules.
        before, after: the model at the start and after some training, as stored (multipliers are applied here).
        function: calls the model, for example the loss.
        *args: what else it takes, for example a batch.

    Returns:
        By the path of the leaf. Matrices with one `in` and one `out` axis, alone or in stacks of a scan, are there.

    Raises:
        EquimuError: the function calls no module that holds such a matrix.
    """
    models = [scaled(tree, model) for model in (before, after)]
    inputs = [record(function, model, *args, inputs=True) for model in models]
    paths = [rule.path for rule in rules_of(tree)]
    weights = [dict(zip(paths, _arrays(model), strict=True)) for model in models]
    found: dict[str, Alignment] = {}
    for rule in rules_of(tree):
        site = f"{rule.path.rpartition('.')[0]}[0]"
        if sorted(word for word in rule.axes if word != "stack") != ["in", "out"] or site not in inputs[0]:
            continue
        start, end = (_matrices(rule, one[rule.path]) for one in weights)
        x, y = (_vectors(rule, one[site]) for one in inputs)
        if x is None or y is None:
            continue  # not what the matrix multiplies, or used otherwise than layer by layer
        found[rule.path] = Alignment(
            update_input=_exponent(end - start, x),
            weight_change=_exponent(start, y - x),
            update_change=_exponent(end - start, y - x),
        )
    if not found:
        raise EquimuError(
            "the function calls no module that holds a matrix, so there is no alignment; let it call the model"
        )
    return found


def _arrays(model: PyTree) -> list[Array]:
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


def _matrices(rule: Rule, weight: Array) -> Array:
    """The weight as (layers, in, out)."""
    matrix = weight if rule.axes.index("in") < rule.axes.index("out") else jnp.swapaxes(weight, -1, -2)
    return matrix.reshape(-1, *matrix.shape[-2:])


def _vectors(rule: Rule, x: Array) -> Array | None:
    """The inputs as (layers, vectors, in); None where they have not the weight's stacks in front and its fan-in behind."""
    stacks = [size for size, word in zip(rule.shape, rule.axes, strict=True) if word == "stack"]
    if x.shape[-1:] != (rule.dimensions.fan_in,) or list(x.shape[: len(stacks)]) != stacks:
        return None
    return x.reshape(math.prod(stacks), -1, x.shape[-1])


def _exponent(matrices: Array, vectors: Array) -> float | None:
    def rms(x: Array) -> float:
        return float(jnp.sqrt(jnp.mean(jnp.square(jnp.abs(x)))))

    product, factors = rms(vectors @ matrices), rms(matrices) * rms(vectors)
    fan_in = matrices.shape[-2]
    return math.log(product / factors) / math.log(fan_in) if product > 0 and factors > 0 and fan_in > 1 else None
