"""Optimizers on arrays of other kinds: complex, float16, and models of which a part is frozen by a filter."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equimu import EquimuError, adafactor, adamw, initialize, lion, muon, mup, parameterize, scaled, sgd, sp
from equimu.parameterization import Parameterization

pytestmark = pytest.mark.usefixtures("light_compilation")

KEY = jax.random.key(0)


class Complex(eqx.Module):
    z: jax.Array

    def __init__(self, width, *, key):
        self.z = jax.random.normal(key, (width,), jnp.complex64)


@pytest.mark.parametrize(
    ("family", "make", "close"),
    [
        ("sgd", lambda tree: sgd(tree, learning_rate=0.1), 1e-6),
        ("sgd", lambda tree: sgd(tree, learning_rate=0.1, momentum=0.5), 1e-6),
        ("adam", lambda tree: adamw(tree, learning_rate=0.05), 1e-3),
        ("sign", lambda tree: lion(tree, learning_rate=0.01), 0.2),
    ],
)
def test_documented_loop_converges_on_complex_arrays(family, make, close):
    """The gradient of |z − w|² is 2(z − w), of which jax.grad gives the conjugate: unconjugated, the loop runs away."""
    tree = parameterize(Complex, sp(optimizer=family), base={"width": 4}, target={"width": 8})
    model, optimizer = initialize(tree, KEY), make(tree)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        gradient = eqx.filter_grad(lambda m: jnp.sum(jnp.abs(scaled(tree, m).z - (1 + 1j)) ** 2))(model)
        updates, state = optimizer.update(gradient, state, model)
        return eqx.apply_updates(model, updates), state

    for _ in range(1000):
        model, state = step(model, state)
    assert float(jnp.sum(jnp.abs(model.z - (1 + 1j)) ** 2)) < close


def test_optimizers_of_matrices_refuse_complex_ones_in_one_line():
    class Matrix(eqx.Module):
        layer: eqx.nn.Linear

        def __init__(self, width, *, key):
            self.layer = eqx.nn.Linear(width, width, dtype=jnp.complex64, key=key)

    sizes = {"base": {"width": 4}, "target": {"width": 8}}
    for family, make in (("muon", muon), ("adafactor", adafactor)):
        with pytest.raises(EquimuError, match=f"{family} has no rule for complex arrays, and layer.weight is one"):
            make(parameterize(Matrix, sp(optimizer=family), **sizes), learning_rate=0.1)


def test_adam_of_float16_arrays_has_the_update_of_float32():
    def make(width, dtype, *, key):
        return eqx.nn.MLP(3, 2, width, 2, dtype=jnp.dtype(dtype), key=key)

    made = {}
    for dtype in ("float16", "float32"):
        tree = parameterize(
            lambda width, key, dtype=dtype: make(width, dtype, key=key), mup(), base={"width": 8}, target={"width": 512}
        )
        model = initialize(tree, KEY)
        params = eqx.filter(model, eqx.is_inexact_array)
        optimizer = adamw(tree, learning_rate=0.01)
        state = optimizer.init(params)
        # Gradients whose squares are zero in float16, as is epsilon.
        gradient = jax.tree.map(lambda x: jnp.full_like(x, 1e-5), params)
        for _ in range(3):
            updates, state = optimizer.update(gradient, state, params)
        assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
        made[dtype] = updates
    for half, full in zip(*map(jax.tree.leaves, made.values()), strict=True):
        np.testing.assert_allclose(half, full, rtol=5e-3)


def test_part_of_a_model_that_a_filter_freezes_is_left_alone_and_the_rest_trains_as_before():
    def make(width, *, key):
        return eqx.nn.MLP(3, 2, width, 2, key=key)

    tree = parameterize(make, mup(), base={"width": 8}, target={"width": 16})
    model = initialize(tree, KEY)
    spec = eqx.tree_at(lambda s: s.layers[0].weight, jax.tree.map(eqx.is_inexact_array, model), False)
    trained, frozen = eqx.partition(model, spec)
    optimizer = adamw(tree, learning_rate=0.1)
    state = optimizer.init(trained)
    x = jnp.ones(3)

    def loss(trained):
        return jnp.sum(scaled(tree, eqx.combine(trained, frozen))(x) ** 2)

    def loss_of_parts(trained):
        return jnp.sum(eqx.combine(scaled(tree, trained), scaled(tree, frozen))(x) ** 2)

    assert loss(trained) == loss_of_parts(trained)
    updates, _ = optimizer.update(eqx.filter_grad(loss)(trained), state, trained)
    full = eqx.filter(model, eqx.is_inexact_array)
    gradient = eqx.filter_grad(lambda m: jnp.sum(scaled(tree, m)(x) ** 2))(model)
    expected, _ = optimizer.update(gradient, optimizer.init(full), full)
    assert updates.layers[0].weight is None
    for get in (lambda m: m.layers[0].bias, lambda m: m.layers[1].weight, lambda m: m.layers[2].weight):
        np.testing.assert_array_equal(get(updates), get(expected))


def test_decay_in_the_gradient_is_added_to_it():
    table = Parameterization(name="plain", optimizer="sgd", decay="l2")
    tree = parameterize(
        lambda width, key: eqx.nn.Linear(width, width, key=key), table, base={"width": 4}, target={"width": 8}
    )
    model = initialize(tree, KEY)
    optimizer = sgd(tree, learning_rate=0.5, momentum=0.9, weight_decay=0.1)
    params, velocity = eqx.filter(model, eqx.is_inexact_array), 0.0
    state = optimizer.init(params)
    for _ in range(3):
        gradient = jax.tree.map(jnp.sin, params)
        weight = np.asarray(params.weight, np.float64)
        velocity = 0.9 * velocity + np.sin(weight) + 0.1 * weight
        updates, state = optimizer.update(gradient, state, params)
        np.testing.assert_allclose(updates.weight, -0.5 * velocity, rtol=1e-5)
        params = eqx.apply_updates(params, updates)


@pytest.mark.parametrize("family", ["sgd", "adam"])
def test_decay_in_the_gradient_shrinks_weights_by_the_same_share_at_all_widths(family):
    """Measured on a hidden matrix, its gradient of size 1/n, by the difference that decay makes to one step."""
    shares = []
    for width in (64, 1024):
        tree = parameterize(
            lambda width, key: eqx.nn.MLP(3, 5, width, 2, use_bias=False, use_final_bias=False, key=key),
            mup(optimizer=family, decay="l2"),
            base={"width": 64},
            target={"width": width},
        )
        model = initialize(tree, KEY)
        params = eqx.filter(model, eqx.is_inexact_array)
        # An input's gradient falls as 1/n as well, a readout's (drawn by 1/n here) does not.
        noise = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)
        falling = jax.tree.map(lambda x, n=width: x / n, noise)
        gradient = eqx.tree_at(lambda m: m.layers[-1].weight, falling, noise.layers[-1].weight)
        steps = []
        for decay in (0.0, 1e-4):
            make = sgd if family == "sgd" else adamw
            more = {} if family == "sgd" else {"eps": 0.0}
            optimizer = make(tree, learning_rate=0.1, weight_decay=decay, **more)
            state = optimizer.init(params)
            for one in (gradient, jax.tree.map(lambda x: -x, gradient)):  # so that Adam's step is not just a sign
                updates, state = optimizer.update(one, state, params)
            steps.append(updates)
        share = jax.tree.map(lambda a, b, p: float(-jnp.vdot(a - b, p) / jnp.vdot(p, p)), steps[1], steps[0], params)
        shares.append([layer.weight for layer in share.layers])
    # Of the 192 entries of the first layer such a share is known to a fifth; without its law it is off 16-fold.
    np.testing.assert_allclose(shares[1], shares[0], rtol=0.4)
