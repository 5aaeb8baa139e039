"""Next-byte prediction with a GRU.

python examples/gru.py             # sweeps over widths, draws the figure and says the verdict
equimu sweep examples/gru.py:NextByte
equimu coord-check examples/gru.py:NextByte
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import equimu as mu


class Gru(eqx.Module):
    embedding: eqx.nn.Embedding
    cell: eqx.nn.GRUCell
    readout: eqx.nn.Linear

    def __init__(self, width, *, key):
        keys = jax.random.split(key, 3)
        self.embedding = eqx.nn.Embedding(256, width, key=keys[0])
        self.cell = eqx.nn.GRUCell(width, width, key=keys[1])
        self.readout = eqx.nn.Linear(width, 256, key=keys[2])

    def __call__(self, text):
        """The logits of each next byte."""

        def step(state, x):
            state = self.cell(x, state)
            return state, state

        _, states = jax.lax.scan(step, jnp.zeros(self.cell.hidden_size), jax.vmap(self.embedding)(text))
        return jax.vmap(self.readout)(states)


@dataclasses.dataclass(frozen=True)
class NextByte(mu.Task):
    """Next-byte prediction with a GRU on Python's standard library."""

    seq: int = 32
    rows: int = 16

    def make(self, width: int = 64, *, key):
        return Gru(width, key=key)

    def data(self):
        return mu.data.text("stdlib", seq=self.seq, rows=self.rows)

    def loss(self, model, batch):
        logits = jax.vmap(model)(batch.inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets), batch.mask


if __name__ == "__main__":
    runs = mu.sweep(
        NextByte(),
        over={"width": (64, 128, 256)},
        fit={"learning_rate": mu.octaves(-8, -3)},
        seeds=(0, 1),
        steps=150,
        out="runs/gru",
    )
    report = mu.report(runs)
    print(report)
    print(*mu.reports.write_report(report, "runs/gru"), sep="\n")
