"""What is recorded is what each module puts out, whatever transforms it runs under, and the model never notices."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import long_but

import equimu as mu
from equimu.diagnostics import record as record_eagerly

pytestmark = pytest.mark.usefixtures("light_compilation")

KEY = jax.random.key(0)
TOKENS = jax.random.randint(jax.random.key(1), (2, 5), 0, 7)
make = functools.partial(mu.nn.Transformer, vocab_size=7, d_model=8, head_dim=4, key=KEY)


def record(function, model, *args):
    """The same in one compiled program; a dictionary would come out of it in the order of its names."""
    names = []

    @eqx.filter_jit
    def run(model, args):
        found = record_eagerly(function, model, *args)
        names[:] = found
        return list(found.values())

    values = run(model, args)
    return dict(zip(names, values, strict=True))


def logits(model, tokens):
    return jax.vmap(model)(tokens)


def test_sites_are_the_outputs_in_the_order_of_execution():
    mlp = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    x = jax.random.normal(KEY, (5, 3))
    found = record(lambda model, x: jax.vmap(model)(x).mean(), mlp, x)
    assert list(found) == ["layers[0]", "layers[1]", "(model)"]
    first = jax.vmap(mlp.layers[0])(x)
    np.testing.assert_allclose(found["layers[0]"], first, rtol=1e-6)
    np.testing.assert_allclose(found["layers[1]"], jax.vmap(mlp.layers[1])(jax.nn.relu(first)), rtol=1e-6)
    np.testing.assert_array_equal(found["(model)"], found["layers[1]"])


@pytest.mark.parametrize(
    "options", long_but([{}], [{}, {"remat": True}, {"remat": "projections"}, {"unroll": 2}]), ids=str
)
def test_scanned_layers_are_stacked_and_keep_their_order(options):
    model = make(n_layer=3, **options)
    found = record(logits, model, TOKENS)
    assert list(found)[:3] == ["embedding", "blocks.attention_norm", "blocks.attention.query"]
    assert list(found)[-4:] == ["blocks", "norm", "unembedding", "(model)"]
    # layers, rows, positions, features
    assert found["blocks.mlp.up"].shape == (3, 2, 5, 32)

    def unrolled(tokens):
        x = model.embedding(tokens)
        for layer in range(3):
            x = jax.tree.map(lambda a, layer=layer: a[layer], model.blocks)(x)
        return x

    np.testing.assert_allclose(found["blocks"][-1], jax.vmap(unrolled)(TOKENS), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["(model)"], logits(model, TOKENS), rtol=1e-4, atol=1e-5)


def test_recording_works_where_the_function_takes_a_gradient_and_outside_of_jit():
    mlp = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    x = jax.random.normal(KEY, (5, 3))

    def slope(model, x):
        return eqx.filter_grad(lambda m: jax.vmap(m)(x).sum())(model)

    plain = record(logits, mlp, x)
    for found in (record(slope, mlp, x), record_eagerly(logits, mlp, x)):
        assert list(found) == list(plain)
        for name, value in found.items():
            np.testing.assert_allclose(value, plain[name], rtol=1e-5)


def test_attention_scores_stand_in_front_of_the_output_and_are_the_scaled_products():
    model = make(n_layer=1, n_kv_head=1, qk_norm=True)
    found = record(logits, model, TOKENS)
    names = list(found)
    assert names.index("blocks.attention.key_norm") < names.index("blocks.attention.scores")
    assert names.index("blocks.attention.scores") + 1 == names.index("blocks.attention.output")
    attention = jax.tree.map(lambda a: a[0], model.blocks.attention)
    q, k, v = attention.heads(found["blocks.attention_norm"][0, 0])
    scores = found["blocks.attention.scores"][0, 0]
    assert scores.shape == (2, 5, 5)
    np.testing.assert_allclose(scores[1], q[:, 1] @ k[:, 0].T / 4, rtol=1e-4, atol=1e-5)
    # The scores are those that the softmax is taken of.
    weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((5, 5), bool)), scores, -jnp.inf))
    mixed = jnp.einsum("hqk,kd->qhd", weights, v[:, 0]).reshape(5, -1)
    np.testing.assert_allclose(found["blocks.attention.output"][0, 0], attention.output(mixed), rtol=1e-3, atol=1e-4)


def test_scores_of_equinox_attention():
    attention = eqx.nn.MultiheadAttention(2, 8, key=KEY)
    x = jax.random.normal(KEY, (5, 8))
    found = record(lambda model, x: model(x, x, x), attention, x)
    q, k = (jax.vmap(layer)(x).reshape(5, 2, 4) for layer in (attention.query_proj, attention.key_proj))
    np.testing.assert_allclose(found["scores"], jnp.einsum("qhd,khd->hqk", q, k) / 2, rtol=1e-5, atol=1e-6)
    assert list(found)[-3:] == ["scores", "output_proj", "(model)"]


def test_a_module_that_is_called_again_has_a_site_of_its_own_each_time():
    linear = eqx.nn.Linear(3, 3, key=KEY)
    found = record(lambda model, x: model["a"](model["a"](x)), {"a": linear}, jnp.ones(3))
    assert list(found) == ["['a']", "['a']#2"]
    np.testing.assert_allclose(found["['a']#2"], linear(linear(jnp.ones(3))), rtol=1e-6)


def test_a_recurrent_cell_is_stacked_over_time():
    cell = eqx.nn.LSTMCell(3, 4, key=KEY)

    def run(cell, xs):
        start = (jnp.zeros(4), jnp.zeros(4))
        return jax.lax.scan(lambda state, x: (cell(x, state), None), start, xs, reverse=True)[0]

    xs = jax.random.normal(KEY, (6, 3))
    found = record(run, cell, xs)
    assert {name: value.shape for name, value in found.items()} == {"(model)[0]": (6, 4), "(model)[1]": (6, 4)}
    np.testing.assert_allclose(found["(model)[0]"][0], run(cell, xs)[0], rtol=1e-6)


def test_recorded_modules_stay_what_they_are():
    seen = []

    class Looks(eqx.Module):
        layer: eqx.nn.Linear

        def __call__(self, x):
            seen.append((isinstance(self.layer, eqx.nn.Linear), self.layer.use_bias, type(self).__name__))
            return self.layer(x)

    record(lambda model, x: model(x), Looks(eqx.nn.Linear(2, 2, key=KEY)), jnp.ones(2))
    assert seen == [(True, True, "Looks")]


def test_sites_of_ones_own():
    class Gate(eqx.Module):
        key: eqx.nn.Linear
        out: eqx.nn.Linear

        def __call__(self, x):
            return self.out(self.key(x) * x)

    mu.register_sites(Gate, lambda gate, x: {"products": gate.key(x) * x}, before="out")
    gate = Gate(eqx.nn.Linear(2, 2, key=KEY), eqx.nn.Linear(2, 1, key=KEY))
    found = record(lambda model, x: model["g"](x), {"g": gate}, jnp.ones(2))
    # What is computed for the site's sake is not recorded again.
    assert list(found) == ["['g'].key", "['g'].products", "['g'].out", "['g']"]
    with pytest.raises(mu.EquimuError, match="has no __call__"):
        mu.register_sites(dict_like := type("Plain", (eqx.Module,), {}), lambda m: {}, before="x")
        del dict_like
