"""Everett's three alignments: of matrices whose alignment is known, and of a model that was trained."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equimu import EquimuError, adamw, initialize, mup, nn, parameterize, scaled
from equimu.diagnostics import alignments

pytestmark = pytest.mark.usefixtures("light_compilation")

N = 256


class Two(eqx.Module):
    """Two maps in a row: (out, in) and (in, out)."""

    first: eqx.nn.Linear
    second: nn.Linear

    def __init__(self, n, *, key):
        self.first = eqx.nn.Linear(n, n, use_bias=False, key=key)
        self.second = nn.Linear(n, n, key=key)

    def __call__(self, x):
        return self.second(self.first(x))


def test_exponent_is_a_half_of_independent_and_one_of_aligned_factors():
    tree = parameterize(Two, mup(), base={"n": N}, target={"n": N})
    before = initialize(tree, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (N,))
    rng = np.random.default_rng(0)
    # the first map's update is a multiple of its input, the second's is independent of it
    after = eqx.tree_at(
        lambda m: m.first.weight, before, before.first.weight + 0.01 * jnp.outer(jnp.sign(jnp.arange(N) - 7.5), x)
    )
    after = eqx.tree_at(lambda m: m.second.weight, after, before.second.weight + 0.01 * rng.normal(size=(N, N)))
    found = alignments(tree, before, after, lambda model, x: model(x).sum(), x)
    assert set(found) == {"first.weight", "second.weight"}
    assert found["first.weight"].update_input == pytest.approx(1.0, abs=0.02)
    assert found["first.weight"].weight_change is None and found["first.weight"].update_change is None  # x is data
    assert found["second.weight"].update_input == pytest.approx(0.5, abs=0.03)
    assert found["second.weight"].weight_change == pytest.approx(0.5, abs=0.03)
    assert found["second.weight"].update_change == pytest.approx(0.5, abs=0.03)


@pytest.mark.long
def test_training_aligns_updates_with_their_inputs():
    make = functools.partial(nn.Transformer, vocab_size=16, n_layer=2, head_dim=16, attention_backend="reference")
    tree = parameterize(make, mup(), base={"d_model": 64}, target={"d_model": 64})
    optimizer = adamw(tree, learning_rate=2**-6)
    tokens = jax.random.randint(jax.random.key(1), (8, 17), 0, 16)

    def loss(model, tokens):
        logits = jax.vmap(model)(tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    before = initialize(tree, jax.random.key(0))
    params, static = eqx.partition(before, eqx.is_inexact_array)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        gradient = jax.grad(lambda p: loss(scaled(tree, eqx.combine(p, static)), tokens))(params)
        updates, state = optimizer.update(gradient, state, params)
        return eqx.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)
    found = alignments(tree, before, eqx.combine(params, static), loss, tokens)
    hidden = [f"blocks.attention.{name}.weight" for name in ("query", "key", "value", "output")]
    assert set(found) == {*hidden, "blocks.mlp.up.weight", "blocks.mlp.down.weight", "unembedding.weight"}
    assert all(0.55 < found[path].update_input <= 1.0 for path in found if "query" not in path)
    assert all(0.4 < found[path].weight_change < 0.75 for path in found)


def test_function_that_calls_no_map_is_an_error():
    tree = parameterize(Two, mup(), base={"n": 4}, target={"n": 8})
    model = initialize(tree, jax.random.key(0))
    with pytest.raises(EquimuError, match="calls no module that holds a matrix"):
        alignments(tree, model, model, lambda model, x: x.sum(), jnp.ones(8))
