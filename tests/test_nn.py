"""The transformer against a plain numpy implementation of the whole forward pass, and the properties of its parts."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equimu import EquimuError, nn
from equimu.nn import activate, rms_norm, rotary

VOCAB, D, HEAD, SEQ, LAYERS = 11, 16, 4, 6, 2

pytestmark = pytest.mark.usefixtures("light_compilation")

make = functools.partial(nn.Transformer, vocab_size=VOCAB, d_model=D, n_layer=LAYERS, head_dim=HEAD)
TOKENS = np.array([3, 1, 4, 1, 5, 10], np.int32)

OPTIONS = {
    "baseline": {},
    "swiglu": {"activation": "swiglu", "d_ff_multiple": 2.67},
    "gelu, no positions": {"activation": "gelu", "rotary_base": None, "attention_scale": 0.5},
    "squared relu, multi-query": {"activation": "squared_relu", "n_kv_head": 1, "d_ff_multiple": 5.0},
    "norms": {"norm_gain": "vector", "embedding_norm": True, "qk_norm": True, "norm_eps": 1e-2},
    "scalar gains, grouped queries": {"norm_gain": "scalar", "qk_norm": True, "n_kv_head": 2, "rotary_base": 100.0},
    "tied": {"tie_embeddings": True, "activation": "gelu"},
    "all": {
        "activation": "swiglu",
        "n_kv_head": 2,
        "norm_gain": "vector",
        "embedding_norm": True,
        "qk_norm": True,
        "use_bias": True,
        "attention_scale": 0.3,
        "attention_backend": "reference",  # it compiles faster; the backends have tests of their own
    },
}


def randomised(model, seed=0):
    """The model with every array drawn anew, so that no constant start hides a mistake."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.4 + (x.ndim == 1), x.dtype), model)


@functools.cache
def model64(option):
    with jax.enable_x64(True):
        shapes = eqx.filter_eval_shape(make, **OPTIONS[option], key=jax.random.key(0))
        return randomised(shapes)


# --- the whole forward pass, a second time: loops over layers, heads and positions


def norm(x, gain, eps):
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return y if gain is None else y * np.asarray(gain)


def linear(x, layer, i=None):
    weight, bias = (None if a is None else np.asarray(a if i is None else a[i]) for a in (layer.weight, layer.bias))
    return x @ weight + (0 if bias is None else bias)


def rotate(x, base):
    """Each pair (x_j, x_{j + half}) is a complex number, turned by t · base^(-j / half)."""
    half = x.shape[-1] // 2
    turned = np.empty_like(x)
    for t in range(x.shape[0]):
        for j in range(half):
            z = (x[t, j] + 1j * x[t, j + half]) * np.exp(1j * t * base ** (-j / half))
            turned[t, j], turned[t, j + half] = z.real, z.imag
    return turned


def activation(x, name):
    if name == "relu":
        return np.where(x > 0, x, 0)
    if name == "squared_relu":
        return np.where(x > 0, x, 0) ** 2
    if name == "gelu":  # the tanh form
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x / (1 + np.exp(-x))  # that of SwiGLU's gate


def expected_logits(model, tokens, options):
    eps = options.get("norm_eps", 1e-5)
    base = options.get("rotary_base", 10_000.0)
    scale = options.get("attention_scale", 1 / HEAD)
    heads, kv_heads = D // HEAD, options.get("n_kv_head", D // HEAD)
    gain = lambda n, i=None: None if n.gain is None else np.asarray(n.gain if i is None else n.gain[i])  # noqa: E731
    x = np.asarray(model.embedding.weight)[tokens]
    if options.get("embedding_norm"):
        x = norm(x, gain(model.embedding_norm), eps)
    b = model.blocks
    for i in range(LAYERS):
        y = norm(x, gain(b.attention_norm, i), eps)
        a = b.attention
        q, k, v = (linear(y, layer, i) for layer in (a.query, a.key, a.value))
        mixed = np.zeros((len(tokens), D))
        for h in range(heads):
            g = h // (heads // kv_heads)
            qh, kh, vh = (
                q[:, h * HEAD : (h + 1) * HEAD],
                k[:, g * HEAD : (g + 1) * HEAD],
                v[:, g * HEAD : (g + 1) * HEAD],
            )
            if options.get("qk_norm"):
                qh, kh = norm(qh, gain(a.query_norm, i), eps), norm(kh, gain(a.key_norm, i), eps)
            if base is not None:
                qh, kh = rotate(qh, base), rotate(kh, base)
            for t in range(len(tokens)):
                scores = np.exp(scale * (kh[: t + 1] @ qh[t]))
                mixed[t, h * HEAD : (h + 1) * HEAD] = scores @ vh[: t + 1] / scores.sum()
        x = x + linear(mixed, a.output, i)
        y = norm(x, gain(b.mlp_norm, i), eps)
        up, name = linear(y, b.mlp.up, i), options.get("activation", "relu")
        hidden = activation(linear(y, b.mlp.gate, i), name) * up if name == "swiglu" else activation(up, name)
        x = x + linear(hidden, b.mlp.down, i)
    x = norm(x, gain(model.norm), eps)
    if options.get("tie_embeddings"):
        return x @ np.asarray(model.embedding.weight).T * float(model.embedding.readout_multiplier)
    return linear(x, model.unembedding)


@pytest.mark.parametrize("option", OPTIONS)
def test_logits_equal_a_plain_implementation(option):
    model, options = model64(option), OPTIONS[option]
    with jax.enable_x64(True):
        logits = np.asarray(eqx.filter_jit(model)(jnp.asarray(TOKENS)))
    assert logits.dtype == np.float64
    np.testing.assert_allclose(logits, expected_logits(model, TOKENS, options), rtol=1e-10, atol=1e-10)


def test_d_ff_is_the_truncated_multiple():
    shapes = eqx.filter_eval_shape(make, activation="swiglu", d_ff_multiple=2.67, key=jax.random.key(0))
    assert shapes.blocks.mlp.up.weight.shape == (LAYERS, D, 42)  # 2.67 · 16 = 42.72
    assert shapes.blocks.mlp.gate.weight.shape == (LAYERS, D, 42)
    assert shapes.blocks.mlp.down.weight.shape == (LAYERS, 42, D)


def test_fresh_model_starts_as_its_options_say():
    model = eqx.filter_jit(make)(
        use_bias=True,
        norm_gain="vector",
        zero_query=True,
        zero_residual=True,
        zero_unembedding=True,
        d_ff_multiple=8.0,
        key=jax.random.key(0),
    )
    attention, mlp = model.blocks.attention, model.blocks.mlp
    zeros = (attention.query, attention.output, mlp.down, model.unembedding)
    assert all(jnp.all(layer.weight == 0) for layer in zeros)
    assert all(jnp.all(x == 0) for x in (attention.key.bias, mlp.up.bias, model.unembedding.bias))
    assert all(jnp.all(n.gain == 1) for n in (model.norm, model.blocks.attention_norm, model.blocks.mlp_norm))
    for weight, std in ((mlp.up.weight, D**-0.5), (attention.key.weight, D**-0.5), (model.embedding.weight, 1.0)):
        assert jnp.std(weight) == pytest.approx(std, rel=4 / np.sqrt(2 * weight.size))
    assert not jnp.array_equal(attention.key.weight[0], attention.key.weight[1])


# --- properties


@pytest.fixture(scope="module")
def forward():
    """Logits and the remaining gradient checks share one compiled float64 model with every option on."""
    model = model64("all")
    run = eqx.filter_jit(lambda model, tokens: model(tokens))
    return model, run


def test_future_tokens_change_no_past_logits(forward):
    model, run = forward
    with jax.enable_x64(True):
        before = run(model, jnp.asarray(TOKENS))
        for t in range(1, SEQ):
            changed = TOKENS.copy()
            changed[t:] = (changed[t:] + 3) % VOCAB
            after = run(model, jnp.asarray(changed))
            assert jnp.array_equal(before[:t], after[:t])
            assert not jnp.any(jnp.all(before[t:] == after[t:], axis=-1))


def test_gradient_equals_finite_differences(forward):
    model, run = forward
    with jax.enable_x64(True):
        weights = jnp.asarray(np.random.default_rng(2).normal(size=(SEQ, VOCAB)))
        tokens = jnp.asarray(TOKENS)
        value = lambda model: jnp.sum(jnp.tanh(run(model, tokens)) * weights)  # noqa: E731
        gradient = eqx.filter_jit(eqx.filter_grad(value))(model)
        h = 1e-5
        leaves, structure = jax.tree.flatten(model)
        # along a random direction of each array by itself
        for i, (leaf, slope) in enumerate(zip(leaves, jax.tree.leaves(gradient), strict=True)):
            direction = jnp.asarray(np.random.default_rng(i).normal(size=leaf.shape))
            ends = [
                value(jax.tree.unflatten(structure, [*leaves[:i], leaf + sign * h * direction, *leaves[i + 1 :]]))
                for sign in (1, -1)
            ]
            expected = (ends[0] - ends[1]) / (2 * h)
            assert float(jnp.vdot(slope, direction)) == pytest.approx(float(expected), rel=1e-6, abs=1e-8)


def test_every_array_gets_a_gradient_but_the_tied_slot():
    model = model64("tied")
    with jax.enable_x64(True):
        loss = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(jnp.sin(m(jnp.asarray(TOKENS))))))
        gradient = jax.tree.map(np.asarray, loss(model))
    assert gradient.embedding.readout_multiplier == 0
    assert all(np.any(g != 0) for g in jax.tree.leaves(gradient) if g.ndim)


@pytest.mark.long
def test_scan_remat_and_unroll_compute_the_same_as_a_python_loop():
    """Values and gradients."""
    model = model64("all")

    def loop(model, tokens):
        x = model.embedding_norm(model.embedding(tokens))
        for i in range(LAYERS):
            x = jax.tree.map(lambda leaf, i=i: leaf[i], model.blocks)(x)
        return model.unembed(model.norm(x))

    def evaluated(model, forward):
        with jax.enable_x64(True):
            loss = eqx.filter_value_and_grad(lambda model: jnp.sum(jnp.sin(forward(model, jnp.asarray(TOKENS)))))
            return jax.tree.leaves(eqx.filter_jit(loss)(model))

    expected = evaluated(model, loop)
    for change in ({}, {"remat": True, "unroll": 2}, {"remat": "projections"}):
        shapes = eqx.filter_eval_shape(make, **OPTIONS["all"], **change, key=jax.random.key(0))
        changed = jax.tree.unflatten(jax.tree.structure(shapes), jax.tree.leaves(model))
        for a, b in zip(expected, evaluated(changed, lambda model, tokens: model(tokens)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_bfloat16_computes_near_float32_and_gives_float32_logits():
    shapes = eqx.filter_eval_shape(make, **OPTIONS["all"], key=jax.random.key(0))
    half_shapes = eqx.filter_eval_shape(make, **OPTIONS["all"], dtype=jnp.bfloat16, key=jax.random.key(0))
    model = randomised(shapes)
    half = jax.tree.unflatten(jax.tree.structure(half_shapes), jax.tree.leaves(model))
    tokens = jnp.asarray(TOKENS)
    full, rough = (eqx.filter_jit(m)(tokens) for m in (model, half))
    loss = eqx.filter_grad(lambda m: jnp.sum(jnp.sin(m(tokens))))
    features, gradient = eqx.filter_eval_shape(lambda m: (m.features(tokens), loss(m)), half)
    assert features.dtype == jnp.bfloat16 and rough.dtype == full.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))
    error = jnp.sqrt(jnp.mean((full - rough) ** 2)) / jnp.std(full)
    assert 1e-4 < error < 0.05  # bfloat16 has eight bits; not rounding at all would be a mistake too


# --- parts


def test_rms_norm_is_its_formula_and_has_no_mean_subtraction():
    x = np.random.default_rng(0).normal(size=(3, 5)) + 2
    with jax.enable_x64(True):
        found = rms_norm(jnp.asarray(x), eps=0.3)
    np.testing.assert_allclose(found, x / np.sqrt((x**2).sum(-1, keepdims=True) / 5 + 0.3), rtol=1e-14)
    assert jnp.all(rms_norm(jnp.zeros(4)) == 0)


def test_rms_norm_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray([3e19, 1e18, 1.0], jnp.bfloat16)  # its square is beyond bfloat16's neighbours, not beyond float32
    exact = np.asarray(x, np.float64) / np.sqrt((np.asarray(x, np.float64) ** 2).mean())
    found = rms_norm(x / 4)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8, atol=1e-18)


def test_rotary_scores_depend_on_relative_positions_alone():
    with jax.enable_x64(True):
        q, k = (jnp.asarray(np.random.default_rng(s).normal(size=(1, 3, 8))) for s in (0, 1))

        def score(t_q, t_k):
            turned = (rotary(x, jnp.asarray([t]), base=50.0)[0] for x, t in ((q, t_q), (k, t_k)))
            return jnp.einsum("hd,hd->h", *turned)

        np.testing.assert_allclose(score(7, 3), score(104, 100), rtol=1e-12)
        np.testing.assert_allclose(score(0, 0), jnp.einsum("thd,thd->h", q, k), rtol=1e-12)
        assert not jnp.allclose(score(7, 3), score(3, 7))
        assert not jnp.allclose(score(7, 3), score(8, 3))


def test_rotary_keeps_norms_and_position_zero_and_turns_pairs_half_a_head_apart():
    x = jnp.asarray([[[1.0, 2.0, 3.0, 4.0]]] * 2)
    turned = rotary(x, jnp.arange(2), base=100.0)
    np.testing.assert_allclose(turned[0], x[0])
    c, s, c10, s10 = np.cos(1), np.sin(1), np.cos(0.1), np.sin(0.1)
    np.testing.assert_allclose(turned[1, 0], [c - 3 * s, 2 * c10 - 4 * s10, s + 3 * c, 2 * s10 + 4 * c10], rtol=1e-6)
    assert rotary(x.astype(jnp.bfloat16), jnp.arange(2), base=100.0).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["relu", "gelu", "squared_relu", "swiglu"])
def test_activation_is_its_formula(name):
    x = np.linspace(-3, 3, 24).reshape(4, 6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(activate(jnp.asarray(x), name), activation(x, name), rtol=1e-12, atol=1e-15)


def test_linear_maps_the_last_axis_and_adds_up_in_the_dtype_asked_for():
    layer = nn.Linear(4096, 1, use_bias=True, key=jax.random.key(0))
    layer = eqx.tree_at(lambda m: (m.weight, m.bias), layer, (jnp.ones((4096, 1)), jnp.full(1, 0.5)))
    x = jnp.ones((2, 3, 4096), jnp.bfloat16)
    assert layer(x).dtype == jnp.bfloat16
    wide = layer(x, dtype=jnp.float32)
    assert wide.dtype == jnp.float32 and wide.shape == (2, 3, 1) and jnp.all(wide == 4096.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_model": 18}, ["d_model 18 is not a multiple of head_dim 4"]),
        ({"head_dim": 1}, ["head_dim 1 is odd", "rotary"]),
        ({"n_kv_head": 3}, ["3 key/value heads do not divide the 4 query heads"]),
        ({"n_kv_head": 0}, ["n_kv_head must be at least 1"]),
        ({"n_layer": 0}, ["n_layer must be at least 1, got 0"]),
        ({"d_ff_multiple": 0.01}, ["d_ff_multiple 0.01", "no hidden units"]),
        ({"tie_embeddings": True, "zero_unembedding": True}, ["zero_unembedding and tie_embeddings exclude"]),
        ({"tie_embeddings": True, "use_bias": True}, ["use_bias and tie_embeddings exclude"]),
    ],
    ids=str,
)
def test_sizes_and_options_that_cannot_be_say_why(options, words):
    with pytest.raises(EquimuError) as caught:
        eqx.filter_eval_shape(functools.partial(make, **options), key=jax.random.key(0))
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
