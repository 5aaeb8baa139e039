"""Images by a convolutional network with BatchNorm.

The images are gratings under noise, made on the spot; the class is the direction of the stripes.

    python examples/classifier.py             # sweeps over widths, draws the figure and says the verdict
    equimu sweep examples/classifier.py:Gratings
    equimu coord-check examples/classifier.py:Gratings
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import equimu as mu

SIDE, CLASSES = 12, 8


class CNN(eqx.Module):
    layers: list[eqx.nn.Conv2d]
    norms: list[eqx.nn.BatchNorm]
    readout: eqx.nn.Linear

    def __init__(self, width, *, key):
        keys = jax.random.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(1, width, 5, stride=3, padding=1, key=keys[0]),
            eqx.nn.Conv2d(width, width, 3, padding=1, key=keys[1]),
        ]
        self.norms = [eqx.nn.BatchNorm(width, "batch", mode="batch") for _ in self.layers]
        self.readout = eqx.nn.Linear(width, CLASSES, key=keys[2])

    def __call__(self, image, state):
        x = image[None]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x, state = norm(layer(x), state)
            x = jax.nn.relu(x)
        return self.readout(x.mean(axis=(1, 2))), state


def gratings(n, seed=0):
    """Gratings of random phase and wavelength, drowned in noise, and their classes."""
    rng = np.random.default_rng(seed)
    label = rng.integers(CLASSES, size=n)
    phase, pitch = rng.random((2, n, 1, 1))
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    angle = np.pi / CLASSES * label[:, None, None]
    wave = (x * np.cos(angle) + y * np.sin(angle)) * (0.8 + pitch) + 2 * np.pi * phase
    return (np.sin(wave) + 1.5 * rng.normal(size=(n, SIDE, SIDE))).astype(np.float32), label.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Gratings(mu.Task):
    """The direction of stripes under noise."""

    rows: int = 64
    examples: int = 16384

    def make(self, width: int = 48, *, key):
        return CNN(width, key=key)

    def data(self):
        return mu.data.arrays(*gratings(self.examples), rows=self.rows, validation=0.0625)

    def loss(self, model, batch, state):
        image, label = batch
        forward = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        logits, state = forward(image, state)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return mu.Losses(loss, metrics={"accuracy": jnp.argmax(logits, axis=1) == label}, state=state)


if __name__ == "__main__":
    runs = mu.sweep(
        Gratings(),
        over={"width": (24, 48, 96)},
        fit={"learning_rate": mu.octaves(-7, 0)},
        seeds=(0, 1),
        steps=100,
        out="runs/classifier",
    )
    report = mu.report(runs)
    print(report)
    print(*mu.reports.write_report(report, "runs/classifier"), sep="\n")
