"""Functions of other libraries inside a checked `jax.shard_map`.

There every value has a type that says over which mesh axes it varies, and every operation must say so of its outputs.
Published kernels do not, and refuse. But a function that does not communicate gives, on each device, a result of that
device's own inputs: its outputs vary over the axes over which any input does. So it is traced on its own, with the
check off, and the traced program becomes one operation that the check sees from outside, with such a type.

The switch that turns the check off while tracing is private to JAX; nothing else in the package touches it.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import config
from jax.core import ShapedArray
from jax.extend.core import Literal, Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from equimu.attention._varying import vary_alike


def foreign(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """`function(*arrays)`, also inside a checked `jax.shard_map`.

    Args:
        function: of arrays, to a tree of arrays. It must not communicate, and must not close over traced arrays: all of
            them are arguments. It keeps its own derivative, which may be taken once, in reverse.
        arrays: of any dtype; only those of floating point have gradients.
    """
    return _differentiable(function, *vary_alike(arrays))


def trial(attend: Callable[..., Any]) -> str | None:
    """Why a kernel `attend(q, k, v)` does not run, forward and backward, on the CUDA device of this machine, or None."""
    if jax.default_backend() != "gpu":
        return "this machine has no CUDA device"

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(attend(x, x, x))

    def run() -> bool:
        return bool(jnp.isfinite(jax.jit(jax.grad(loss))(jnp.ones((1, 128, 1, 64), jnp.bfloat16))).all())

    try:
        with ThreadPoolExecutor(1) as thread:  # one that is tracing nothing, whatever is being traced in this one
            working = thread.submit(run).result()
    except Exception as error:  # whatever is missing or too old says so in its own way
        return f"a trial run failed: {str(error).splitlines()[0]}"
    return None if working else "a trial run gave numbers that are not finite"


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable(function: Callable[..., Any], *arrays: Any) -> Any:
    return _bind(function, *arrays)


def _forward(function: Callable[..., Any], *arrays: Any) -> tuple[Any, Any]:
    """The output, and the function's own backward pass: a tree whose leaves are what it saved."""
    return _bind(functools.partial(jax.vjp, function), *arrays)


def _backward(function: Callable[..., Any], pull: Any, d_out: Any) -> tuple[Any, ...]:
    def gradients(pull: Any, d_out: Any) -> tuple[Any, ...]:
        return tuple(None if d.dtype == jax.dtypes.float0 else d for d in pull(d_out))

    return _bind(gradients, pull, d_out)


_differentiable.defvjp(_forward, _backward)


def _bind(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function of trees of arrays as one operation."""
    leaves, tree = jax.tree.flatten(arguments)
    # Without the types inside of the `shard_map`.
    local = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    with config._check_vma(False):
        program, outs = jax.make_jaxpr(lambda *leaves: function(*tree.unflatten(leaves)), return_shape=True)(*local)
    return jax.tree.unflatten(jax.tree.structure(outs), _foreign.bind(*leaves, program=program))


_foreign = Primitive("foreign")
_foreign.multiple_results = True


@_foreign.def_impl
def _run(*arrays: Any, program: Any) -> Sequence[Any]:
    return jax.jit(jaxpr_as_fun(program))(*arrays)


@_foreign.def_abstract_eval
def _types(*arrays: ShapedArray, program: Any) -> Sequence[ShapedArray]:
    kind = arrays[0].manual_axis_type  # `foreign` has made them all alike
    mesh = arrays[0].sharding.mesh

    def typed(out: ShapedArray) -> ShapedArray:
        sharding = NamedSharding(mesh, PartitionSpec(*[None] * out.ndim))
        return ShapedArray(out.shape, out.dtype, sharding=sharding, manual_axis_type=kind)

    return [typed(out) for out in program.out_avals]


def _batch(arrays: Sequence[Any], axes: Sequence[Any], *, program: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    # What is the same for the whole batch stays one: a kernel with a table for each sequence would be a loop over them.
    out_axes = [0 if reached else None for reached in _reached(program, [axis is not None for axis in axes])]
    return _bind(jax.vmap(jaxpr_as_fun(program), tuple(axes), out_axes), *arrays), out_axes


def _reached(program: Any, inputs: Sequence[bool]) -> Sequence[bool]:
    """Which outputs of a program depend on these of its inputs."""
    found = {variable for variable, asked in zip(program.jaxpr.invars, inputs, strict=True) if asked}
    for equation in program.jaxpr.eqns:
        if any(not isinstance(x, Literal) and x in found for x in equation.invars):
            found.update(equation.outvars)
    return [not isinstance(x, Literal) and x in found for x in program.jaxpr.outvars]


batching.primitive_batchers[_foreign] = _batch


def _lower(context: mlir.LoweringRuleContext, *values: Any, program: Any) -> Sequence[Any]:
    context = context.replace(avals_in=program.in_avals, avals_out=program.out_avals)
    with config._check_vma(False):
        return mlir.lower_fun(jaxpr_as_fun(program), multiple_results=True)(context, *values)


mlir.register_lowering(_foreign, _lower)
