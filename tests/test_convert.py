"""Moving multipliers between weights and their use: whole trainings and running ones, in float64, for all optimizers."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiers import long_but

from equimu import (
    EquimuError,
    Row,
    adafactor,
    adamw,
    convert,
    everett,
    fold,
    initialize,
    lion,
    mean_field,
    muon,
    mup,
    nn,
    ntk,
    parameterize,
    scaled,
    sgd,
    sp,
    tpv,
    umup,
)
from equimu.parameterization import fan_in, fan_out, layer_fan_in, rules_of, with_numbers

pytestmark = pytest.mark.usefixtures("light_compilation", "traced_once")

STEPS = 60
SIZES = {"base": {"n": 4}, "target": {"n": 16}}
COMMON = {"learning_rate": 0.05, "weight_decay": 0.01}
# Epsilons are large, so that leaving one as it is shows.
OPTIMIZERS = {
    "adam": lambda tree: adamw(tree, eps=1e-2, **COMMON),
    "sign": lambda tree: lion(tree, **COMMON),
    "sgd": lambda tree: sgd(tree, momentum=0.9, nesterov=True, **COMMON),
    "adafactor": lambda tree: adafactor(tree, eps=1e-2, momentum=0.9, min_dim_size_to_factor=8, **COMMON),
    "muon": lambda tree: muon(tree, eps=1e-2, **COMMON),
}
DECAYS = ("standard", "scaled", "independent")


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def make(n, *, key):
    return eqx.nn.MLP(5, 3, n, 2, key=key)


def shifted(scheme):
    """Factors that are powers of two, so that rounding is the same on both sides; fan_in is 16 in the hidden layer."""
    return scheme.shift("hidden", fan_in**-0.5).shift("output", 8.0).shift("input", 0.5).shift("vector", 4.0)


@functools.cache
def program(optimizer, decay):
    """(numbers, model, state or None, steps' first index) → model and state STEPS/2 steps on; compiled once for all trees."""
    like = parameterize(make, mup(optimizer=optimizer, decay=decay), **SIZES)
    x = jax.random.normal(jax.random.key(1), (STEPS, 8, 5), jnp.float64)
    y = jax.random.randint(jax.random.key(2), (STEPS, 8), 0, 3)

    @eqx.filter_jit
    def half(numbers, model, state, first):
        tree = with_numbers(like, numbers)
        optim = OPTIMIZERS[optimizer](tree)
        params, static = eqx.partition(model, eqx.is_inexact_array)
        state = optim.init(params) if state is None else state

        def loss(params, i):
            logits = jax.vmap(scaled(tree, eqx.combine(params, static)))(x[i])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y[i]).mean()

        def step(carry, i):
            params, state = carry
            updates, state = optim.update(jax.grad(loss)(params, i), state, params)
            return (eqx.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, state), first + jnp.arange(STEPS // 2))
        return eqx.combine(params, static), state

    return half


NUMBERS = ("init_mean", "init_std", "multiplier", "lr", "weight_decay", "eps", "one_minus_beta")


def numbers(tree):
    return {rule.path: {name: jnp.float64(getattr(rule, name)) for name in NUMBERS} for rule in rules_of(tree)}


def start(tree):
    """Weights that the forward pass sees alike under every tree."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda r: jnp.asarray(rng.normal(size=r.shape)) * 0.4 / r.multiplier if hasattr(r, "shape") else r, tree
    )


def trained(tree, optimizer, decay):
    half = program(optimizer, decay)
    model, state = half(numbers(tree), start(tree), None, 0)
    # The groups of the second program are those of the first: numbers are traced, and told apart by identity.
    model, _ = half(numbers(tree), model, state, STEPS // 2)
    return fold(tree, model)


def distance(a, b):
    pairs = zip(jax.tree.leaves(eqx.filter(a, eqx.is_array)), jax.tree.leaves(eqx.filter(b, eqx.is_array)), strict=True)
    return max(float(jnp.abs(x - y).max() / jnp.abs(x).max()) for x, y in pairs)


@pytest.mark.parametrize("decay", ["standard", *(pytest.param(d, marks=pytest.mark.slow) for d in DECAYS[1:])])
@pytest.mark.parametrize("optimizer", long_but(("adam", "sgd"), list(OPTIMIZERS)))
def test_shift_keeps_the_training_and_every_part_of_it_is_needed(optimizer, decay):
    scheme = mup(optimizer=optimizer, decay=decay)
    plain, moved = (parameterize(make, s, **SIZES) for s in (scheme, shifted(scheme)))
    reference = trained(plain, optimizer, decay)
    assert distance(reference, trained(moved, optimizer, decay)) < 1e-12
    changed = {"lr"} - ({"lr"} if optimizer == "adafactor" else set())
    changed |= {"eps"} if optimizer in ("adam", "adafactor", "muon") else set()
    changed |= {"weight_decay"} if decay == "standard" and optimizer != "adafactor" else set()
    for name in changed:
        kept = jax.tree.map(
            lambda after, before, name=name: (
                dataclasses.replace(after, **{name: getattr(before, name)}) if hasattr(after, "eps") else after
            ),
            moved,
            plain,
        )
        assert distance(reference, trained(kept, optimizer, decay)) > 1e-3, f"{name} can be left as it is"


def test_umup_trains_as_table_3_with_its_own_rates_does():
    """Its multipliers are a shift; what is its own are the rates of the embedding and of biases."""
    table = tpv(3, form="absolute").replace("input", lr=fan_out**-0.5).replace("vector", lr=layer_fan_in**-0.5)
    three, unit = (trained(parameterize(make, s, **SIZES), "adam", "independent") for s in (table, umup()))
    assert distance(three, unit) < 1e-9
    plain = trained(parameterize(make, tpv(3, form="absolute"), **SIZES), "adam", "independent")
    assert distance(three, plain) > 1e-3


@pytest.mark.parametrize("decay", ["independent", pytest.param("standard", marks=pytest.mark.slow)])
@pytest.mark.parametrize("optimizer", long_but(("adam", "sgd"), list(OPTIMIZERS)))
def test_convert_moves_a_running_training(optimizer, decay):
    scheme = mup(optimizer=optimizer, decay=decay)
    before, after = (parameterize(make, s, **SIZES) for s in (scheme, shifted(scheme)))
    expected, moved = converted_run(before, after, optimizer)
    assert distance(expected, moved) < 1e-12
    stale, unmoved = converted_run(before, after, optimizer, convert_state=False)
    assert distance(stale, unmoved) > 1e-4  # moments of the old weights are not those of the new


def converted_run(before, after, optimizer, convert_state=True):
    """Forward weights behind 2 × 10 steps under one tree, and behind 10 under it and 10 under the other."""
    x = jax.random.normal(jax.random.key(1), (8, 5), jnp.float64)
    y = jax.random.randint(jax.random.key(2), (8,), 0, 3)

    def ten_steps(tree, model, state):
        optim = OPTIMIZERS[optimizer](tree)
        params, static = eqx.partition(model, eqx.is_inexact_array)

        @jax.jit
        def run(params, state):
            def loss(params):
                logits = jax.vmap(scaled(tree, eqx.combine(params, static)))(x)
                return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

            def step(carry, _):
                params, state = carry
                updates, state = optim.update(jax.grad(loss)(params), state, params)
                return (eqx.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, optim.init(params) if state is None else state), length=10)[0]

        params, state = run(params, state)
        return eqx.combine(params, static), state

    model, state = ten_steps(before, start(before), None)
    expected, _ = ten_steps(before, model, state)
    new_model, new_state = convert(model, state, before, after)
    if not convert_state:
        same = parameterize(make, mup(optimizer=rules_of(after)[0].optimizer, decay=rules_of(after)[0].decay), **SIZES)
        _, regrouped = convert(model, state, before, same)
        structure = jax.tree.structure(new_state)
        new_state = jax.tree.unflatten(structure, jax.tree.leaves(regrouped))
    again, _ = ten_steps(after, new_model, new_state)
    return fold(before, expected), fold(after, again)


def test_convert_between_tables_3_8_and_9_and_back_is_the_identity():
    trees = [parameterize(make, tpv(table), **SIZES) for table in (3, 8, 9)]
    model = start(trees[0])
    state = OPTIMIZERS["adam"](trees[0]).init(eqx.filter(model, eqx.is_inexact_array))
    there = convert(model, state, trees[0], trees[1])
    there = convert(*there, trees[1], trees[2])
    like = OPTIMIZERS["adam"](trees[2]).init(eqx.filter(model, eqx.is_inexact_array))
    assert jax.tree.structure(there[1]) == jax.tree.structure(like)
    back = convert(*there, trees[2], trees[0])
    assert eqx.tree_equal(back[0], model, rtol=1e-14) and eqx.tree_equal(back[1], state, rtol=1e-14)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            mup(eps="constant"),
            sp(),
            r"layers\[1\].weight: lr is 0.25 in one tree and 1 in the other; .* equivalent would be 0.25",
        ),
        (mup(), mup(eps="constant"), r"layers\[0\].weight: eps is 0.25 in one tree and 1 in the other"),
        (sp(), everett("ntk"), r"layers\[0\].weight: eps|layers\[1\].weight: lr"),
        (mup(), mup(optimizer="sgd"), "optimizer is 'adam' in one tree and 'sgd'"),
        (mup(), mup(decay="standard"), "decay is 'independent' in one tree and 'standard'"),
    ],
)
def test_convert_between_trees_that_are_not_equivalent_names_leaf_and_number(before, after, words):
    trees = [parameterize(make, s, **SIZES) for s in (before, after)]
    with pytest.raises(EquimuError, match=words):
        convert(start(trees[0]), optax.EmptyState(), *trees)


def test_state_that_convert_cannot_read_is_an_error():
    from equimu import multi_transform

    tree, other = (parameterize(make, s, **SIZES) for s in (mup(), shifted(mup())))
    model = start(tree)
    state = multi_transform(tree, lambda rule: optax.scale_by_rprop(rule.lr)).init(
        eqx.filter(model, eqx.is_inexact_array)
    )
    with pytest.raises(EquimuError, match="does not know how '.*' of an optimizer's state follows"):
        convert(model, state, tree, other)


@pytest.mark.parametrize("scheme", [tpv(8), tpv(9), ntk(), mean_field()], ids=lambda s: s.name)
@pytest.mark.parametrize("tied", [pytest.param(False, marks=pytest.mark.long), True])
def test_folded_model_computes_what_the_scaled_one_does(scheme, tied):
    if tied and scheme.name not in ("tpv-8-relative", "tpv-9-relative"):
        return
    make = functools.partial(nn.Transformer, vocab_size=11, n_layer=2, head_dim=8, tie_embeddings=tied)
    tree = parameterize(make, scheme, base={"d_model": 16}, target={"d_model": 32})
    model = initialize(tree, jax.random.key(0))
    tokens = jnp.arange(11)
    folded = fold(tree, model)
    np.testing.assert_allclose(folded(tokens), scaled(tree, model)(tokens), rtol=1e-6, atol=1e-8)
    assert float(jnp.abs(folded(tokens) - model(tokens)).max()) > 1e-3


def test_fold_of_another_model_is_an_error():
    tree = parameterize(make, mup(), **SIZES)
    with pytest.raises(EquimuError, match="another model"):
        fold(tree, make(8, key=jax.random.key(0)))


def test_shift_says_what_a_row_becomes():
    row = mup(decay="standard").replace("hidden", weight_decay=3.0).shift("hidden", 2.0).hidden
    assert row == Row(
        init_std=fan_in**-0.5 / 2,
        multiplier=2 * fan_in**0,
        lr=mup().hidden.lr / 2,
        weight_decay=6 * fan_in**0,
        eps=mup().hidden.eps * 2,
    )
