"""Operations of the matrix products and convolutions of a traced program, whatever model it is of."""

import math
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from equimu._values import Real


def product_flops(jaxpr: Any) -> Real:
    """Operations of all devices together: two for each multiplication and addition; the larger branch of conditionals.

    Args:
        jaxpr: closed or not. A loop whose number of iterations is not known counts once.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(_of_equation(equation) for equation in inner.eqns)


def without_unused(jaxpr: ClosedJaxpr) -> Jaxpr:
    """A traced program without what none of its outputs depends on; compilers leave it out, too."""
    return dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))[0]


def _of_equation(equation: Any) -> Real:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (left, _), _ = params["dimension_numbers"]
        summed = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * summed
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / outputs
    bodies = [value for value in _jaxprs(params)]
    if not bodies:
        return 0.0
    each = [product_flops(body) for body in bodies]
    if name == "cond":
        return max(each)
    times = params["length"] if name == "scan" else 1
    if name == "shard_map":
        times = math.prod(params["mesh"].shape.values())
    return times * sum(each)


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    found: list[Any] = []
    for value in params.values():
        found += [
            x for x in (value if isinstance(value, tuple | list) else (value,)) if isinstance(x, Jaxpr | ClosedJaxpr)
        ]
    return found
