"""Mistakes, planted one at a time into a healthy model: what a coordinate check must catch, and what it must name."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import equimu as mu
from benchmarks.coordinate._subjects import CLASSES, Subject, over, subjects
from equimu.diagnostics import CoordinateCheck, CoordinateProbe
from equimu.parameterization import Parameterization, Rule, is_rule

Edit = Callable[[Rule], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """One mistake.

    - `named`: the leaves or sites, of which the check must name at least one and nothing else. A name that ends in a dot stands
      for all that begin with it.
    - `planted`, `healthy`: the check with the mistake, and without.
    - `told`: what its verdict must say.
    """

    what: str
    named: tuple[str, ...]
    planted: Callable[[], CoordinateCheck]
    healthy: Callable[[], CoordinateCheck]
    told: str = ""

    def is_named(self, check: CoordinateCheck) -> bool:
        """Whether the check names the right places, and only those, and the cause."""
        names = [row.name for row in check.failures]
        return bool(names) and all(self._covers(name) for name in names) and self.told in check.verdict

    def _covers(self, name: str) -> bool:
        return any(name == one or (one.endswith(".") and name.startswith(one)) for one in self.named)


def adamw(tree: Any) -> Any:
    """The optimizer of all of them."""
    return mu.adamw(tree, learning_rate=2**-9, weight_decay=1e-3)


def edited(changes: Mapping[str, Edit]) -> Callable[[Any], Any]:
    """An edit of a tree: by role or the end of a path, from a rule to its new numbers."""

    def edit(leaf: Any) -> Any:
        if not is_rule(leaf):
            return leaf
        for where, change in changes.items():
            if leaf.role == where or f".{leaf.path}".endswith(f".{where}"):
                return dataclasses.replace(leaf, **change(leaf))
        return leaf

    return lambda tree: jax.tree.map(edit, tree)


@functools.cache
def probe(name: str, forward: Callable[[Any, Any], Any] = mu.scaled) -> CoordinateProbe:
    """The experiment on a subject, compiled once for all mistakes in its trees."""
    return _probe(subjects()[name], forward)


def _probe(subject: Subject, forward: Callable[[Any, Any], Any] = mu.scaled) -> CoordinateProbe:
    return CoordinateProbe(
        subject.make,
        base=subject.base,
        sizes=subject.sizes,
        loss=subject.loss,
        batches=subject.batches,
        optimizer=adamw,
        forward=forward,
    )


# --- mistakes in a tree of rules

TRANSFORMER = "transformer, biases"
UP = "blocks.mlp.up.weight"


def _growth(rule: Rule) -> float:
    return float(rule.dimensions.width_ratio)


def _in_tree(
    what: str,
    named: str | tuple[str, ...],
    changes: Mapping[str, Edit],
    parameterization: Parameterization | None = None,
) -> Fault:
    table = parameterization or mu.mup()
    return Fault(
        what=what,
        named=(named,) if isinstance(named, str) else named,
        planted=lambda: probe(TRANSFORMER)(table, tree=edited(changes)),
        healthy=lambda: probe(TRANSFORMER)(table),
    )


def _like_output(rule: Rule) -> dict[str, Any]:
    return {"init_std": rule.dimensions.fan_out**-1.0, "lr": 1 / _growth(rule)}


def _like_input(rule: Rule) -> dict[str, Any]:
    return {"init_std": 1.0, "lr": 1.0}


def _sgd_rate(rule: Rule) -> dict[str, Any]:
    return {"lr": mu.mup(optimizer="sgd").row(rule.role).lr(rule.dimensions)}


def _in_trees() -> list[Fault]:
    # An epsilon that is not small: under the table's law its share stays what it is at the base.
    large = functools.reduce(lambda t, r: t.tune(r, eps=1e5), ("input", "hidden", "output", "vector"), mu.mup())
    roles = ("input", "hidden", "output", "vector")
    return [
        _in_tree("hidden learning rates not scaled", "blocks.", {"hidden": lambda rule: {"lr": 1.0}}),
        _in_tree("one hidden learning rate not scaled", UP, {UP: lambda rule: {"lr": 1.0}}),
        _in_tree(
            "output learning rate not scaled (Table 3)",
            "unembedding.weight",
            {"unembedding.weight": lambda rule: {"lr": 1.0}},
            mu.tpv(3),
        ),
        _in_tree(
            "readout drawn as in SP",
            "unembedding.weight",
            {"unembedding.weight": lambda rule: {"init_std": rule.dimensions.fan_in**-0.5}},
        ),
        _in_tree(
            "roles of input and output swapped",
            ("embedding.weight", "unembedding.weight"),
            {"unembedding.weight": _like_input, "embedding.weight": _like_output},
        ),
        _in_tree("hidden matrix drawn with standard deviation 1", UP, {UP: lambda rule: {"init_std": 1.0}}),
        _in_tree(
            "hidden matrix drawn with the base's standard deviation",
            "blocks.attention.key.weight",
            {
                "attention.key.weight": lambda rule: {
                    "init_std": (rule.dimensions.fan_in / rule.dimensions.fan_in_ratio) ** -0.5
                }
            },
        ),
        _in_tree(
            "embedding learning rate scaled as a hidden one",
            "embedding.weight",
            {"embedding.weight": lambda rule: {"lr": 1 / _growth(rule)}},
        ),
        _in_tree(
            "bias scaled as a matrix",
            "blocks.mlp.up.bias",
            {"blocks.mlp.up.bias": lambda rule: {"lr": 1 / _growth(rule)}},
        ),
        _in_tree(
            "norm gain trained at a matrix's rate",
            "blocks.mlp_norm.gain",
            {"blocks.mlp_norm.gain": lambda rule: {"lr": 1 / _growth(rule)}},
        ),
        _in_tree(
            "decay scaled twice",
            "blocks.attention.value.weight",
            {"attention.value.weight": lambda rule: {"weight_decay": _growth(rule) ** -1.0}},
        ),
        _in_tree(
            "epsilon not scaled, and large",
            ("blocks.", "norm.gain", "embedding.weight"),
            {role: lambda rule: {"eps": 1e5} for role in roles},
            large,
        ),
        _in_tree(
            "learning rates of SGD under Adam",
            ("blocks.", "norm.gain", "embedding.weight"),
            {role: _sgd_rate for role in roles},
        ),
        _in_tree(
            "one multiplier forgotten (Table 9's input)",
            "embedding.weight",
            {"embedding.weight": lambda rule: {"multiplier": 1.0}},
            mu.tpv(9),
        ),
        *_in_forward(),
        *_over_depth(),
        *_in_ratio(),
    ]


def _unscaled(tree: Any, model: Any) -> Any:
    return model


def _twice(tree: Any, model: Any) -> Any:
    return mu.scaled(tree, mu.scaled(tree, model))


def _in_forward() -> list[Fault]:
    def fault(what: str, forward: Callable[[Any, Any], Any]) -> Fault:
        return Fault(
            what=what,
            named=("readout.weight",),
            planted=lambda: probe("GRU", forward)(mu.tpv(8)),
            healthy=lambda: probe("GRU")(mu.tpv(8)),
        )

    return [
        fault("model used without its multipliers (Table 8)", _unscaled),
        fault("readout multiplier applied twice (Table 8)", _twice),
    ]


@functools.cache
def _deep() -> CoordinateProbe:
    return _probe(dataclasses.replace(subjects()["residual net of lists"], sizes=over("depth", 2, 4, 8)))


def _over_depth() -> list[Fault]:
    def fault(what: str, layer: str, changes: Mapping[str, Edit], table: Parameterization) -> Fault:
        return Fault(
            what=what,
            named=(f"blocks[*].{layer}.weight",),
            planted=lambda: _deep()(table, tree=edited(changes)),
            healthy=lambda: _deep()(table),
        )

    return [
        fault(
            "factor on residual branches missing (CompleteP)",
            "layers[1]",
            {"layers[1].weight": lambda rule: {"multiplier": 1.0}},
            mu.completep(decay="independent"),
        ),
        fault(
            "learning rates in blocks not scaled with depth (depth-μP)",
            "layers[0]",
            {"layers[0].weight": lambda rule: {"lr": 1.0}},
            mu.depth_mup(decay="independent"),
        ),
    ]


@functools.cache
def _odd() -> CoordinateProbe:
    return _probe(dataclasses.replace(subjects()["MLP"], sizes=over("width", 32, 68, 128)))


def _in_ratio() -> list[Fault]:
    def floor(rule: Rule) -> dict[str, Any]:
        return {"lr": 1 / (rule.dimensions.fan_in // 32)}

    return [
        Fault(
            what="width ratio by integer division (68 // 32)",
            named=("layers[1].weight",),
            planted=lambda: _odd()(mu.mup(), tree=edited({"layers[1].weight": floor})),
            healthy=lambda: _odd()(mu.mup()),
        )
    ]


# --- mistakes in a model and its declarations


class Dense(eqx.Module):
    """x @ weight, with weight (in, out)."""

    weight: Any

    def __init__(self, d_in: int, d_out: int, *, key: Any):
        self.weight = jax.random.normal(key, (d_in, d_out)) * d_in**-0.5

    def __call__(self, x: Any) -> Any:
        return x @ self.weight


class TransposedDense(Dense):
    """The same, declared the other way round."""


class Perceptron(eqx.Module):
    """Three maps of a class."""

    first: Any
    second: Any
    last: Any

    def __init__(self, width: int, *, dense: Any = Dense, key: Any):
        keys = jax.random.split(key, 3)
        self.first = dense(8, width, key=keys[0])
        self.second = dense(width, width, key=keys[1])
        self.last = dense(width, CLASSES, key=keys[2])

    def __call__(self, x: Any) -> Any:
        return self.last(jax.nn.relu(self.second(jax.nn.relu(self.first(x)))))


class LargeDense(Dense):
    """The same, times √out, as some embeddings are."""

    def __call__(self, x: Any) -> Any:
        return x @ self.weight * self.weight.shape[1] ** 0.5


class Experts(eqx.Module):
    """The mean of several maps, of which a wider model has more."""

    weight: Any

    def __init__(self, d_in: int, d_out: int, *, key: Any):
        count = max(d_in, d_out) // 8
        self.weight = jax.random.normal(key, (count, d_in, d_out)) * d_in**-0.5

    def __call__(self, x: Any) -> Any:
        # The first of them, for all inputs: the others stand for what other inputs would be sent to.
        return jnp.einsum("i,eio->eo", x, self.weight)[0]


class FannedExperts(Experts):
    """The same, with its stack declared to be summed over."""


class Heads(eqx.Module):
    """A map from heads, as many as the width has eights, to the width."""

    weight: Any

    def __init__(self, d_in: int, d_out: int, *, key: Any):
        self.weight = jax.random.normal(key, (d_in // 8, 8, d_out)) * d_in**-0.5

    def __call__(self, x: Any) -> Any:
        return jnp.einsum("hi,hio->o", x.reshape(-1, 8), self.weight)


class StackedHeads(Heads):
    """The same, with its heads declared to be a stack."""


class FixedMLP(eqx.Module):
    """Residual, with a branch that starts at zero in both of its maps."""

    first: Dense
    up: Dense
    down: Dense
    last: Dense

    def __init__(self, width: int, *, zero: bool, key: Any):
        keys = jax.random.split(key, 4)
        self.first = Dense(8, width, key=keys[0])
        up, down = Dense(width, width, key=keys[1]), Dense(width, width, key=keys[2])
        self.up = eqx.tree_at(lambda d: d.weight, up, jnp.zeros((width, width))) if zero else up
        self.down = eqx.tree_at(lambda d: d.weight, down, jnp.zeros((width, width)))
        self.last = Dense(width, CLASSES, key=keys[3])

    def __call__(self, x: Any) -> Any:
        x = self.first(x)
        return self.last(x + self.down(jax.nn.relu(self.up(x))))


mu.register_axes(Dense, weight=("in", "out"))
mu.register_axes(TransposedDense, weight=("out", "in"))
mu.register_axes(Experts, weight=("stack", "in", "out"))
mu.register_axes(FannedExperts, weight=("in", "in", "out"))
mu.register_axes(Heads, weight=("in", "in", "out"))
mu.register_axes(StackedHeads, weight=("stack", "in", "out"))


@functools.cache
def _of_code(make: Callable[..., Any]) -> CoordinateCheck:
    return _probe(dataclasses.replace(subjects()["MLP"], make=make))(mu.mup())


def _in_code(
    what: str, named: str | tuple[str, ...], healthy: Callable[..., Any], planted: Callable[..., Any]
) -> Fault:
    names = (named,) if isinstance(named, str) else named
    return Fault(what=what, named=names, planted=lambda: _of_code(planted), healthy=lambda: _of_code(healthy))


@functools.cache
def _perceptron(**layers: Any) -> Callable[..., Any]:
    """A perceptron with some of its maps of other classes."""

    def make(width: int, *, key: Any) -> Any:
        model = Perceptron(width, key=key)
        sizes = {"first": (8, width), "second": (width, width), "last": (width, CLASSES)}
        for name, cls in layers.items():
            model = eqx.tree_at(lambda m, name=name: getattr(m, name), model, cls(*sizes[name], key=key))
        return model

    return make


def _attention(scale: Callable[[int], float]) -> CoordinateProbe:
    one = subjects()["transformer, biases"]

    def make(d_model: int, n_layer: int, *, key: Any) -> Any:
        head_dim = d_model // 4
        return one.make(d_model=d_model, n_layer=n_layer, head_dim=head_dim, attention_scale=scale(head_dim), key=key)

    return _probe(dataclasses.replace(one, make=make))


def _in_codes() -> list[Fault]:
    return [
        Fault(
            what="attention scores times 1/√head_dim, with heads that grow",
            named=("blocks.attention.scores",),
            planted=lambda: _attention(lambda d: d**-0.5)(mu.mup()),
            healthy=lambda: _attention(lambda d: 1 / d)(mu.mup()),
        ),
        _in_code("(in, out) declared as (out, in)", "first", _perceptron(), _perceptron(first=TransposedDense)),
        _in_code(
            "an embedding times √width in the model's code", "first", _perceptron(), _perceptron(first=LargeDense)
        ),
        _in_code(
            "stacked axis taken for a summed one",
            "second",
            _perceptron(second=Experts),
            _perceptron(second=FannedExperts),
        ),
        _in_code(
            "summed axis of heads taken for a stack",
            "second",
            _perceptron(second=Heads),
            _perceptron(second=StackedHeads),
        ),
        _in_code(
            "a branch that starts at zero twice, and never moves",
            ("up.weight", "down.weight"),
            functools.partial(FixedMLP, zero=False),
            functools.partial(FixedMLP, zero=True),
        ),
    ]


def faults() -> list[Fault]:
    """Mistakes in trees of rules, and in models that are made of layers alone."""
    return [*_in_trees(), *_in_codes()]
