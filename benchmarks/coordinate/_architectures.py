"""More kinds of models for coordinate checks, each written as its users write it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import equimu as mu

INPUTS, STATES, EXPERTS, HEAD = 8, 4, 4, 8


class Mixture(eqx.Module):
    """A mixture of experts between two linear layers: a router weighs what all experts make."""

    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    router: eqx.nn.Linear
    experts: eqx.nn.MLP
    last: eqx.nn.Linear

    def __init__(self, width: int, classes: int, *, key: Any):
        keys = jax.random.split(key, 4)
        self.first = eqx.nn.Linear(INPUTS, width, key=keys[0])
        self.norm = eqx.nn.LayerNorm(width)
        self.router = eqx.nn.Linear(width, EXPERTS, use_bias=False, key=keys[1])
        self.experts = eqx.filter_vmap(lambda k: eqx.nn.MLP(width, width, 2 * width, 1, key=k))(
            jax.random.split(keys[2], EXPERTS)
        )
        self.last = eqx.nn.Linear(width, classes, key=keys[3])

    def __call__(self, x: Any) -> Any:
        x = self.first(x)
        h = self.norm(x)
        made = eqx.filter_vmap(lambda expert: expert(h))(self.experts)
        return self.last(x + jax.nn.softmax(self.router(h)) @ made)


class Mixer(eqx.Module):
    """A selective state-space layer: each channel has states that decay at rates which depend on the input."""

    step: eqx.nn.Linear
    write: eqx.nn.Linear
    read: eqx.nn.Linear
    log_rates: jax.Array
    skip: jax.Array

    def __init__(self, width: int, *, key: Any):
        keys = jax.random.split(key, 3)
        self.step = eqx.nn.Linear(width, width, key=keys[0])
        self.write = eqx.nn.Linear(width, STATES, use_bias=False, key=keys[1])
        self.read = eqx.nn.Linear(width, STATES, use_bias=False, key=keys[2])
        self.log_rates = jnp.zeros((width, STATES))
        self.skip = jnp.ones(width)

    def __call__(self, x: Any) -> Any:
        steps, written, read = jax.nn.softplus(jax.vmap(self.step)(x)), jax.vmap(self.write)(x), jax.vmap(self.read)(x)
        rates = -jnp.exp(self.log_rates)

        def turn(states: Any, now: Any) -> Any:
            x, step, write, read = now
            states = states * jnp.exp(step[:, None] * rates) + (step * x)[:, None] * write
            return states, states @ read

        start = jnp.zeros(self.log_rates.shape)
        return jax.lax.scan(turn, start, (x, steps, written, read))[1] + self.skip * x


# What is written to the states and read from them stays inside, though there are few.
mu.register_axes(Mixer, log_rates=("out", "stack"), **{"write.weight": ("inner", "in"), "read.weight": ("inner", "in")})


class StateSpace(eqx.Module):
    """A language model of one such layer."""

    embedding: eqx.nn.Embedding
    norm: eqx.nn.RMSNorm
    up: eqx.nn.Linear
    mixer: Mixer
    down: eqx.nn.Linear
    readout: eqx.nn.Linear

    def __init__(self, width: int, vocab: int, *, key: Any):
        keys = jax.random.split(key, 5)
        self.embedding = eqx.nn.Embedding(vocab, width, key=keys[0])
        self.norm = eqx.nn.RMSNorm(width)
        self.up = eqx.nn.Linear(width, width, key=keys[1])
        self.mixer = Mixer(width, key=keys[2])
        self.down = eqx.nn.Linear(width, width, key=keys[3])
        self.readout = eqx.nn.Linear(width, vocab, key=keys[4])

    def __call__(self, tokens: Any) -> Any:
        x = jax.vmap(self.embedding)(tokens)
        h = jax.nn.silu(jax.vmap(self.up)(jax.vmap(self.norm)(x)))
        return jax.vmap(self.readout)(x + jax.vmap(self.down)(self.mixer(h)))


class GraphLayer(eqx.Module):
    """Graph attention: neighbours are weighed by what two vectors say of their features."""

    project: eqx.nn.Linear
    of_source: jax.Array
    of_target: jax.Array

    def __init__(self, d_in: int, width: int, *, key: Any):
        keys = jax.random.split(key, 3)
        self.project = eqx.nn.Linear(d_in, width, key=keys[0])
        self.of_source = jax.random.normal(keys[1], (width,))
        self.of_target = jax.random.normal(keys[2], (width,))

    def __call__(self, x: Any, neighbours: Any) -> Any:
        h = jax.vmap(self.project)(x)
        scores = jax.nn.leaky_relu((h @ self.of_target)[:, None] + (h @ self.of_source)[None, :], 0.2)
        return jax.nn.softmax(jnp.where(neighbours, scores, -jnp.inf), axis=-1) @ h


mu.register_axes(GraphLayer, of_source=("in",), of_target=("in",))


class GraphNet(eqx.Module):
    """Two layers of graph attention on a ring of nodes; classifies the whole."""

    layers: list[GraphLayer]
    last: eqx.nn.Linear

    def __init__(self, width: int, classes: int, *, key: Any):
        keys = jax.random.split(key, 3)
        self.layers = [GraphLayer(INPUTS, width, key=keys[0]), GraphLayer(width, width, key=keys[1])]
        self.last = eqx.nn.Linear(width, classes, key=keys[2])

    def __call__(self, x: Any) -> Any:
        nodes = jnp.stack([jnp.roll(x, shift) for shift in range(6)])
        distance = jnp.abs(jnp.arange(6)[:, None] - jnp.arange(6))
        neighbours = (distance <= 1) | (distance == 5)
        for layer in self.layers:
            nodes = jax.nn.relu(layer(nodes, neighbours))
        return self.last(nodes.mean(axis=0))


class EncoderDecoder(eqx.Module):
    """An encoder, and a decoder that attends to itself and to what the encoder made."""

    source: eqx.nn.Embedding
    target: eqx.nn.Embedding
    norms: list[eqx.nn.LayerNorm]
    encoder: eqx.nn.MultiheadAttention
    decoder: eqx.nn.MultiheadAttention
    cross: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    readout: eqx.nn.Linear

    def __init__(self, width: int, vocab: int, *, key: Any):
        keys = jax.random.split(key, 7)
        self.source, self.target = (eqx.nn.Embedding(vocab, width, key=k) for k in keys[:2])
        self.norms = [eqx.nn.LayerNorm(width) for _ in range(4)]
        self.encoder, self.decoder, self.cross = (
            eqx.nn.MultiheadAttention(width // HEAD, width, key=k) for k in keys[2:5]
        )
        self.mlp = eqx.nn.MLP(width, width, 2 * width, 1, key=keys[5])
        self.readout = eqx.nn.Linear(width, vocab, key=keys[6])

    def __call__(self, tokens: Any) -> Any:
        first, second, third, fourth = (jax.vmap(norm) for norm in self.norms)
        memory = jax.vmap(self.source)(tokens[::-1])
        memory = first(memory + self.encoder(memory, memory, memory))
        x = jax.vmap(self.target)(tokens)
        h = second(x)
        x = x + self.decoder(h, h, h, mask=jnp.tril(jnp.ones((len(tokens), len(tokens)), bool)))
        x = x + self.cross(third(x), memory, memory)
        x = x + jax.vmap(self.mlp)(fourth(x))
        return jax.vmap(self.readout)(x)


class UNet(eqx.Module):
    """Down, up, and a way past both: an image from an image."""

    stem: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    down: eqx.nn.Conv2d
    middle: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d
    join: eqx.nn.Conv2d
    last: eqx.nn.Conv2d

    def __init__(self, width: int, *, key: Any):
        keys = jax.random.split(key, 6)
        self.stem = eqx.nn.Conv2d(3, width, 3, padding=1, key=keys[0])
        self.norm = eqx.nn.GroupNorm(4, width)
        self.down = eqx.nn.Conv2d(width, 2 * width, 2, stride=2, key=keys[1])
        self.middle = eqx.nn.Conv2d(2 * width, 2 * width, 3, padding=1, key=keys[2])
        self.up = eqx.nn.ConvTranspose2d(2 * width, width, 2, stride=2, key=keys[3])
        self.join = eqx.nn.Conv2d(2 * width, width, 3, padding=1, key=keys[4])
        self.last = eqx.nn.Conv2d(width, 3, 1, key=keys[5])

    def __call__(self, x: Any) -> Any:
        x = jax.nn.relu(self.norm(self.stem(x)))
        h = jax.nn.relu(self.middle(jax.nn.relu(self.down(x))))
        x = jax.nn.relu(self.join(jnp.concatenate([x, self.up(h)])))
        return self.last(x)
