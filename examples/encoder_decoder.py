"""An encoder-decoder with cross-attention learns to sort.

python examples/encoder_decoder.py             # sweeps over widths, draws the figure and says the verdict
equimu sweep examples/encoder_decoder.py:Sorting
equimu coord-check examples/encoder_decoder.py:Sorting
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import equimu as mu

HEAD, SYMBOLS, LENGTH = 8, 16, 8


class Layer(eqx.Module):
    norms: list[eqx.nn.LayerNorm]
    attentions: list[eqx.nn.MultiheadAttention]
    mlp: eqx.nn.MLP

    def __init__(self, width, attentions, *, key):
        keys = jax.random.split(key, 1 + attentions)
        self.norms = [eqx.nn.LayerNorm(width) for _ in range(1 + attentions)]
        self.attentions = [
            eqx.nn.MultiheadAttention(width // HEAD, width, use_output_bias=True, key=k) for k in keys[1:]
        ]
        self.mlp = eqx.nn.MLP(width, width, 2 * width, 1, jax.nn.gelu, key=keys[0])

    def __call__(self, x, memory=None, mask=None):
        y = jax.vmap(self.norms[0])(x)
        x = x + self.attentions[0](y, y, y, mask)
        if memory is not None:
            x = x + self.attentions[1](jax.vmap(self.norms[1])(x), memory, memory)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norms[-1])(x))


class Sorter(eqx.Module):
    symbols: eqx.nn.Embedding
    positions: eqx.nn.Embedding
    encoder: Layer
    decoder: Layer
    norm: eqx.nn.LayerNorm
    readout: eqx.nn.Linear

    def __init__(self, width, *, key):
        keys = jax.random.split(key, 5)
        self.symbols = eqx.nn.Embedding(SYMBOLS + 1, width, key=keys[0])
        self.positions = eqx.nn.Embedding(LENGTH, width, key=keys[1])
        self.encoder = Layer(width, 1, key=keys[2])
        self.decoder = Layer(width, 2, key=keys[3])
        self.norm = eqx.nn.LayerNorm(width)
        self.readout = eqx.nn.Linear(width, SYMBOLS, key=keys[4])

    def __call__(self, source, target):
        """The logits of each symbol of the sorted sequence, from the source and the symbols before."""
        places = jax.vmap(self.positions)(jnp.arange(LENGTH))
        memory = self.encoder(jax.vmap(self.symbols)(source) + places)
        shifted = jnp.concatenate([jnp.full(1, SYMBOLS), target[:-1]])
        causal = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
        x = self.decoder(jax.vmap(self.symbols)(shifted) + places, memory, causal)
        return jax.vmap(self.readout)(jax.vmap(self.norm)(x))


@dataclasses.dataclass(frozen=True)
class Sorting(mu.Task):
    """Sorting symbols, by an encoder-decoder."""

    rows: int = 32
    examples: int = 16384

    def make(self, width: int = 32, *, key):
        return Sorter(width, key=key)

    def data(self):
        source = np.random.default_rng(0).integers(SYMBOLS, size=(self.examples, LENGTH)).astype(np.int32)
        return mu.data.arrays(source, np.sort(source, axis=1), rows=self.rows, validation=0.05)

    def loss(self, model, batch):
        source, target = batch
        return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(source, target), target)


if __name__ == "__main__":
    runs = mu.sweep(
        Sorting(),
        over={"width": (32, 64, 128)},
        fit={"learning_rate": mu.octaves(-9, -5)},
        seeds=(0, 1),
        steps=150,
        out="runs/encoder_decoder",
    )
    report = mu.report(runs)
    print(report)
    print(*mu.reports.write_report(report, "runs/encoder_decoder"), sep="\n")
