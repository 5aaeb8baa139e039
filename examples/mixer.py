"""An MLP-mixer with dropout.

python examples/mixer.py             # sweeps over widths, draws the figure and says the verdict
equimu sweep examples/mixer.py:Shapes
equimu coord-check examples/mixer.py:Shapes
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import equimu as mu

SIDE, PATCH, CLASSES = 16, 4, 4


class Block(eqx.Module):
    norms: list[eqx.nn.LayerNorm]
    patches: eqx.nn.MLP
    channels: eqx.nn.MLP
    dropout: eqx.nn.Dropout

    def __init__(self, width, *, key):
        keys = jax.random.split(key)
        n = (SIDE // PATCH) ** 2
        self.norms = [eqx.nn.LayerNorm(width) for _ in range(2)]
        self.patches = eqx.nn.MLP(n, n, 2 * n, 1, jax.nn.gelu, key=keys[0])
        self.channels = eqx.nn.MLP(width, width, 2 * width, 1, jax.nn.gelu, key=keys[1])
        self.dropout = eqx.nn.Dropout(0.1)

    def __call__(self, x, key):
        keys = jax.random.split(key)
        y = jax.vmap(self.patches, in_axes=1, out_axes=1)(jax.vmap(self.norms[0])(x))
        x = x + self.dropout(y, key=keys[0])
        return x + self.dropout(jax.vmap(self.channels)(jax.vmap(self.norms[1])(x)), key=keys[1])


class Mixer(eqx.Module):
    embed: eqx.nn.Conv2d
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    readout: eqx.nn.Linear

    def __init__(self, width, depth, *, key):
        keys = jax.random.split(key, 2 + depth)
        self.embed = eqx.nn.Conv2d(1, width, PATCH, stride=PATCH, key=keys[0])
        self.blocks = [Block(width, key=k) for k in keys[2:]]
        self.norm = eqx.nn.LayerNorm(width)
        self.readout = eqx.nn.Linear(width, CLASSES, key=keys[1])

    def __call__(self, image, key):
        x = self.embed(image[None]).reshape(-1, (SIDE // PATCH) ** 2).T
        for block, k in zip(self.blocks, jax.random.split(key, len(self.blocks)), strict=True):
            x = block(x, k)
        return self.readout(jnp.mean(jax.vmap(self.norm)(x), axis=0))


mu.register_residual(Block, "patches.layers[-1]", "channels.layers[-1]")


def shapes(n, seed=0):
    """Discs, squares, diamonds and crosses of random place and size, drowned in noise, and which they are."""
    rng = np.random.default_rng(seed)
    label = rng.integers(CLASSES, size=n)
    radius = rng.uniform(3.5, 6.0, (n, 1, 1))
    middle = rng.uniform(6.5, SIDE - 7.5, (2, n, 1, 1))
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)))[:, None]
    x, y = np.abs(grid - middle) / radius
    kinds = [x**2 + y**2 < 1, np.maximum(x, y) < 0.9, x + y < 1.25, (np.minimum(x, y) < 0.3) & (x + y < 1.3)]
    image = np.stack(kinds)[label, np.arange(n)] + 0.5 * rng.normal(size=(n, SIDE, SIDE))
    return image.astype(np.float32), label.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Shapes(mu.Task):
    """Shapes under noise, by an MLP-mixer with dropout."""

    rows: int = 32
    examples: int = 8192

    def make(self, width: int = 32, depth: int = 2, *, key):
        return Mixer(width, depth, key=key)

    def data(self):
        return mu.data.arrays(*shapes(self.examples), rows=self.rows)

    def loss(self, model, batch, keys):
        image, label = batch
        logits = jax.vmap(model)(image, keys)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)


if __name__ == "__main__":
    runs = mu.sweep(
        Shapes(),
        over={"width": (32, 64, 128)},
        fit={"learning_rate": mu.octaves(-8, -3)},
        seeds=(0, 1),
        steps=120,
        out="runs/mixer",
    )
    report = mu.report(runs)
    print(report)
    print(*mu.reports.write_report(report, "runs/mixer"), sep="\n")
