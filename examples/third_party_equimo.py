"""A vision transformer of another package, equimo, untouched: two lines say what the axes of its tables are.

equimo is not a dependency, needs Python 3.12 and jax 0.11.1 or newer, and is installed by

    pip install equimo            # or, without what only its pretrained models need,
    pip install --no-deps equimo && pip install einops loguru lz4 banax safetensors

    python examples/third_party_equimo.py             # sweeps over widths, draws the figure and says the verdict
    equimu train examples/third_party_equimo.py:Gratings --size.width 64
    equimu coord-check examples/third_party_equimo.py:Gratings
    equimu plan examples/third_party_equimo.py:Gratings v5e:2x2 --size.width 1024
"""

import dataclasses

import jax
import numpy as np
import optax
from equimo.vision.layers.posemb import LearnedPosEmbed
from equimo.vision.models.vit import VisionTransformer

import equimu as mu

SIDE, HEAD, CLASSES = 16, 8, 8

mu.register_axes(LearnedPosEmbed, weight=("table", "out"))
mu.register_axes(VisionTransformer, cls_token=("table", "out"))


def gratings(n, seed=0):
    """Gratings of random phase and wavelength, drowned in noise, and the classes of their directions."""
    rng = np.random.default_rng(seed)
    label = rng.integers(CLASSES, size=n)
    phase, pitch = rng.random((2, n, 1, 1))
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    angle = np.pi / CLASSES * label[:, None, None]
    wave = (x * np.cos(angle) + y * np.sin(angle)) * (0.8 + pitch) + 2 * np.pi * phase
    image = np.sin(wave) + rng.normal(size=(n, SIDE, SIDE))
    return image[:, None].astype(np.float32), label.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Gratings(mu.Task):
    """The direction of stripes under noise, by a vision transformer of equimo."""

    rows: int = 32
    examples: int = 8192

    def make(self, width: int = 32, depth: int = 2, *, key):
        heads = width // HEAD
        return VisionTransformer(SIDE, 1, width, 4, heads, [depth], num_classes=CLASSES, reg_tokens=0, key=key)

    def data(self):
        return mu.data.arrays(*gratings(self.examples), rows=self.rows)

    def loss(self, model, batch, keys):
        image, label = batch
        logits = jax.vmap(lambda x, key: model(x, key=key))(image, keys)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)


if __name__ == "__main__":
    runs = mu.sweep(
        Gratings(),
        over={"width": (32, 64, 128)},
        fit={"learning_rate": mu.octaves(-8, -3)},
        seeds=(0, 1),
        steps=80,
        out="runs/third_party_equimo",
    )
    report = mu.report(runs)
    print(report)
    print(*mu.reports.write_report(report, "runs/third_party_equimo"), sep="\n")
