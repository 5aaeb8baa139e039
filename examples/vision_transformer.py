"""A vision transformer on shapes under noise, under rules of width and depth.

Two things about the model cannot be known from its layers and are said in two lines: what the axes of its positional table are
(`register_axes`), and which layers end the residual branches of a block (`register_residual`), where rules of depth put their
factor.

    python examples/vision_transformer.py                             # a sweep over depths, its figure and its verdict
    equimu sweep examples/vision_transformer.py:Shapes --over.depth 1 2 4 --panels completep sp
    equimu coord-check examples/vision_transformer.py:Shapes --parameterization completep --over depth --sizes 2 4 8
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import equimu as mu

SIDE, PATCH, HEAD, CLASSES = 16, 4, 8, 4


class Block(eqx.Module):
    norms: list[eqx.nn.LayerNorm]
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP

    def __init__(self, width, *, key):
        keys = jax.random.split(key)
        self.norms = [eqx.nn.LayerNorm(width) for _ in range(2)]
        self.attention = eqx.nn.MultiheadAttention(width // HEAD, width, use_output_bias=True, key=keys[0])
        self.mlp = eqx.nn.MLP(width, width, 2 * width, 1, jax.nn.gelu, key=keys[1])

    def __call__(self, x):
        y = jax.vmap(self.norms[0])(x)
        x = x + self.attention(y, y, y)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))


class VisionTransformer(eqx.Module):
    embed: eqx.nn.Conv2d
    class_token: jax.Array
    positions: jax.Array
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    readout: eqx.nn.Linear

    def __init__(self, width, depth, *, key):
        keys = jax.random.split(key, 4 + depth)
        self.embed = eqx.nn.Conv2d(1, width, PATCH, stride=PATCH, key=keys[0])
        self.class_token = jax.random.normal(keys[1], (width,))
        self.positions = jax.random.normal(keys[2], ((SIDE // PATCH) ** 2 + 1, width))
        self.blocks = [Block(width, key=k) for k in keys[4:]]
        self.norm = eqx.nn.LayerNorm(width)
        self.readout = eqx.nn.Linear(width, CLASSES, key=keys[3])

    def __call__(self, image):
        patches = self.embed(image[None]).reshape(len(self.class_token), -1).T
        x = jnp.concatenate([self.class_token[None], patches]) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x[0]))


mu.register_axes(VisionTransformer, positions=("table", "out"))
mu.register_residual(Block, "attention.output_proj", "mlp.layers[-1]")


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
    """Shapes under noise, by a vision transformer."""

    rows: int = 32
    examples: int = 8192

    def make(self, width: int = 32, depth: int = 2, *, key):
        return VisionTransformer(width, depth, key=key)

    def data(self):
        return mu.data.arrays(*shapes(self.examples), rows=self.rows)

    def loss(self, model, batch):
        image, label = batch
        return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(image), label)


if __name__ == "__main__":
    runs = mu.sweep(
        Shapes(),
        over={"depth": (1, 2, 4)},
        panels=("completep", "sp"),
        fit={"learning_rate": mu.octaves(-8, -3)},
        seeds=(0,),
        steps=80,
        out="runs/vision_transformer",
    )
    report = mu.report(runs)
    print(report)
    print(*mu.reports.write_report(report, "runs/vision_transformer"), sep="\n")
