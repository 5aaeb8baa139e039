"""Records what every module of a model puts out, without touching the model's code.

Each module of the model that can be called is replaced by an instance of a subclass of its own class, whose `__call__` passes
its output through an operation that does nothing but carry a name, a tap. The function is then traced, and the traced
program is run with the values at the taps as further outputs. So it works under `jit`, `vmap` and `scan`, where no value
exists while the model's code runs.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.extend.core import Literal, Primitive, jaxprs_in_params
from jax.interpreters import ad, batching, mlir
from jax.tree_util import treedef_is_leaf
from jaxtyping import Array

from equimu._types import PyTree
from equimu.diagnostics._sites import find_derived
from equimu.parameterization._leaves import dotted

WHOLE = "(model)"
"""The name of the site that is the output of the whole model."""


def record(function: Callable[..., Any], model: PyTree, *args: Any, inputs: bool = False) -> dict[str, Array]:
    """The output of each module of a model while `function(model, *args)` runs.

    Args:
        function: calls the model; of any output.
        model: an Equinox module, or a tree of them.
        *args: what else the function takes.
        inputs: record the first argument that each module is called with, in place of what it puts out.

    Returns:
        By the path of the module (`blocks.mlp.up`), in the order of execution, what it put out: inexact arrays with any axes of
        `vmap` among theirs and any axes of `scan` in front. A module that is called several times has `path`, `path#2`, ...;
        one that puts out several arrays has `path[0]`, `path[1]`. What `register_sites` declares is there too. The inside of
        `while` loops and of `cond` is not recorded.
    """
    arrays, static = eqx.partition((_tapped(model, inputs), args), eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def run(*leaves: Any) -> Any:
        tapped, args = eqx.combine(jax.tree.unflatten(structure, leaves), static)
        return eqx.filter(function(tapped, *args), eqx.is_array)

    closed = jax.make_jaxpr(run)(*leaves)
    found = _Found()
    _harvest(closed.jaxpr, closed.consts, leaves, found)
    return found.sites


# --- taps

_tap_p = Primitive("tap")
_tap_p.def_impl(lambda x, **_: x)
_tap_p.def_abstract_eval(lambda x, **_: x)
batching.primitive_batchers[_tap_p] = lambda args, axes, **names: (_tap_p.bind(args[0], **names), axes[0])
# Where the function takes a derivative of the model: the value is recorded, and the derivative is the identity's.
ad.primitive_jvps[_tap_p] = lambda primals, tangents, **names: (_tap_p.bind(primals[0], **names), tangents[0])
mlir.register_lowering(_tap_p, lambda ctx, x, **_: [x])


def _tap(output: Any, path: str, before: str = "") -> Any:
    """The output, each inexact array of it named; `before` is the site in front of which it belongs, if not here."""

    def one(key: Any, x: Any) -> Any:
        return _tap_p.bind(x, name=(path or WHOLE) + dotted(key), before=before) if eqx.is_inexact_array(x) else x

    return jax.tree_util.tree_map_with_path(one, output)


@functools.lru_cache(maxsize=4096)  # the same model has the same tree structure: what is jitted inside is traced once
def _recorder(cls: type, path: str, inputs: bool) -> type:
    """A subclass that names what its instances put out, or what they are called with."""
    derived = find_derived(cls)
    inside = path + "." if path else ""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if inputs:
            _tap(args[:1], path)
            return cls.__call__(self, *args, **kwargs)
        if derived is not None:
            plain = _recast(self, lambda c, _: _PLAIN.get(c, c))
            for name, value in derived.derive(plain, *args, **kwargs).items():
                _tap(value, inside + name, before=inside + derived.before)
        return _tap(cls.__call__(self, *args, **kwargs), path)

    made = type(cls)(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})
    _PLAIN[made] = cls
    return made


_PLAIN: dict[type, type] = {}  # from a recorder to the class that it was made of


def _tapped(model: PyTree, inputs: bool) -> PyTree:
    return _recast(model, lambda cls, path: _recorder(cls, path, inputs) if "__call__" in dir(cls) else cls)


def module_classes(model: PyTree) -> dict[str, type]:
    """The classes of a model's modules that can be called, by path."""
    found: dict[str, type] = {}

    def note(cls: type, path: str) -> type:
        if "__call__" in dir(cls):
            found[path] = cls
        return cls

    _recast(model, note)
    return found


def _recast(node: Any, choose: Callable[[type, str], type], path: tuple[Any, ...] = ()) -> Any:
    """The tree with each Equinox module made an instance of the class that is chosen for its own and for its path."""
    if node is None or treedef_is_leaf(jax.tree.structure(node)):
        return node
    children, structure = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    node = jax.tree.unflatten(structure, [_recast(child, choose, (*path, *key)) for key, child in children])
    # Equinox's own wrapper of functions is no layer.
    if not isinstance(node, eqx.Module) or isinstance(node, eqx.Partial):
        return node
    made: Any = object.__new__(choose(type(node), dotted(path)))
    for name, value in vars(node).items():
        object.__setattr__(made, name, value)
    return made


# --- running the traced program

# Calls whose inside is run in their place.
_CALLS = {"pjit", "jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2"}


class _Found:
    """What passed the taps, in order, and what waits for the site in front of which it belongs."""

    def __init__(self):
        self.sites: dict[str, Array] = {}
        self._waiting: dict[str, list[tuple[str, Array]]] = {}

    def add(self, value: Array, name: str, before: str = "") -> None:
        if before:
            self._waiting.setdefault(before, []).append((name, value))
            return
        for earlier in self._waiting.pop(name, ()):
            self.add(earlier[1], earlier[0])
        count = 1
        while (unused := name if count == 1 else f"{name}#{count}") in self.sites:
            count += 1
        self.sites[unused] = value


def _harvest(jaxpr: Any, consts: Any, args: Any, found: _Found) -> list[Any]:
    """Runs a traced program; puts what passes its taps into `found`."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        values.update(zip(eqn.outvars, _apply(eqn, inputs, found), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: Any, inputs: list[Any], found: _Found) -> list[Any]:
    if eqn.primitive is _tap_p:
        found.add(inputs[0], **eqn.params)
        return inputs
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    if inner is not None and _has_taps(_opened(inner)[0]):
        if eqn.primitive.name == "scan":
            return _scan(inputs, found, eqn.params)
        if eqn.primitive.name in _CALLS:
            return _harvest(*_opened(inner), inputs, found)
    outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return outputs if eqn.primitive.multiple_results else [outputs]


def _scan(inputs: list[Any], found: _Found, params: dict[str, Any]) -> list[Any]:
    """The scan again, with what passes the taps of its body stacked as further outputs."""
    consts, carry, xs = _parts_of_scan(inputs, params)
    jaxpr, count = params["jaxpr"], len(carry)
    names: list[str] = []  # apart from the values: a dictionary would come out of the scan in the order of its keys

    def body(carry: Any, x: Any) -> Any:
        inside = _Found()
        outputs = _harvest(*_opened(jaxpr), [*consts, *carry, *x], inside)
        names[:] = inside.sites
        return outputs[:count], (outputs[count:], list(inside.sites.values()))

    how = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, (ys, recorded) = jax.lax.scan(body, carry, xs, **how)
    for name, value in zip(names, recorded, strict=True):
        found.add(value, name)
    return [*carry, *ys]


def _parts_of_scan(inputs: list[Any], params: dict[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """What a scan closes over, what it carries, and what it goes through."""
    if "ft_in" in params:  # JAX 0.12
        consts, carry, xs = map(list, params["ft_in"].update(inputs).unpack())
        return consts, carry, xs
    first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
    return inputs[:first], inputs[first:second], inputs[second:]


def _opened(jaxpr: Any) -> tuple[Any, Any]:
    """A jaxpr and its constants; some operations hold an open one, without any."""
    return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())


def _has_taps(jaxpr: Any) -> bool:
    return any(
        eqn.primitive is _tap_p or any(_has_taps(inner) for inner in jaxprs_in_params(eqn.params)) for eqn in jaxpr.eqns
    )
