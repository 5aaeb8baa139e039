"""The distance from the linearized network over depth."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equimu import adamw, completep, initialize, nn, parameterize, scaled
from equimu.diagnostics import linearization_error

pytestmark = pytest.mark.usefixtures("light_compilation")

DEPTHS = (4, 8, 16)
make = functools.partial(nn.Transformer, vocab_size=16, d_model=32, head_dim=16, attention_backend="reference")


def test_error_of_a_quadratic_is_its_second_order_over_all():
    class Square(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return self.w**2 * x

    error = linearization_error(Square(jnp.array(1.0)), Square(jnp.array(1.5)), jnp.arange(1.0, 4.0))
    assert float(error) == pytest.approx(0.25 / 1.25)
    linear = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    moved = jax.tree.map(lambda x: x + 0.3, linear)
    assert float(linearization_error(linear, moved, jnp.ones(3))) < 1e-6
    assert float(linearization_error(linear, linear, jnp.ones(3))) == 0


def block_errors(alpha, depth, seed):
    """The mean error of a model's blocks, each at what comes into it, after a few steps."""
    tree = parameterize(make, completep(alpha), base={"n_layer": 2}, target={"n_layer": depth})
    optimizer = adamw(tree, learning_rate=2**-4)
    tokens = jax.random.randint(jax.random.key(1), (8, 17), 0, 16)

    @jax.jit
    def run(key):
        model, static = eqx.partition(initialize(tree, key), eqx.is_inexact_array)

        def loss(model):
            logits = jax.vmap(scaled(tree, eqx.combine(model, static)))(tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        def step(carry, _):
            model, state = carry
            updates, state = optimizer.update(jax.grad(loss)(model), state, model)
            return (eqx.apply_updates(model, updates), state), None

        (end, _), _ = jax.lax.scan(step, (model, optimizer.init(model)), length=8)
        before, after = (scaled(tree, eqx.combine(m, static)) for m in (model, end))

        def layer(x, blocks):
            start, end = (
                eqx.combine(arrays, eqx.filter(b.blocks, eqx.is_array, inverse=True))
                for arrays, b in zip(blocks, (before, after), strict=True)
            )
            return end(x), linearization_error(start, end, x)

        arrays = tuple(eqx.filter(m.blocks, eqx.is_array) for m in (before, after))
        _, errors = jax.lax.scan(layer, after.embedding(tokens[0, :-1]), arrays)
        return errors.mean()

    return float(run(jax.random.key(seed)))


def slope(alpha, depths=DEPTHS, seeds=(0, 1)):
    """Power of the depth by which the error goes."""
    errors = [np.mean([np.log2(block_errors(alpha, depth, seed)) for seed in seeds]) for depth in depths]
    return np.polyfit(np.log2(depths), errors, 1)[0]


@pytest.mark.slow
def test_distance_from_the_linearized_blocks_tells_the_powers_of_depth_apart():
    """It falls as L^-1/2 under depth-μP and stays under CompleteP's alpha of 1."""
    assert slope(0.5) == pytest.approx(-0.5, abs=0.15)
    assert slope(1.0) == pytest.approx(0.0, abs=0.15)
