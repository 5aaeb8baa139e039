"""The models that coordinate checks are tried on: small ones of every kind, with data made on the spot."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import equimu as mu
from benchmarks.coordinate._architectures import EncoderDecoder, GraphNet, Mixture, StateSpace, UNet

VOCAB, CLASSES, ROWS, SEQ = 32, 10, 8, 12
BATCHES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with what a coordinate check of it needs.

    - `base`: the sizes of the small model; `sizes`: what is changed of them.
    """

    make: Callable[..., Any]
    loss: Callable[[Any, Any], Any]
    batches: list[Any]
    base: Mapping[str, int]
    sizes: tuple[Mapping[str, int], ...]


def _cross_entropy(logits: Any, targets: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def _text(key: int) -> Any:
    return jax.random.randint(jax.random.key(key), (ROWS, SEQ + 1), 0, VOCAB)


def text_loss(model: Any, tokens: Any) -> Any:
    """Next-token cross-entropy."""
    return _cross_entropy(jax.vmap(model)(tokens[:, :-1]), tokens[:, 1:])


def _labelled(shape: tuple[int, ...]) -> list[Any]:
    """Batches of points around a centre for each class."""
    centres = jax.random.normal(jax.random.key(0), (CLASSES, *shape))

    def batch(key: int) -> Any:
        labels = jnp.arange(ROWS) % CLASSES
        return centres[labels] + jax.random.normal(jax.random.key(key), (ROWS, *shape)), labels

    return [batch(key) for key in range(1, BATCHES + 1)]


def label_loss(model: Any, batch: Any) -> Any:
    """Cross-entropy of the classes."""
    return _cross_entropy(jax.vmap(model)(batch[0]), batch[1])


def image_loss(model: Any, batch: Any) -> Any:
    """Squared error of an image without its noise."""
    return jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2)


def _images() -> list[Any]:
    clean = jax.random.normal(jax.random.key(0), (ROWS, 3, 4, 4))
    keys = [jax.random.key(key) for key in range(1, BATCHES + 1)]
    return [(clean + jax.random.normal(key, clean.shape), clean) for key in keys]


class ConvNet(eqx.Module):
    """Two convolutions with a normalisation, pooled."""

    stem: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    conv: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, width: int, *, key: Any):
        keys = jax.random.split(key, 3)
        self.stem = eqx.nn.Conv2d(3, width, 3, padding=1, key=keys[0])
        self.norm = eqx.nn.GroupNorm(4, width)
        self.conv = eqx.nn.Conv2d(width, width, 3, padding=1, key=keys[1])
        self.head = eqx.nn.Linear(width, CLASSES, key=keys[2])

    def __call__(self, x: Any) -> Any:
        x = jax.nn.relu(self.norm(self.stem(x)))
        x = jax.nn.relu(self.conv(x))
        return self.head(x.mean(axis=(1, 2)))


class Recurrent(eqx.Module):
    """A language model of one recurrent cell."""

    embedding: eqx.nn.Embedding
    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear

    def __init__(self, width: int, *, key: Any):
        keys = jax.random.split(key, 3)
        self.embedding = eqx.nn.Embedding(VOCAB, width, key=keys[0])
        self.cell = eqx.nn.GRUCell(width, width, key=keys[1])
        self.readout = eqx.nn.Linear(width, VOCAB, key=keys[2])

    def __call__(self, tokens: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            h = self.cell(x, h)
            return h, h

        start = jnp.zeros(self.cell.hidden_size)
        return jax.vmap(self.readout)(jax.lax.scan(step, start, jax.vmap(self.embedding)(tokens))[1])


class ResidualBlock(eqx.Module):
    """`x + down(relu(up(norm(x))))`, its layers in a list."""

    norm: eqx.nn.LayerNorm
    layers: list[eqx.nn.Linear]

    def __init__(self, width: int, *, key: Any):
        up, down = jax.random.split(key)
        self.norm = eqx.nn.LayerNorm(width)
        self.layers = [eqx.nn.Linear(width, 2 * width, key=up), eqx.nn.Linear(2 * width, width, key=down)]

    def __call__(self, x: Any) -> Any:
        return x + self.layers[1](jax.nn.relu(self.layers[0](self.norm(x))))


mu.register_residual(ResidualBlock, "layers[1]")


class ResidualNet(eqx.Module):
    """A list of residual blocks between two linear layers, which are in a dictionary."""

    ends: dict[str, eqx.nn.Linear]
    blocks: list[ResidualBlock]
    norm: eqx.nn.LayerNorm

    def __init__(self, width: int, depth: int, *, key: Any):
        keys = jax.random.split(key, depth + 2)
        self.ends = {
            "first": eqx.nn.Linear(8, width, key=keys[0]),
            "last": eqx.nn.Linear(width, CLASSES, key=keys[1]),
        }
        self.blocks = [ResidualBlock(width, key=k) for k in keys[2:]]
        self.norm = eqx.nn.LayerNorm(width)

    def __call__(self, x: Any) -> Any:
        x = self.ends["first"](x)
        for block in self.blocks:
            x = block(x)
        return self.ends["last"](self.norm(x))


_transformer = functools.partial(
    mu.nn.Transformer, vocab_size=VOCAB, head_dim=8, attention_backend="reference", norm_gain="vector"
)


def over(name: str, *values: int) -> tuple[Mapping[str, int], ...]:
    """Values of one size."""
    return tuple({name: value} for value in values)


@functools.cache
def subjects() -> dict[str, Subject]:
    """All of them, by name."""
    transformers = {
        "transformer, biases": functools.partial(_transformer, activation="gelu", use_bias=True),
        "transformer, GQA, SwiGLU, qk-norm": functools.partial(
            _transformer, activation="swiglu", n_kv_head=2, qk_norm=True
        ),
        "transformer, tied": functools.partial(_transformer, activation="relu", tie_embeddings=True),
    }
    texts = [_text(key) for key in range(1, BATCHES + 1)]
    width, wider = {"width": 32}, over("width", 32, 64, 128)
    made = {
        name: Subject(
            make=make,
            loss=text_loss,
            batches=texts,
            base={"d_model": 32, "n_layer": 2},
            sizes=over("d_model", 32, 64, 128),
        )
        for name, make in transformers.items()
    }
    return made | {
        "MLP": Subject(make=_mlp, loss=label_loss, batches=_labelled((8,)), base=width, sizes=wider),
        "CNN": Subject(
            make=ConvNet,
            loss=label_loss,
            batches=_labelled((3, 4, 4)),
            base={"width": 16},
            sizes=over("width", 16, 32, 64),
        ),
        "GRU": Subject(make=Recurrent, loss=text_loss, batches=texts, base=width, sizes=wider),
        "residual net of lists": Subject(
            make=ResidualNet, loss=label_loss, batches=_labelled((8,)), base=width | {"depth": 2}, sizes=wider
        ),
        "mixture of experts": Subject(
            make=functools.partial(Mixture, classes=CLASSES),
            loss=label_loss,
            batches=_labelled((8,)),
            base=width,
            sizes=wider,
        ),
        "state space": Subject(
            make=functools.partial(StateSpace, vocab=VOCAB),
            loss=text_loss,
            batches=texts,
            # What few states gather from few channels is not yet a power of their number at 32.
            base={"width": 64},
            sizes=over("width", 64, 128, 256),
        ),
        "graph attention": Subject(
            make=functools.partial(GraphNet, classes=CLASSES),
            loss=label_loss,
            batches=_labelled((8,)),
            base=width,
            sizes=wider,
        ),
        "encoder-decoder": Subject(
            make=functools.partial(EncoderDecoder, vocab=VOCAB), loss=text_loss, batches=texts, base=width, sizes=wider
        ),
        "U-Net": Subject(
            make=UNet, loss=image_loss, batches=_images(), base={"width": 16}, sizes=over("width", 16, 32, 64)
        ),
    }


def _mlp(width: int, *, key: Any) -> Any:
    return eqx.nn.MLP(8, CLASSES, width, 2, key=key)
