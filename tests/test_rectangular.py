"""Widths that grow by different ratios: what an update does to the next layer, and how gradients fall, measured directly."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiers import long_but

from equimu import adamw, everett, initialize, lion, mup, parameterize, register_axes, scaled, sgd, spectral, tpv
from equimu.parameterization import rules_of

pytestmark = pytest.mark.usefixtures("light_compilation")

# Two widths, grown one at a time, the other, and both by different ratios; the last against the first is what is compared.
GROWTHS = {
    "out": [(64, 64), (64, 256), (64, 1024)],
    "in": [(64, 64), (256, 64), (1024, 64)],
    "both": [(64, 64), (128, 256), (256, 1024)],
}
CLASSES, ROWS = 8, 16


class Net(eqx.Module):
    """3 → n1 → n2 → n2 → 8, with the hidden map n1 → n2 between two widths."""

    layers: list[eqx.nn.Linear]

    def __init__(self, n1, n2, *, key):
        sizes = [3, n1, n2, n2, CLASSES]
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Linear(i, o, use_bias=False, key=k) for i, o, k in zip(sizes, sizes[1:], keys, strict=False)
        ]

    def __call__(self, x):
        features = []
        for layer in self.layers[:-1]:
            x = jnp.tanh(layer(x))
            features.append(x)
        return self.layers[-1](x), features


def loss(tree, model, batch):
    logits, _ = jax.vmap(scaled(tree, model))(batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


BATCH = np.random.default_rng(0).standard_normal((ROWS, 3)), np.arange(ROWS) % CLASSES


def measured(scheme, optimizer, sizes, steps):
    """After some steps: the size of what the last update of the n1 → n2 map does to its output, and of its gradient."""
    base = {"n1": 64, "n2": 64}
    tree = parameterize(Net, scheme, base=base, target=dict(zip(base, sizes, strict=True)))
    effects, gradients = [], []
    for seed in range(3):
        model = initialize(tree, jax.random.key(seed))
        model = jax.tree.map(lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, model)
        params = eqx.filter(model, eqx.is_inexact_array)
        state = optimizer(tree).init(params)
        step = eqx.filter_jit(functools.partial(_step, tree, optimizer(tree)))
        for _ in range(steps):
            model, state, gradient, update = step(model, state)
        _, features = jax.vmap(scaled(tree, model))(BATCH[0])
        multiplier = tree.layers[1].weight.multiplier
        effects.append(float(jnp.sqrt(jnp.mean((features[0] @ (multiplier * update).T) ** 2))))
        gradients.append(float(jnp.sqrt(jnp.mean(gradient**2))))
    return np.mean(effects), np.mean(gradients)


def _step(tree, optimizer, model, state):
    gradient = eqx.filter_grad(lambda m: loss(tree, m, BATCH))(model)
    updates, state = optimizer.update(gradient, state, eqx.filter(model, eqx.is_inexact_array))
    return eqx.apply_updates(model, updates), state, gradient.layers[1].weight, updates.layers[1].weight


TABLES = {
    "mup": mup,
    "tpv 3": functools.partial(tpv, 3),
    "tpv 8": functools.partial(tpv, 8),
    "tpv 9": functools.partial(tpv, 9),
    "spectral": functools.partial(spectral, "relative"),
    "everett": functools.partial(everett, "mup"),
}
OPTIMIZERS = {
    "sgd": lambda tree: sgd(tree, learning_rate=0.1),
    "adam": lambda tree: adamw(tree, learning_rate=2**-10),
    "sign": lambda tree: lion(tree, learning_rate=2**-12),
}


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("table", [*TABLES])
@pytest.mark.parametrize("family", [*OPTIMIZERS])
@pytest.mark.slow
def test_update_of_a_map_between_two_widths_moves_its_output_alike_at_all_of_them(family, table, growth):
    check(family, table, growth)


@pytest.mark.parametrize("growth", long_but(("in",), list(GROWTHS)))
def test_update_moves_the_output_alike_under_sgd(growth):
    # Without the rate's ratio the effect falls 16-fold here where the output alone grows 16-fold.
    check("sgd", "tpv 3", growth)


def check(family, table, growth):
    with jax.enable_x64(True):
        scheme = TABLES[table](optimizer=family)
        small, large = (
            measured(scheme, OPTIMIZERS[family], sizes, steps=4)[0]
            for sizes in (GROWTHS[growth][0], GROWTHS[growth][-1])
        )
        assert 0.5 < large / small < 2, (small, large)


@pytest.mark.parametrize("growth", long_but(("in",), ("out", "in")))
def test_epsilon_follows_the_gradient_of_a_map_between_two_widths(growth):
    with jax.enable_x64(True):
        scheme, ratios = mup(), []
        for sizes in (GROWTHS[growth][0], GROWTHS[growth][-1]):
            base = {"n1": 64, "n2": 64}
            tree = parameterize(Net, scheme, base=base, target=dict(zip(base, sizes, strict=True)))
            _, gradient = measured(scheme, OPTIMIZERS["adam"], sizes, steps=1)
            ratios.append(gradient / tree.layers[1].weight.eps)
        assert 0.5 < ratios[1] / ratios[0] < 2, ratios


# --- keys and values of a fixed number of heads


class Grouped(eqx.Module):
    """Attention of n/8 query heads and one key/value head, on top of an embedding."""

    embedding: eqx.nn.Embedding
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    output: eqx.nn.Linear
    readout: eqx.nn.Linear

    def __init__(self, n, *, key):
        keys = jax.random.split(key, 6)
        self.embedding = eqx.nn.Embedding(CLASSES, n, key=keys[0])
        self.query = eqx.nn.Linear(n, n, use_bias=False, key=keys[1])
        self.key = eqx.nn.Linear(n, 8, use_bias=False, key=keys[2])
        self.value = eqx.nn.Linear(n, 8, use_bias=False, key=keys[3])
        self.output = eqx.nn.Linear(n, n, use_bias=False, key=keys[4])
        self.readout = eqx.nn.Linear(n, CLASSES, use_bias=False, key=keys[5])

    def __call__(self, tokens):
        x = jax.vmap(self.embedding)(tokens)
        heads = jax.vmap(self.query)(x).reshape(len(x), -1, 8)
        keys, values = jax.vmap(self.key)(x), jax.vmap(self.value)(x)
        scores = jax.nn.softmax(jnp.einsum("qhd,kd->hqk", heads, keys) / 8, axis=-1)
        mixed = jnp.einsum("hqk,kd->qhd", scores, values).reshape(len(x), -1)
        return jax.vmap(self.readout)(x + jax.vmap(self.output)(mixed))


register_axes(Grouped, **{"key.weight": ("inner", "in"), "value.weight": ("inner", "in")})


def test_values_of_one_head_move_by_a_bounded_amount_under_sgd_and_epsilon_follows_their_gradient():
    """With slopes of n heads that add up, the rate has to fall as 1/n: with the rate of a square matrix the effect explodes."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, CLASSES, (4, 12)))

    def value_loss(tree, model):
        logits = jax.vmap(scaled(tree, model))(tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    with jax.enable_x64(True):
        effects, shares = [], []
        for n in (64, 1024):
            tree = parameterize(Grouped, mup(optimizer="sgd"), base={"n": 64}, target={"n": n})
            adam = parameterize(Grouped, mup(), base={"n": 64}, target={"n": n})
            model = initialize(tree, jax.random.key(0))
            optimizer = sgd(tree, learning_rate=0.5)
            state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
            gradient_of = eqx.filter_jit(eqx.filter_grad(functools.partial(value_loss, tree)))
            for step in range(6):
                gradient = gradient_of(model)
                if step == 0:
                    first = jnp.sqrt(jnp.mean(gradient.value.weight**2)) / adam.value.weight.eps
                updates, state = optimizer.update(gradient, state)
                model = eqx.apply_updates(model, updates)
            x = model.embedding.weight
            effects.append(float(jnp.sqrt(jnp.mean((x @ updates.value.weight.T) ** 2))))
            shares.append(float(first))
        assert effects[1] / effects[0] < 2, effects
        assert 1 / 3 < shares[1] / shares[0] < 3, shares


def test_rate_of_a_square_matrix_is_the_published_one():
    tree = parameterize(
        lambda n, key: eqx.nn.MLP(3, 5, n, 2, key=key), tpv(3, optimizer="sgd"), base={"n": 8}, target={"n": 64}
    )
    hidden = [rule for rule in rules_of(tree) if rule.role == "hidden"]
    assert [rule.lr for rule in hidden] == [1.0]
