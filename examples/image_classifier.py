"""Does the best learning rate of an image classifier stay when the network is made wider? An MLP and a CNN, in a minute.

The images are gratings under noise, made on the spot; the class is the direction of the stripes. Both networks are ordinary
Equinox models that know nothing of μP. Each is trained at two widths and a row of learning rates, under μP and under the
standard parameterization (SP). The script succeeds if under μP the best rate stays where it is.

    python examples/image_classifier.py
"""

import itertools
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import equimu as mu

SIDE, CLASSES, BATCH = 12, 8, 64
TOLERANCE = 0.3  # octaves by which μP's best learning rate may move with each doubling of the width


class MLP(eqx.Module):
    layers: list[eqx.nn.Linear]

    def __init__(self, width, *, key):
        pairs = itertools.pairwise([SIDE * SIDE, width, width, CLASSES])
        self.layers = [eqx.nn.Linear(*pair, key=jax.random.fold_in(key, i)) for i, pair in enumerate(pairs)]

    def __call__(self, image):
        x = image.ravel()
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


class CNN(eqx.Module):
    layers: list[eqx.nn.Conv2d]
    readout: eqx.nn.Linear

    def __init__(self, width, *, key):
        keys = jax.random.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(1, width, 5, stride=3, padding=1, key=keys[0]),
            eqx.nn.Conv2d(width, width, 3, padding=1, key=keys[1]),
        ]
        self.readout = eqx.nn.Linear(width, CLASSES, key=keys[2])

    def __call__(self, image):
        x = image[None]
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.readout(x.mean(axis=(1, 2)))


def images(key, n):
    """Gratings of random phase and wavelength, drowned in noise, and their classes."""
    keys = jax.random.split(key, 3)
    label = jax.random.randint(keys[0], (n,), 0, CLASSES)
    phase, pitch = jax.random.uniform(keys[1], (2, n, 1, 1))
    x, y = jnp.meshgrid(jnp.arange(SIDE), jnp.arange(SIDE))
    angle = jnp.pi / CLASSES * label[:, None, None]
    wave = (x * jnp.cos(angle) + y * jnp.sin(angle)) * (0.8 + pitch) + 2 * jnp.pi * phase
    return jnp.sin(wave) + 1.5 * jax.random.normal(keys[2], (n, SIDE, SIDE)), label


def train(make, scheme, sizes, rates, steps):
    """The loss on fresh images after training, at each learning rate."""
    tree = mu.parameterize(make, scheme, **sizes)

    def loss(model, batch):
        x, label = batch
        logits = jax.vmap(mu.scaled(tree, model))(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    def optimizer(rate):
        return mu.adamw(tree, learning_rate=rate, schedule=optax.linear_schedule(1.0, 0.0, steps))

    @eqx.filter_jit  # the learning rate is an input: one compilation for all of them
    def step(model, state, rate, key):
        grads = jax.grad(loss)(model, images(key, BATCH))
        updates, state = optimizer(rate).update(grads, state, model)
        return eqx.apply_updates(model, updates), state

    found = []
    test = images(jax.random.key(1), 1024)
    start = eqx.filter_jit(mu.initialize)(tree, jax.random.key(0))
    for rate in rates:
        model, state = start, optimizer(rate).init(start)
        for i in range(steps):
            model, state = step(model, state, jnp.asarray(rate), jax.random.key(2 + i))
        found.append(float(eqx.filter_jit(loss)(model, test)))
    return found


def stays(make, widths, log2_rates, steps):
    """Trains at all widths, prints the best learning rates, and tells whether μP's stay."""
    cells = []
    for name, scheme in {"μP": mu.mup(), "SP": mu.sp()}.items():
        for width in widths:
            sizes = {"base": {"width": widths[0]}, "target": {"width": width}}
            found = train(make, scheme, sizes, [2.0**r for r in log2_rates], steps)
            cells += [
                mu.report.Cell(parameterization=name, size=width, learning_rate=2.0**r, seed=0, loss=x)
                for r, x in zip(log2_rates, found, strict=True)
            ]
    panels = mu.report.report(cells).panels
    for panel in panels:
        print(f"{make.__name__}, {panel.parameterization}: the best learning rate {panel.verdict.sentence}")
    law = panels[0].law
    return law is not None and abs(law.slope) <= TOLERANCE


if __name__ == "__main__":
    good = [stays(MLP, [128, 512], range(-11, -3), 100), stays(CNN, [24, 48], range(-8, -2), 100)]
    print("PASS: under μP the best learning rates stay" if all(good) else "FAIL: a best learning rate moves under μP")
    sys.exit(not all(good))
