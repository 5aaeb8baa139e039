"""Records what every module of a model puts out, without touching the model's code.

Each module of the model that can be called is replaced by an instance of a subclass of its own class, whose `__call__` passes
its output through an operation that does nothing but carry a name, a tap. The function is then traced, and the traced
program is run with the values at the taps as further outputs. So it works under `jit`, `vmap` and `scan`, where no value
exists while the model's code runs. What no module puts out, attention scores in a model's own code or logits that a method
makes, is found in the traced program by how arrays are used in it (`parameterization._walk`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
from jax.extend.core import Literal, Primitive, jaxprs_in_params
from jax.interpreters import ad, batching, mlir
from jax.tree_util import treedef_is_leaf
from jaxtyping import Array

from equimu._types import PyTree
from equimu.diagnostics._about import About, Kind
from equimu.diagnostics._sites import find_derived
from equimu.parameterization import dotted
from equimu.tracing import CALLS, SCOPE, Flow, Place, follow, inside, opened, parts_of_scan

WHOLE = "(model)"
"""The name of the site that is the output of the whole model."""
OUTCOME = "(outcome)"
"""The name of the site that is the last of the model in what the function makes: what a loss compares with its targets."""


def record(function: Callable[..., Any], model: PyTree, *args: Any, inputs: bool = False) -> dict[str, Array]:
    """The output of each module of a model while `function(model, *args)` runs.

    Args:
        function: calls the model; of any output.
        model: an Equinox module, or a tree of them.
        *args: what else the function takes.
        inputs: record the first argument that each module is called with, in place of what it puts out.

    Returns:
        By the path of the module (`blocks.mlp.up`), in the order of execution, what it put out: inexact arrays of any shape,
        with any axes of `vmap` among theirs and any axes of `scan` in front. A module that is called several times has `path`,
        `path#2`, ...; one that puts out several arrays has `path[0]`, `path[1]`. What `register_sites` declares is there too.
        The inside of `while` loops and of `cond` is not recorded.
    """
    found, _, _ = _recorded(function, model, args, inputs=inputs, more=False)
    return found.sites


def record_all(
    function: Callable[..., Any], model: PyTree, *args: Any
) -> tuple[dict[str, Array], dict[str, About], Flow]:
    """`record` with what no module puts out; what is known of each site; and how the function uses the model's arrays."""
    found, about, flow = _recorded(function, model, args, inputs=False, more=True)
    return (
        found.sites,
        {name: dataclasses.replace(about[name], layers=found.layers[name]) for name in found.sites},
        flow,
    )


def _recorded(
    function: Callable[..., Any], model: PyTree, args: Any, *, inputs: bool, more: bool
) -> tuple["_Found", Mapping[str, About], Flow]:
    arrays, static = eqx.partition((_tapped(model, inputs), args), eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def run(*leaves: Any) -> Any:
        tapped, args = eqx.combine(jax.tree.unflatten(structure, leaves), static)
        return eqx.filter(function(tapped, *args), eqx.is_array)

    closed = jax.make_jaxpr(run)(*leaves)
    mine = [
        dotted(path) if eqx.is_inexact_array(x) else ""
        for path, x in jax.tree_util.tree_flatten_with_path(model)[0]
        if eqx.is_array(x)
    ]
    flow = follow(closed, [*mine, *[None] * (len(leaves) - len(mine))]) if more else Flow()
    found = _Found(_places(flow, model), flow)
    _harvest(closed.jaxpr, closed.consts, leaves, found, ())
    found.finish()
    return found, found.about, flow


def _places(flow: Flow, model: PyTree) -> dict[Place, tuple[str, About]]:
    """What else is recorded, by place, with a name; what a tap names is recorded already."""
    derived = {path for path, cls in module_classes(model).items() if find_derived(cls) is not None}
    places: dict[Place, tuple[str, About]] = {}
    for place, path in flow.look_ups.items():
        places[place] = f"{path} (rows)", About(kind="rows", of=frozenset([path]))
    for place in flow.exponents:
        product = flow.products[place]
        if product.where not in derived:
            name = f"{product.where}.scores" if product.where else "scores"
            kind: Kind = "scores" if product.of_activations else "dotted"
            places[place] = name, About(kind=kind, span=product.span, of=product.features)
    for place in flow.outcome:
        product = flow.products.get(place)
        is_sum = place in flow.sums or (product is not None and product.of_activations)
        places.setdefault(place, (OUTCOME, About(kind="outcome", is_sum=is_sum)))
    return {place: site for place, site in places.items() if place not in flow.named}


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

    # What a norm keeps of its rows is not an output.
    return jax.tree_util.tree_map_with_path(one, output, is_leaf=lambda node: isinstance(node, eqx.nn.State))


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
        with jax.named_scope(SCOPE + path):
            output = cls.__call__(self, *args, **kwargs)
        return _tap(output, path)

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
    # Equinox's own wrapper of functions is not a layer.
    if not isinstance(node, eqx.Module) or isinstance(node, eqx.Partial):
        return node
    made: Any = object.__new__(choose(type(node), dotted(path)))
    for name, value in vars(node).items():
        object.__setattr__(made, name, value)
    return made


# --- running the traced program


class _Found:
    """What passed the taps, in order, and what waits for the site in front of which it belongs."""

    def __init__(self, places: Mapping[Place, tuple[str, About]], flow: Flow):
        self.sites: dict[str, Array] = {}
        self.about: dict[str, About] = {}
        self.layers: dict[str, tuple[int, ...]] = {}
        self.places = places
        self.flow = flow
        self._waiting: dict[str, list[tuple[str, Array]]] = {}
        self._last: list[tuple[Array, About, tuple[int, ...]]] = []

    def add(self, value: Array, name: str, before: str = "", about: About | None = None, layers: Any = ()) -> None:
        """Takes a value. An outcome has its place after all other sites."""
        if before:
            self._waiting.setdefault(before, []).append((name, value))
            return
        if name == OUTCOME and about is not None:
            self._last.append((value, about, layers))
            return
        for earlier in self._waiting.pop(name, ()):
            self.add(earlier[1], earlier[0])
        self._put(value, name, about or About(), layers)

    def finish(self) -> None:
        """Puts the outcomes after all other sites."""
        for value, about, layers in self._last:
            self._put(value, OUTCOME, about, layers)

    def _put(self, value: Array, name: str, about: About, layers: tuple[int, ...]) -> None:
        count = 1
        while (unused := name if count == 1 else f"{name}#{count}") in self.sites:
            count += 1
        self.sites[unused], self.about[unused], self.layers[unused] = value, about, layers

    def inside(self) -> "_Found":
        """For the body of a scan."""
        return _Found(self.places, self.flow)

    def is_wanted(self, jaxpr: Any, stack: tuple[int, ...]) -> bool:
        """Whether anything in a jaxpr, or in what it calls, is to be recorded."""
        return _has_taps(jaxpr) or any(place[0][: len(stack)] == stack for place in self.places)


def _harvest(jaxpr: Any, consts: Any, args: Any, found: _Found, stack: tuple[int, ...]) -> list[Any]:
    """Runs a traced program; puts what passes its taps into `found`. The calls that it is inside of are `stack`."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        made = _apply(eqn, [read(atom) for atom in eqn.invars], found, stack)
        for var, value in zip(eqn.outvars, made, strict=True):
            values[var] = value
            if (stack, id(var)) in found.places and jax.numpy.issubdtype(value.dtype, jax.numpy.inexact):
                name, about = found.places[stack, id(var)]
                found.add(value, name, about=about)
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: Any, inputs: list[Any], found: _Found, stack: tuple[int, ...]) -> list[Any]:
    if eqn.primitive is _tap_p:
        found.add(inputs[0], **eqn.params)
        return inputs
    body, within = inside(eqn), (*stack, id(eqn))
    if body is not None and eqn.primitive.name in (*CALLS, "scan") and found.is_wanted(opened(body)[0], within):
        if eqn.primitive.name == "scan":
            return _scan(eqn, inputs, found, within)
        return _harvest(*opened(body), inputs, found, within)
    outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return outputs if eqn.primitive.multiple_results else [outputs]


def _scan(eqn: Any, inputs: list[Any], found: _Found, within: tuple[int, ...]) -> list[Any]:
    """The scan again, with what passes the taps of its body stacked as further outputs."""
    consts, carry, xs = parts_of_scan(inputs, eqn.params)
    jaxpr, count = eqn.params["jaxpr"], len(carry)
    over_layers = id(eqn) in found.flow.over_layers
    # Apart from the values: a dictionary would come out of the scan in the order of its keys.
    names: list[tuple[str, About, tuple[int, ...]]] = []

    def body(carry: Any, x: Any) -> Any:
        one = found.inside()
        outputs = _harvest(*opened(jaxpr), [*consts, *carry, *x], one, within)
        one.finish()
        names[:] = [(name, one.about[name], one.layers[name]) for name in one.sites]
        return outputs[:count], (outputs[count:], list(one.sites.values()))

    how = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    carry, (ys, recorded) = jax.lax.scan(body, carry, xs, **how)
    for (name, about, layers), value in zip(names, recorded, strict=True):
        found.add(value, name, about=about, layers=(*((0,) if over_layers else ()), *(axis + 1 for axis in layers)))
    return [*carry, *ys]


def _has_taps(jaxpr: Any) -> bool:
    return any(
        eqn.primitive is _tap_p or any(_has_taps(inner) for inner in jaxprs_in_params(eqn.params)) for eqn in jaxpr.eqns
    )
