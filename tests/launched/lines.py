"""A task that compiles at once, for tests of launchers: other processes import it from this file."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import equimu as mu


class Net(eqx.Module):
    first: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, width, *, key):
        keys = jax.random.split(key)
        self.first = eqx.nn.Linear(4, width, key=keys[0])
        self.last = eqx.nn.Linear(width, 1, key=keys[1])

    def __call__(self, x):
        return self.last(jax.nn.relu(self.first(x)))[0]


@dataclasses.dataclass(frozen=True)
class Lines(mu.Task):
    """The sign of a sum."""

    rows: int = 8

    def make(self, width: int = 8, *, key):
        return Net(width, key=key)

    def data(self):
        x = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)
        return mu.data.arrays(x, np.sign(x.sum(1)), rows=self.rows)

    def loss(self, model, batch):
        x, y = batch
        return jnp.square(jax.vmap(model)(x) - y)
