"""Two properties that no table of numbers can fake: equivalent forms train alike, and μP's updates do not grow with width.

In float64, a multiplier A → A·θ with the weight w → w/θ leaves a whole training alone if the learning rate, the epsilon
and the decay are changed by the right powers of θ. Tables 3, 8 and 9 of TP-V (arXiv 2203.03466) are such forms of each other.
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equimu import adamw, initialize, lion, mup, nn, parameterize, scaled, sgd, sp, tpv
from equimu.parameterization import NUMBERS, rules_of, with_numbers

pytestmark = pytest.mark.usefixtures("light_compilation")

SIZES = {"base": {"d_model": 8}, "target": {"d_model": 24}}
make = functools.partial(
    nn.Transformer,
    vocab_size=11,
    n_layer=1,
    head_dim=8,
    attention_backend="reference",
    n_kv_head=1,
    activation="gelu",
    norm_gain="vector",
    qk_norm=True,
    use_bias=True,
)
tied = functools.partial(
    nn.Transformer,
    vocab_size=11,
    n_layer=1,
    head_dim=8,
    attention_backend="reference",
    activation="gelu",
    tie_embeddings=True,
)
STEPS = 40
OPTIMIZERS = {
    "adam": lambda tree: adamw(tree, learning_rate=0.02, eps=1e-3, weight_decay=1e-3, decay="independent"),
    "sign": lambda tree: lion(tree, learning_rate=0.002, weight_decay=1e-3),
    "sgd": lambda tree: sgd(tree, learning_rate=0.2, momentum=0.9, weight_decay=1e-3),
}


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def program(make, optimizer):
    """(forward weights at the start, numbers of a tree) → (forward weights after the last step, losses); compiled once."""
    with jax.enable_x64(True):
        like = parameterize(make, tpv(8, optimizer=optimizer), **SIZES)
    structure = jax.tree.map(lambda rule: jax.ShapeDtypeStruct(rule.shape, rule.dtype), like)

    def train(forward, numbers, tokens):
        tree = with_numbers(like, numbers)
        optim = OPTIMIZERS[optimizer](tree)
        # corresponding initial weights: what the forward pass sees is the same
        model = jax.tree.map(lambda rule, w: w / rule.multiplier, tree, forward)

        def loss(model, tokens):
            logits = jax.vmap(scaled(tree, model))(tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        def step(carry, tokens):
            model, state = carry
            value, grads = jax.value_and_grad(loss)(model, tokens)
            updates, state = optim.update(grads, state, model)
            return (eqx.apply_updates(model, updates), state), value

        (model, _), losses = jax.lax.scan(step, (model, optim.init(model)), tokens)
        return scaled(tree, model), losses

    return eqx.filter_jit(train), structure


def trained(scheme, optimizer, make=make):
    """Leaves of the forward weights after STEPS updates from one start, and the losses on the way."""
    run, structure = program(make, optimizer)
    tree = parameterize(make, scheme, **SIZES)
    start = np.random.default_rng(0)
    forward = jax.tree.map(lambda s: jnp.asarray(start.normal(size=s.shape) * 0.3 + (s.ndim < 2)), structure)
    if make is tied:
        # the start of a tied slot is not a free choice: it is the multiplier itself
        slot = tree.embedding.readout_multiplier.multiplier
        forward = eqx.tree_at(lambda m: m.embedding.readout_multiplier, forward, jnp.asarray(slot))
    tokens = jax.random.randint(jax.random.key(1), (STEPS, 4, 7), 0, 11)
    numbers = {r.path: {name: jnp.float64(getattr(r, name)) for name in NUMBERS} for r in rules_of(tree)}
    model, losses = run(forward, numbers, tokens)
    if make is tied:
        readout = model.embedding.weight * model.embedding.readout_multiplier
        model = eqx.tree_at(lambda m: m.embedding.readout_multiplier, model, readout)
    return [np.asarray(x) for x in jax.tree.leaves(model)], np.asarray(losses)


def distance(a, b):
    """The largest relative difference of any forward weight, in units of its array's largest entry."""
    return max(np.abs(x - y).max() / np.abs(x).max() for x, y in zip(a[0], b[0], strict=True))


@pytest.mark.parametrize(
    "optimizer", ["adam", pytest.param("sgd", marks=pytest.mark.long), pytest.param("sign", marks=pytest.mark.slow)]
)
def test_tables_3_8_and_9_train_alike(optimizer):
    three, eight, nine = (trained(tpv(table, optimizer=optimizer), optimizer) for table in (3, 8, 9))
    assert three[1][-1] < three[1][0]
    assert distance(three, eight) < 1e-9
    assert distance(three, nine) < 1e-9
    np.testing.assert_allclose(eight[1], three[1], rtol=1e-10)


def test_absolute_forms_train_alike():
    three, eight, nine = (trained(tpv(table, form="absolute"), "adam") for table in (3, 8, 9))
    assert distance(three, eight) < 1e-9
    assert distance(three, nine) < 1e-9


@pytest.mark.parametrize(("optimizer", "table"), [("adam", 8), ("adam", 9)])
def test_leaving_the_epsilon_rule_out_breaks_it(optimizer, table):
    three, other = (trained(tpv(t, eps="constant"), optimizer) for t in (3, table))
    assert distance(three, other) > 1e-3


@pytest.mark.parametrize(
    ("role", "law"), [("hidden", "lr"), ("output", "lr"), ("input", "lr"), ("vector", "lr"), ("output", "eps")]
)
def test_any_law_that_is_off_breaks_it(role, law):
    wrong = tpv(9).tune(role, **{law: 3**0.5})
    assert distance(trained(tpv(3), "adam"), trained(wrong, "adam")) > 1e-3


def test_tied_embeddings_train_alike_in_tables_8_and_9():
    eight, nine = (trained(tpv(t), "adam", tied) for t in (8, 9))
    assert distance(eight, nine) < 1e-9
    np.testing.assert_allclose(eight[1], nine[1], rtol=1e-10)


def test_mup_of_the_paper_trains_as_table_3():
    # Its forms differ in the unembedding's first draw only, which is given here.
    assert distance(trained(mup(), "adam"), trained(tpv(3), "adam")) == 0
    assert distance(trained(mup("absolute"), "adam"), trained(tpv(3, form="absolute"), "adam")) == 0


# --- coordinates


def mlp(n, *, key):
    return eqx.nn.MLP(5, 3, n, 2, use_bias=False, key=key)


@functools.cache
def changes(n):
    """numbers of a tree of width n → RMS change of the last hidden layer and of the output by three Adam steps."""
    like = parameterize(mlp, sp(), base={"n": n}, target={"n": n})
    x, y = jax.random.normal(jax.random.key(1), (8, 5)), jnp.arange(8) % 3

    @jax.jit
    def change(numbers, key):
        tree = with_numbers(like, numbers)
        optim = adamw(tree, learning_rate=2**-6)
        params, static = eqx.partition(initialize(tree, key), eqx.is_inexact_array)

        def layers(params):
            model, h = scaled(tree, eqx.combine(params, static)), x
            for layer in model.layers[:-1]:
                h = jax.nn.relu(h @ layer.weight.T)
            return h, h @ model.layers[-1].weight.T

        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(layers(params)[1], y).mean()

        def step(carry, _):
            params, state = carry
            updates, state = optim.update(jax.grad(loss)(params), state, params)
            return (eqx.apply_updates(params, updates), state), None

        (after, _), _ = jax.lax.scan(step, (params, optim.init(params)), length=3)
        return [jnp.sqrt(jnp.mean((b - a) ** 2)) for a, b in zip(layers(params), layers(after), strict=True)]

    return change


def growth(scheme, base=32, target=256):
    """Octaves per doubling of the width by which the change of the hidden layer and of the output grows."""
    found = []
    for n in (base, target):
        tree = parameterize(mlp, scheme, base={"n": base}, target={"n": n})
        numbers = {r.path: {x: jnp.float64(getattr(r, x)) for x in ("init_mean", *NUMBERS)} for r in rules_of(tree)}
        seeds = [changes(n)(numbers, jax.random.key(seed)) for seed in range(8)]
        found.append(np.mean(np.log2(np.asarray(seeds)), axis=0))
    return (found[1] - found[0]) / np.log2(target / base)


@pytest.mark.parametrize("scheme", [mup(), mup("absolute"), tpv(8), tpv(9)], ids=lambda scheme: scheme.name)
def test_updates_of_activations_do_not_grow_with_width_under_mup(scheme):
    assert np.all(np.abs(growth(scheme)) < 0.2)


def test_updates_of_activations_grow_with_width_under_the_standard_parameterization():
    hidden, output = growth(sp())
    assert hidden > 0.5 and output > 0.7


def test_rules_are_frozen():
    rule = rules_of(parameterize(make, mup(), **SIZES))[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.lr = 2.0
