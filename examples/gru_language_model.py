"""Does the best learning rate of a recurrent language model stay when the network is made wider? In about a minute.

The text is the source of Python's standard library, byte by byte. The model is an embedding, an `eqx.nn.GRUCell` and a readout.
It is trained at three widths and a row of learning rates, under μP and under the standard parameterization (SP). The script
succeeds if under μP the best rate stays where it is.

    python examples/gru_language_model.py
"""

import sys
import sysconfig
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import equimu as mu

BATCH, SEQ = 16, 32
TOLERANCE = 0.3  # octaves by which μP's best learning rate may move with each doubling of the width


class LanguageModel(eqx.Module):
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


def windows(text, rng, n):
    """Random pieces of the text, with the byte that follows the last one."""
    return np.stack([text[i : i + SEQ + 1] for i in rng.integers(len(text) - SEQ - 1, size=n)]).astype(np.int32)


def train(text, scheme, sizes, rates, steps):
    """The loss on text that was held out, after training at each learning rate."""
    tree = mu.parameterize(LanguageModel, scheme, **sizes)

    def loss(model, batch):
        logits = jax.vmap(mu.scaled(tree, model))(batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    def optimizer(rate):
        return mu.adamw(tree, learning_rate=rate, schedule=optax.linear_schedule(1.0, 0.0, steps), clip_norm=1.0)

    @eqx.filter_jit  # the learning rate is an input: one compilation for all of them
    def step(model, state, rate, batch):
        grads = jax.grad(loss)(model, batch)
        updates, state = optimizer(rate).update(grads, state, model)
        return eqx.apply_updates(model, updates), state

    found = []
    split = len(text) * 9 // 10
    test = windows(text[split:], np.random.default_rng(0), 256)
    start = eqx.filter_jit(mu.initialize)(tree, jax.random.key(0))
    for rate in rates:
        rng = np.random.default_rng(1)
        model, state = start, optimizer(rate).init(start)
        for _ in range(steps):
            model, state = step(model, state, jnp.asarray(rate), windows(text[:split], rng, BATCH))
        found.append(float(eqx.filter_jit(loss)(model, test)))
    return found


def stays(widths, log2_rates, steps):
    """Trains at all widths, prints the best learning rates, and tells whether μP's stay."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = np.frombuffer(b"".join(file.read_bytes() for file in files), np.uint8)
    cells = []
    for name, scheme in {"μP": mu.mup(), "SP": mu.sp()}.items():
        for width in widths:
            sizes = {"base": {"width": widths[0]}, "target": {"width": width}}
            found = train(text, scheme, sizes, [2.0**r for r in log2_rates], steps)
            cells += [
                mu.report.Cell(parameterization=name, size=width, learning_rate=2.0**r, seed=0, loss=x)
                for r, x in zip(log2_rates, found, strict=True)
            ]
    panels = mu.report.report(cells).panels
    for panel in panels:
        print(f"GRU, {panel.parameterization}: the best learning rate {panel.verdict.sentence}")
    law = panels[0].law
    return law is not None and abs(law.slope) <= TOLERANCE


if __name__ == "__main__":
    good = stays([64, 96, 128], range(-8, -1), 150)
    print("PASS: under μP the best learning rate stays" if good else "FAIL: the best learning rate moves under μP")
    sys.exit(not good)
