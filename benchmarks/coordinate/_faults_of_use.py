"""Mistakes in how a model uses its arrays, in its own code and outside of any layer."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import equimu as mu
from benchmarks.coordinate._architectures import GraphLayer, GraphNet
from benchmarks.coordinate._faults import Edit, Fault, edited, faults, probe
from benchmarks.coordinate._healthy import probe as probe_with
from benchmarks.coordinate._subjects import CLASSES, VOCAB, Subject, label_loss, over, subjects, text_loss
from equimu.diagnostics import CoordinateCheck, CoordinateProbe
from equimu.parameterization import Parameterization, Rule

BASE = 32


class HandTied(eqx.Module):
    """A language model that takes its table for the unembedding in its code, with or without the factor that this needs."""

    embedding: eqx.nn.Embedding
    hidden: eqx.nn.Linear
    norm: eqx.nn.RMSNorm
    factor: float = eqx.field(static=True)

    def __init__(self, width: int, *, scaled: bool, key: Any):
        first, second = jax.random.split(key)
        self.embedding = eqx.nn.Embedding(VOCAB, width, key=first)
        self.hidden = eqx.nn.Linear(width, width, key=second)
        self.norm = eqx.nn.RMSNorm(width)
        self.factor = BASE / width if scaled else 1.0

    def __call__(self, tokens: Any) -> Any:
        x = jax.vmap(self.embedding)(tokens)
        x = jax.vmap(self.norm)(x + jax.nn.relu(jax.vmap(self.hidden)(x)))
        return self.factor * (x @ self.embedding.weight.T)


class PropertyTied(eqx.Module):
    """The same the other way round: it looks its tokens up in the weight of its readout."""

    table: jax.Array | None
    hidden: eqx.nn.Linear
    norm: eqx.nn.RMSNorm
    readout: eqx.nn.Linear

    def __init__(self, width: int, *, tied: bool, key: Any):
        keys = jax.random.split(key, 3)
        self.table = None if tied else jax.random.normal(keys[0], (VOCAB, width))
        self.hidden = eqx.nn.Linear(width, width, key=keys[1])
        self.norm = eqx.nn.RMSNorm(width)
        self.readout = eqx.nn.Linear(width, VOCAB, use_bias=False, key=keys[2])

    @property
    def embedding(self) -> Any:
        return self.readout.weight if self.table is None else self.table

    def __call__(self, tokens: Any) -> Any:
        x = self.embedding[tokens]
        x = jax.vmap(self.norm)(x + jax.nn.relu(jax.vmap(self.hidden)(x)))
        return jax.vmap(self.readout)(x)


mu.register_axes(PropertyTied, table=("table", "out"))


class Features(eqx.Module):
    """Features of a perceptron; a method that is not `__call__` makes a score of them."""

    mlp: eqx.nn.MLP
    mean: bool = eqx.field(static=True)

    def __init__(self, width: int, *, mean: bool, key: Any):
        self.mlp = eqx.nn.MLP(8, width, width, 1, key=key)
        self.mean = mean

    def score(self, x: Any) -> Any:
        features = jax.nn.relu(self.mlp(x))
        return features.mean() if self.mean else features.sum()


class ValueHead(eqx.Module):
    """Features, and a vector that reads a value out of them."""

    mlp: eqx.nn.MLP
    value: jax.Array

    def __init__(self, width: int, *, key: Any):
        self.mlp = eqx.nn.MLP(8, width, width, 1, key=key)
        self.value = jax.random.normal(key, (width,))

    def score(self, x: Any) -> Any:
        return jax.nn.relu(self.mlp(x)) @ self.value


class DeclaredValueHead(ValueHead):
    """The same, with its vector declared to be summed over."""


mu.register_axes(DeclaredValueHead, value=("in",))


def _score_loss(model: Any, batch: Any) -> Any:
    return jnp.mean((jax.vmap(model.score)(batch[0]) - batch[1] / CLASSES) ** 2)


class Towers(eqx.Module):
    """Two perceptrons whose features are compared by a dot product."""

    first: eqx.nn.MLP
    second: eqx.nn.MLP
    mean: bool = eqx.field(static=True)

    def __init__(self, width: int, *, mean: bool, key: Any):
        first, second = jax.random.split(key)
        self.first = eqx.nn.MLP(8, width, width, 1, key=first)
        self.second = eqx.nn.MLP(8, width, width, 1, key=second)
        self.mean = mean


def _tower_loss(model: Any, batch: Any) -> Any:
    x, y = jax.vmap(model.first)(batch[0]), jax.vmap(model.second)(jnp.tanh(batch[0]))
    likeness = x @ y.T / (x.shape[-1] if model.mean else 1)
    return optax.softmax_cross_entropy_with_integer_labels(likeness, jnp.arange(len(x))).mean()


class Attention(eqx.Module):
    """Attention in a user's own code: heads of a size of their own, and as many for keys and values as they like."""

    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    out: eqx.nn.Linear
    head_dim: int = eqx.field(static=True)
    power: float = eqx.field(static=True)

    def __init__(self, width: int, few: int, head_dim: int, power: float, *, key: Any):
        keys = jax.random.split(key, 4)
        self.query, self.out = (eqx.nn.Linear(width, width, key=k) for k in keys[:2])
        self.key, self.value = (eqx.nn.Linear(width, few, key=k) for k in keys[2:])
        self.head_dim, self.power = head_dim, power

    def __call__(self, x: Any) -> Any:
        heads = (jax.vmap(part)(x).reshape(len(x), -1, self.head_dim) for part in (self.query, self.key, self.value))
        q, k, v = heads
        k, v = (jnp.repeat(part, q.shape[1] // part.shape[1], axis=1) for part in (k, v))
        scores = jnp.einsum("qhd,khd->hqk", q, k) * 8 ** (self.power - 0.5) / self.head_dim**self.power
        causal = jnp.tril(jnp.ones((len(x), len(x)), bool))
        shares = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
        return jax.vmap(self.out)(jnp.einsum("hqk,khd->qhd", shares, v).reshape(len(x), -1))


class FewKeys(Attention):
    """The same, with keys and values of few heads declared to stay inside."""


mu.register_axes(FewKeys, **{"key.weight": ("inner", "in"), "value.weight": ("inner", "in")})


class Attending(eqx.Module):
    """A classifier of such an attention."""

    first: eqx.nn.Linear
    attention: Attention
    last: eqx.nn.Linear

    def __init__(
        self, width: int, *, kind: Any = Attention, few: int = 0, heads: int = 0, power: float = 1.0, key: Any
    ):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Linear(8, width, key=keys[0])
        self.attention = kind(width, few or width, width // heads if heads else 8, power, key=keys[1])
        self.last = eqx.nn.Linear(width, CLASSES, key=keys[2])

    def __call__(self, x: Any) -> Any:
        x = jax.vmap(self.first)(jnp.stack([jnp.roll(x, shift) * (1 + shift) for shift in range(5)]))
        return self.last((x + self.attention(x)).mean(axis=0))


class Layer(eqx.Module):
    """`x + down(relu(factor · up(x)))`."""

    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width: int, *, key: Any):
        up, down = jax.random.split(key)
        self.up, self.down = eqx.nn.Linear(width, width, key=up), eqx.nn.Linear(width, width, key=down)

    def __call__(self, x: Any, factor: Any) -> Any:
        return x + self.down(jax.nn.relu(factor * self.up(x)))


class Stack(eqx.Module):
    """Four of them, scanned over; of the third one the code takes an average where it should not."""

    first: eqx.nn.Linear
    layers: Layer
    last: eqx.nn.Linear
    odd: bool = eqx.field(static=True)

    def __init__(self, width: int, *, odd: bool, key: Any):
        keys = jax.random.split(key, 6)
        self.first = eqx.nn.Linear(8, width, key=keys[0])
        self.layers = eqx.filter_vmap(lambda k: Layer(width, key=k))(keys[1:5])
        self.last = eqx.nn.Linear(width, CLASSES, key=keys[5])
        self.odd = odd

    def __call__(self, x: Any) -> Any:
        arrays, code = eqx.partition(self.layers, eqx.is_array)
        factors = jnp.ones(4).at[2].set((BASE / self.first.out_features) ** 0.5 if self.odd else 1.0)

        def turn(x: Any, each: Any) -> Any:
            return eqx.combine(each[0], code)(x, each[1]), None

        return self.last(jax.lax.scan(turn, self.first(x), (arrays, factors))[0])


class GainedGraphLayer(GraphLayer):
    """Its vectors are declared as gains, as bare vectors are without a declaration."""


mu.register_axes(GainedGraphLayer, of_source=("out",), of_target=("out",))


def _graph(width: int, *, key: Any) -> Any:
    model = GraphNet(width, CLASSES, key=key)
    layers = [GainedGraphLayer(8, width, key=key), GainedGraphLayer(width, width, key=key)]
    return eqx.tree_at(lambda m: m.layers, model, layers)


# --- all of them


@functools.cache
def _checked(make: Callable[..., Any], loss: Callable[..., Any]) -> CoordinateCheck:
    batches = subjects()["GRU" if loss is text_loss else "MLP"].batches
    sizes = over("width", 32, 64, 128)
    subject = Subject(make=make, loss=loss, batches=batches, base={"width": BASE}, sizes=sizes)
    return probe_with(subject, "adam")(mu.mup())


def _in_use(what: str, named: str | tuple[str, ...], told: str, loss: Any, healthy: Any, planted: Any) -> Fault:
    return Fault(
        what=what,
        named=(named,) if isinstance(named, str) else named,
        told=told,
        planted=lambda: _checked(planted, loss),
        healthy=lambda: _checked(healthy, loss),
    )


@functools.cache
def _muon() -> CoordinateProbe:
    return probe_with(subjects()["transformer, biases"], "muon")


@functools.cache
def _experts() -> CoordinateProbe:
    return probe_with(subjects()["mixture of experts"], "adam")


def _edited(
    what: str, named: str, where: str, change: Edit, make: Callable[[], CoordinateProbe], table: Parameterization
) -> Fault:
    return Fault(
        what=what,
        named=(named,),
        planted=lambda: make()(table, tree=edited({where: change})),
        healthy=lambda: make()(table),
    )


def _binding(rule: Rule) -> dict[str, Any]:
    """An epsilon that is a floor at the largest size only."""
    return {"eps": 1e6} if rule.dimensions.width_ratio == 4 else {}


def _of_use() -> list[Fault]:
    part = functools.partial
    return [
        _in_use(
            "a table that is the unembedding too, in the model's code",
            "(model)",
            "embedding.weight is used twice",
            text_loss,
            part(HandTied, scaled=True),
            part(HandTied, scaled=False),
        ),
        _in_use(
            "an unembedding that is the table too, by a property",
            "readout.weight (rows)",
            "readout.weight is used twice",
            text_loss,
            part(PropertyTied, tied=False),
            part(PropertyTied, tied=True),
        ),
        _in_use(
            "features read out by a sum, in a method",
            "(outcome)",
            "read out by a sum",
            _score_loss,
            part(Features, mean=True),
            part(Features, mean=False),
        ),
        _in_use(
            "a vector that reads features out, declared as a gain",
            "(outcome)",
            'value=("in",)',
            _score_loss,
            DeclaredValueHead,
            ValueHead,
        ),
        _in_use(
            "vectors of graph attention, declared as gains",
            ("layers[0].scores", "layers[1].scores"),
            '=("in",)',
            label_loss,
            part(GraphNet, classes=CLASSES),
            _graph,
        ),
        _in_use(
            "towers compared by a dot product",
            "scores",
            "products of two activations",
            _tower_loss,
            part(Towers, mean=True),
            part(Towers, mean=False),
        ),
        _in_use(
            "scores times 1/√head_dim in a user's attention, with heads that grow",
            "attention.scores",
            "1/head_dim",
            label_loss,
            part(Attending, heads=4),
            part(Attending, heads=4, power=0.5),
        ),
        _in_use(
            "keys and values of few heads taken for readouts",
            ("attention.key", "attention.value", "attention.out", "attention.scores"),
            '("inner", "in")',
            label_loss,
            part(Attending, kind=FewKeys, few=16),
            part(Attending, few=16),
        ),
        _in_use(
            "one layer of a stack that vanishes",
            ("layers.down (layer 2)", "layers.up (layer 2)"),
            "",
            label_loss,
            part(Stack, odd=False),
            part(Stack, odd=True),
        ),
        _edited(
            "an epsilon that is a floor at one size",
            "blocks.mlp.up.weight",
            "blocks.mlp.up.weight",
            _binding,
            lambda: probe("transformer, biases"),
            mu.mup(),
        ),
        _edited(
            "an embedding drawn by its constructor, with 1/√width",
            "embedding.weight",
            "embedding.weight",
            lambda rule: {"init_std": rule.dimensions.fan_out**-0.5},
            lambda: probe("transformer, biases"),
            mu.mup(),
        ),
        _edited(
            "Muon's factor of the shape applied twice",
            "blocks.",
            "hidden",
            lambda rule: {"lr": rule.lr * max(rule.dimensions.fan_in, rule.dimensions.fan_out) ** 0.5},
            _muon,
            mu.mup(optimizer="muon"),
        ),
        _edited(
            "a router drawn as a hidden matrix",
            "router.weight",
            "router.weight",
            lambda rule: {"init_std": rule.dimensions.fan_in**-0.5},
            _experts,
            mu.mup(),
        ),
        _edited(
            "learning rates of experts not scaled",
            "experts.",
            "experts.layers[0].weight",
            lambda rule: {"lr": 1.0},
            _experts,
            mu.mup(),
        ),
    ]


def all_faults() -> list[Fault]:
    """Every mistake that is planted."""
    return [*faults(), *_of_use()]
