"""Functions of other libraries inside a checked `jax.shard_map`.

There every value has a type that says over which mesh axes it varies, and every operation must say so of its outputs.
Published kernels do not, and refuse. But a function that does not communicate gives, on each device, a result of that
device's own inputs: its outputs vary over the axes over which any input does. So it is traced on its own, with the
check off, and the traced program becomes one operation that the check sees from outside, with such a type.

The switch that turns the check off while tracing is private to JAX; nothing else in the package touches it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import config
from jax.core import ShapedArray
from jax.extend.core import Literal, Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from equimu._device import described_device
from equimu._varying import vary_alike
from equimu.attention._fold import NotLarger, merged, taken_out


def foreign(function: Callable[..., Any], *arrays: jax.Array, folds: bool = False) -> Any:
    """`function(*arrays)`, also inside a checked `jax.shard_map`.

    Args:
        function: of arrays, to a tree of arrays. It must not communicate, and must not close over traced arrays: all of
            them are arguments. It keeps its own derivative, which may be taken once, in reverse.
        arrays: of any dtype; only those of floating point have gradients.
        folds: each array's first axis is a batch of any size. `jax.vmap` then makes that batch larger instead of mapping
            what is inside of the function, which need not know how.
    """
    return _differentiable(function, folds, *vary_alike(arrays))


class once_per_device:  # a decorator
    """A function that asks `trial`, called once for each device that programs are compiled for."""

    def __init__(self, missing: Callable[[], str | None]) -> None:
        self._of_device = functools.cache(lambda device: missing())

    def __call__(self) -> str | None:
        return self._of_device(described_device())

    def cache_clear(self) -> None:
        """Forgets all answers."""
        self._of_device.cache_clear()


def trial(attend: Callable[..., Any]) -> str | None:
    """Why a kernel `attend(q, k, v)` does not run, forward and backward, on the CUDA device of this machine, or None.

    Where programs are compiled for a device that is not here, why it does not compile for that one.
    """
    device = described_device()
    if (jax.default_backend() if device is None else device.platform) != "gpu":
        return "this machine has no CUDA device"
    shape, dtype = (1, 128, 1, 64), jnp.bfloat16
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(attend(x, x, x))))

    def run() -> bool:
        return bool(jnp.isfinite(gradient(jnp.ones(shape, dtype))).all())

    def compiles() -> bool:
        mesh = Mesh(np.array([device]), ("trial",))
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            gradient.lower(jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))).compile()
        return True

    try:
        working = _elsewhere(run if device is None else compiles)
    except Exception as error:  # whatever is missing or too old says so in its own way
        return f"a trial {'run' if device is None else 'compilation'} failed: {_line(error)}"
    return None if working else "a trial run gave numbers that are not finite"


def refused(attend: Callable[..., Any], *shapes: jax.ShapeDtypeStruct) -> str | None:
    """What a library says where it refuses arrays of these shapes, forward or backward, or None. Nothing is compiled."""

    def both(*arrays: jax.Array) -> Any:
        out, pull = jax.vjp(attend, *arrays)
        return pull(out)

    try:
        _elsewhere(functools.partial(jax.eval_shape, both, *shapes))
    except Exception as error:  # each library has its own
        return f"it refuses these shapes: {_line(error)}"
    return None


def _elsewhere(call: Callable[[], Any]) -> Any:
    """The call in a thread that is tracing nothing, whatever is being traced in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _differentiable(function: Callable[..., Any], folds: bool, *arrays: Any) -> Any:
    return _bind(function, arrays, _Fold(function) if folds else None)


def _forward(function: Callable[..., Any], folds: bool, *arrays: Any) -> tuple[Any, Any]:
    """The output, and the function's own backward pass: a tree whose leaves are what it saved."""
    saving = functools.partial(jax.vjp, function)
    out, pull = _bind(saving, arrays, _Fold(saving) if folds else None)
    return out, (pull, _Shapes(tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays)))


def _backward(function: Callable[..., Any], folds: bool, residuals: Any, d_out: Any) -> tuple[Any, ...]:
    pull, shapes = residuals
    return _bind(_gradients, (pull, d_out), _Fold(_gradients, function, shapes.arrays) if folds else None)


def _gradients(pull: Any, d_out: Any) -> tuple[Any, ...]:
    """What the backward pass gives for each array, None where it has no gradient."""
    return tuple(None if d.dtype == jax.dtypes.float0 else d for d in pull(d_out))


_differentiable.defvjp(_forward, _backward)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Shapes:
    arrays: tuple[jax.ShapeDtypeStruct, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Fold:
    """How an operation is made for a larger batch: the function is traced anew."""

    function: Callable[..., Any]
    pulled: Callable[..., Any] | None = None  # of a backward pass: what it is the backward pass of
    shapes: tuple[jax.ShapeDtypeStruct, ...] = ()  # and the arrays of that, before the batch is larger

    def larger(self, n: int, leaves: Sequence[ShapedArray]) -> tuple[Any, "_Fold"]:
        """The arguments for `n` times the batch, and how that is made larger in turn."""
        if self.pulled is None:
            return tuple(_larger(leaf, n) for leaf in leaves), self
        shapes = tuple(_larger(shape, n) for shape in self.shapes)
        out, pull = _trace(functools.partial(jax.vjp, self.pulled), shapes)[1]
        return (pull, out), _Fold(self.function, self.pulled, shapes)

    def batch(self, arrays: Sequence[Any], axes: Sequence[Any], program: Any) -> tuple[Sequence[Any], Sequence[Any]]:
        """The operation on all of a mapped axis at once.

        Raises:
            NotLarger: what the function saves for its backward pass does not grow with the batch.
        """
        n = next(array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None)
        arguments, fold = self.larger(n, program.in_avals)
        shapes, tree = jax.tree.flatten(arguments)
        leaves = [merged(x, axis, like.shape, n) for x, axis, like in zip(arrays, axes, shapes, strict=True)]
        outs = jax.tree.leaves(_bind(self.function, tree.unflatten(vary_alike(leaves)), fold))
        pairs = [taken_out(x, like.shape, n) for x, like in zip(outs, program.out_avals, strict=True)]
        return [x for x, _ in pairs], [axis for _, axis in pairs]


def _larger(shape: Any, n: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((n * shape.shape[0], *shape.shape[1:]), shape.dtype)


def _trace(function: Callable[..., Any], arguments: Any) -> tuple[Any, Any]:
    """The program of a function of trees of arrays, of their leaves, and the tree that it gives."""
    leaves, tree = jax.tree.flatten(arguments)
    # Without the types inside of the `shard_map`.
    local = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    with config._check_vma(False):
        return jax.make_jaxpr(lambda *leaves: function(*tree.unflatten(leaves)), return_shape=True)(*local)


def _bind(function: Callable[..., Any], arguments: Any, fold: _Fold | None) -> Any:
    """The function of trees of arrays as one operation."""
    program, outs = _trace(function, arguments)
    return jax.tree.unflatten(
        jax.tree.structure(outs), _opaque_call.bind(*jax.tree.leaves(arguments), program=program, fold=fold)
    )


_opaque_call = Primitive("foreign")
_opaque_call.multiple_results = True


@_opaque_call.def_impl
def _run(*arrays: Any, program: Any, fold: _Fold | None) -> Sequence[Any]:
    return jax.jit(jaxpr_as_fun(program))(*arrays)


@_opaque_call.def_abstract_eval
def _types(*arrays: ShapedArray, program: Any, fold: _Fold | None) -> Sequence[ShapedArray]:
    kind = arrays[0].manual_axis_type  # `foreign` has made them all alike
    mesh = arrays[0].sharding.mesh

    def typed(out: ShapedArray) -> ShapedArray:
        sharding = NamedSharding(mesh, PartitionSpec(*[None] * out.ndim))
        return ShapedArray(out.shape, out.dtype, sharding=sharding, manual_axis_type=kind)

    return [typed(out) for out in program.out_avals]


def _batch(
    arrays: Sequence[Any], axes: Sequence[Any], *, program: Any, fold: _Fold | None
) -> tuple[Sequence[Any], Sequence[Any]]:
    if fold is not None:
        try:
            return fold.batch(arrays, axes, program)
        except NotLarger:
            return _one_by_one(arrays, axes, program, fold)
    # What is the same for the whole batch stays one: a kernel with a table for each sequence would be a loop over them.
    out_axes = [0 if reached else None for reached in _reached(program, [axis is not None for axis in axes])]
    return _bind(jax.vmap(jaxpr_as_fun(program), tuple(axes), out_axes), arrays, None), out_axes


def _one_by_one(
    arrays: Sequence[Any], axes: Sequence[Any], program: Any, fold: _Fold
) -> tuple[Sequence[Any], Sequence[Any]]:
    """The operation for one after the other along the mapped axis."""
    mapped = {i: jnp.moveaxis(arrays[i], axis, 0) for i, axis in enumerate(axes) if axis is not None}

    def one(row: dict[int, Any]) -> Sequence[Any]:
        return _opaque_call.bind(*(row.get(i, x) for i, x in enumerate(arrays)), program=program, fold=fold)

    return jax.lax.map(one, mapped), [0] * len(program.out_avals)


def _reached(program: Any, inputs: Sequence[bool]) -> Sequence[bool]:
    """Which outputs of a program depend on these of its inputs."""
    found = {variable for variable, asked in zip(program.jaxpr.invars, inputs, strict=True) if asked}
    for equation in program.jaxpr.eqns:
        if any(not isinstance(x, Literal) and x in found for x in equation.invars):
            found.update(equation.outvars)
    return [not isinstance(x, Literal) and x in found for x in program.jaxpr.outvars]


batching.primitive_batchers[_opaque_call] = _batch


def _lower(context: mlir.LoweringRuleContext, *values: Any, program: Any, fold: _Fold | None) -> Sequence[Any]:
    context = context.replace(avals_in=program.in_avals, avals_out=program.out_avals)
    with config._check_vma(False):
        return mlir.lower_fun(jaxpr_as_fun(program), multiple_results=True)(context, *values)


mlir.register_lowering(_opaque_call, _lower)
