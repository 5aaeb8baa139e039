"""Tracing a model's constructor: the shapes of its arrays, and which of them are constants, without allocating any."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

# What is known of an array in a traced constructor: a numpy scalar (every entry has this value), or one of these.
_KEYFREE = "does not depend on the key"
_DRAWN = "depends on the key"


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

    def shapes(self) -> Any:
        """The model with a `jax.ShapeDtypeStruct` in place of each array."""
        return eqx.filter_eval_shape(self, jax.random.key(0))


def _has_initial_state(model: Any) -> bool:
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, eqx.nn.StateIndex))
    return any(eqx.is_array(x) for node in nodes if isinstance(node, eqx.nn.StateIndex) for x in jax.tree.leaves(node))


@dataclasses.dataclass(frozen=True)
class Start:
    """How the constructor starts an array: `fill` where all entries have one value; otherwise drawn from the key or not."""

    fill: float | None
    drawn: bool


def starts(blueprint: Blueprint) -> list[Start]:
    """For each array of the model, in the order of its leaves, how the constructor starts it."""

    def arrays(key: Any) -> list[Any]:
        return [leaf for leaf in jax.tree.leaves(blueprint(key)) if eqx.is_array(leaf)]

    closed = jax.make_jaxpr(arrays)(jax.random.key(0))
    known = _interpret(closed.jaxpr, [_of_value(c) for c in closed.consts], [_DRAWN])
    return [Start(fill=_real(k), drawn=isinstance(k, str) and k == _DRAWN) for k in known]


def _real(known: Any) -> float | None:
    """A constant as a number of a rule; None for what is no constant, or no real one: that the model makes itself."""
    return None if isinstance(known, str) or complex(known).imag else complex(known).real


def _of_value(value: Any) -> Any:
    return (
        np.asarray(value)[()]
        if np.ndim(value) == 0 and not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        else _KEYFREE
    )


# Primitives that only move entries about: a constant array stays the same constant.
_MOVES = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "copy", "copy_p", "slice"}
# Entry by entry: the constant of the result is the primitive applied to the constants of the operands.
_ELEMENTWISE = {
    *(
        "add",
        "sub",
        "mul",
        "div",
        "neg",
        "abs",
        "sqrt",
        "rsqrt",
        "exp",
        "log",
        "integer_pow",
        "pow",
        "max",
        "min",
    ),
    "convert_element_type",
}
_CALLS = {"pjit", "jit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2"}


def _interpret(jaxpr: Any, consts: list[Any], args: list[Any]) -> list[Any]:
    """Runs a jaxpr on what is known of each value instead of on the values."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return _of_value(np.asarray(atom.val)) if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        known.update(zip(eqn.outvars, _apply(eqn, inputs), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: Any, inputs: list[Any]) -> list[Any]:
    name = eqn.primitive.name
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    if name in _CALLS and inner is not None:
        # `checkpoint` holds an open jaxpr, the other calls a closed one
        body, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, [])
        return _interpret(body, [_of_value(c) for c in consts], inputs)
    if any(isinstance(k, str) and k == _DRAWN for k in inputs):
        return [_DRAWN] * len(eqn.outvars)
    fills = not any(isinstance(k, str) for k in inputs)
    if fills and name in _MOVES:
        return [inputs[0]]
    if fills and name in _ELEMENTWISE:
        with jax.ensure_compile_time_eval():
            return [np.asarray(eqn.primitive.bind(*map(jnp.asarray, inputs), **eqn.params))[()]]
    return [_KEYFREE] * len(eqn.outvars)
