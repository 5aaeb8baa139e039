"""How a constructor starts its arrays, read off its traced program: constants, what does not depend on the key, and draws.

The program is run on what is known of each array in place of the array: the one value of all its entries; that it does not
depend on the key; or, where all entries have one distribution, a few thousand samples of it. Random bits are spread evenly
over their range, so that mean and standard deviation of a draw come out to some thousandths, and the ratio of two draws that
differ in a factor exactly.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jaxtyping import Array

from equimu._types import is_array_or_shape
from equimu._values import Real
from equimu.declarations import dotted
from equimu.parameterization._trace import Blueprint

_SAMPLES = 4096


@dataclasses.dataclass(frozen=True)
class Start:
    """How the constructor starts an array.

    - `shape`, `inexact`: of the array; whether it is one of floating-point or complex numbers.
    - `fill`: the value of all entries, where they have one.
    - `drawn`: whether it depends on random numbers.
    - `mean`, `std`: of a drawn array's entries; None where they are not alike, or mixed (an orthogonal matrix).
    - `own_seed`: whether its random numbers come from a key that the constructor makes itself.
    """

    shape: tuple[int, ...]
    inexact: bool
    fill: Real | None
    drawn: bool
    mean: Real | None = None
    std: Real | None = None
    own_seed: bool = False


def starts(blueprint: Blueprint) -> dict[str, Start]:
    """How the constructor starts each array of the model, by path, in the order of its leaves."""
    closed, shapes = blueprint.program(), blueprint.shapes()
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    made = {dotted(path): leaf for path, leaf in leaves if is_array_or_shape(leaf)}
    with jax.ensure_compile_time_eval():
        known = _Interpreter().run(closed.jaxpr, [_of_value(c) for c in closed.consts], [_KEY])
    return {path: _start(each, made[path]) for path, each in zip(made, known, strict=True)}


def measured(
    blueprint: Blueprint, started: Mapping[str, Start], paths: Collection[str]
) -> dict[str, tuple[Real, Real]]:
    """Mean and standard deviation of some arrays of a model, by path; they are made to be measured."""
    if not paths:
        return {}

    def statistics(key: Any) -> dict[str, tuple[Array, Array]]:
        made = _arrays(blueprint(key))
        return {path: (jnp.real(jnp.mean(made[path])), jnp.std(made[path])) for path in paths}

    with jax.ensure_compile_time_eval():
        found = jax.jit(statistics)(jax.random.key(0))
    sizes = {path: math.prod(started[path].shape) for path in paths}
    return {
        path: (_significant(float(mean), float(std), sizes[path]), float(std)) for path, (mean, std) in found.items()
    }


def _significant(mean: Real, std: Real, size: int) -> Real:
    """A mean of so many entries, zero where it is so by chance."""
    return mean if abs(mean) > 5 * std / size**0.5 else 0.0


class _Ordered(dict[str, Any]):
    """A dictionary that is a pytree in its own order, and not in that of its keys."""


jax.tree_util.register_pytree_node(
    _Ordered, lambda d: (list(d.values()), tuple(d)), lambda keys, values: _Ordered(zip(keys, values, strict=True))
)


def _arrays(model: Any) -> dict[str, Any]:
    return _Ordered(
        (dotted(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(model)[0] if eqx.is_array(leaf)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Draw:
    """An array of random entries: samples of one entry, None where the entries are not alike or not independent."""

    samples: Array | None
    own_seed: bool


# What is known of an array: a numpy scalar, which every entry is; that it is made of the key; that it depends on no random
# number; or a draw.
_KEY, _KEYFREE = "made of the key", "depends on no random number"
_Known: TypeAlias = Any


def _start(known: _Known, array: Any) -> Start:
    plain = Start(tuple(array.shape), bool(jnp.issubdtype(array.dtype, jnp.inexact)), fill=None, drawn=False)
    if isinstance(known, str):
        return dataclasses.replace(plain, drawn=known == _KEY)
    if not isinstance(known, _Draw):
        # A complex constant is not a number of a rule: that the model makes itself.
        value = complex(known)
        return dataclasses.replace(plain, fill=None if value.imag else value.real + 0.0)
    drawn = dataclasses.replace(plain, drawn=True, own_seed=known.own_seed)
    if known.samples is None or not plain.inexact:
        return drawn
    samples = np.asarray(known.samples, np.complex128)
    mean, std = complex(samples.mean()).real, float(samples.std())
    # The mean of evenly spread samples of a symmetric draw is zero but for rounding.
    return dataclasses.replace(drawn, mean=0.0 if abs(mean) < 0.01 * std else mean, std=std)


def _of_value(value: Any) -> _Known:
    return np.asarray(value)[()] if np.ndim(value) == 0 and not _is_key(value) else _KEYFREE


def _is_key(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


# Operations that move entries of their first operand about: what each entry is stays the same.
_MOVES = frozenset(
    "random_unwrap broadcast_in_dim reshape squeeze expand_dims transpose copy copy_p slice rev dynamic_slice gather".split()
)
# Entry by entry: the result's entry is the operation applied to the operands' entries.
_ELEMENTWISE = frozenset(
    """abs acos acosh add and asin asinh atan atan2 atanh bitcast_convert_type cbrt ceil clamp complex conj
    convert_element_type copy cos cosh div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow is_finite le
    lgamma log log1p logistic lt max min mul ne neg nextafter not or pow real rem round rsqrt select_n
    shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor""".split()
)
_CALLS = frozenset("pjit jit closed_call core_call custom_jvp_call custom_vjp_call checkpoint remat2".split())


class _Interpreter:
    """Runs a traced program on what is known of its arrays."""

    def __init__(self):
        self._draws = 0

    def run(self, jaxpr: Any, consts: list[_Known], args: list[_Known]) -> list[_Known]:
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

        def read(atom: Any) -> _Known:
            return _of_value(np.asarray(atom.val)) if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            known.update(zip(eqn.outvars, self._apply(eqn, [read(atom) for atom in eqn.invars]), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, eqn: Any, inputs: list[_Known]) -> list[_Known]:
        name = eqn.primitive.name
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if name in _CALLS and inner is not None:
            # `checkpoint` holds an open jaxpr, the other calls a closed one
            body, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, [])
            return self.run(body, [_of_value(c) for c in consts], inputs)
        if name == "random_bits":
            return [self._bits(eqn.outvars[0].aval, own_seed=not _is(inputs[0], _KEY))]
        draws = [known for known in inputs if isinstance(known, _Draw)]
        keyed = any(_is(known, _KEY) for known in inputs)
        if keyed and not draws and (name in _MOVES or all(_is_key(var.aval) for var in eqn.outvars)):
            return [_KEY] * len(eqn.outvars)
        if name in _MOVES and not keyed and not any(isinstance(known, _Draw) for known in inputs[1:]):
            return [inputs[0]]
        alike = not keyed and not any(_is(known, _KEYFREE) or _is_mixed(known) for known in inputs)
        if alike and name in _ELEMENTWISE:
            return [self._elementwise(eqn, inputs, draws)]
        if name == "concatenate" and alike and len(draws) == len(inputs):
            return [_Draw(_thinned([d.samples for d in draws]), any(d.own_seed for d in draws))]
        if draws or keyed:
            return [_Draw(None, bool(draws) and all(d.own_seed for d in draws))] * len(eqn.outvars)
        return [_KEYFREE] * len(eqn.outvars)

    def _bits(self, aval: Any, *, own_seed: bool) -> _Known:
        """Bits of all values in equal number, in an order of their own: draws of different calls are independent."""
        self._draws += 1
        order = np.random.default_rng(self._draws).permutation(_SAMPLES)
        spread = (order + 0.5) / _SAMPLES * 2.0 ** jnp.iinfo(aval.dtype).bits
        return _Draw(jnp.asarray(spread.astype(aval.dtype)), own_seed)

    def _elementwise(self, eqn: Any, inputs: list[_Known], draws: list[_Draw]) -> _Known:
        shape = (_SAMPLES,) if draws else ()
        known: list[Any] = [each.samples if isinstance(each, _Draw) else each for each in inputs]
        values = [jnp.broadcast_to(each, shape) for each in known]
        result = eqn.primitive.bind(*values, **eqn.params)
        if draws and result.shape == shape:
            first = result[0]
            if not bool(jnp.all(result == first)):
                return _Draw(result, all(draw.own_seed for draw in draws))
            result = first  # nothing is left of the draw, as in 0 · normal
        return np.asarray(result)[()]


def _is(known: _Known, what: str) -> bool:
    return isinstance(known, str) and known == what


def _is_mixed(known: _Known) -> bool:
    return isinstance(known, _Draw) and known.samples is None


def _thinned(samples: list[Any]) -> Array:
    together = jnp.concatenate(samples)
    return together[:: len(samples)][:_SAMPLES]
