"""What a constructor starts on purpose: constants, tables, draws of its own; kept, moved by the law, or said to be replaced."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equimu import (
    EquimuError,
    adamw,
    axes,
    from_json,
    initialize,
    mup,
    ntk,
    parameterize,
    register_axes,
    scaled,
    table,
    to_json,
    tpv,
)
from equimu.parameterization import numbers_of, rules_of, with_numbers

BASE, WIDTH = 16, 64

pytestmark = pytest.mark.usefixtures("light_compilation")

KEY = jax.random.key(0)


def tree_of(make, parameterization=None, width=WIDTH):
    return parameterize(make, parameterization or mup(), base={"width": BASE}, target={"width": width})


def rules_by_path(tree):
    return {rule.path: rule for rule in rules_of(tree)}


def start_of(make, parameterization=None, width=WIDTH):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return initialize(tree_of(make, parameterization, width), KEY)


class Chosen(eqx.Module):
    """Everything that a constructor may start otherwise than by a plain draw."""

    biased: eqx.nn.Linear
    lstm: eqx.nn.LSTMCell
    fourier: jax.Array
    zero: jax.Array
    tiny: jax.Array
    time: jax.Array
    frequencies: jax.Array
    head: eqx.nn.Linear

    def __init__(self, width, *, key):
        keys = jax.random.split(key, 7)
        self.biased = eqx.tree_at(lambda layer: layer.bias, eqx.nn.Linear(3, width, key=keys[0]), jnp.full(width, -2.0))
        forget = jnp.zeros(4 * width).at[width : 2 * width].set(1.0)
        self.lstm = eqx.tree_at(lambda cell: cell.bias, eqx.nn.LSTMCell(3, width, key=keys[1]), forget)
        self.fourier = 30 * jax.random.normal(keys[2], (3, width))
        self.zero = 0.0 * jax.random.normal(keys[3], (width, width))
        self.tiny = jax.nn.initializers.variance_scaling(1e-10, "fan_in", "normal")(keys[4], (width, width))
        steps = jnp.exp(jax.random.uniform(keys[5], (width,)) * np.log(100.0) + np.log(1e-3))
        self.time = steps + jnp.log(-jnp.expm1(-steps))
        self.frequencies = 10_000.0 ** (-jnp.arange(width) / width)
        self.head = eqx.nn.Linear(width, 5, key=keys[6])


register_axes(Chosen, fourier=axes("in", "out", as_model=True), zero=("in", "out"), tiny=("in", "out"))


@pytest.fixture(scope="module", params=["law", "constructor"])
def chosen(request):
    return start_of(Chosen, mup().with_start(request.param))


def test_constants_that_the_constructor_sets_are_kept(chosen):
    assert jnp.all(chosen.biased.bias == -2.0)
    assert jnp.array_equal(chosen.lstm.bias, jnp.zeros(4 * WIDTH).at[WIDTH : 2 * WIDTH].set(1.0))
    assert jnp.all(chosen.zero == 0.0)


def test_array_declared_as_the_model_makes_it_is_the_model_s_own(chosen):
    assert jnp.array_equal(chosen.fourier, Chosen(WIDTH, key=KEY).fourier)


def test_what_is_computed_is_neither_drawn_nor_trained(chosen):
    assert jnp.array_equal(chosen.frequencies, 10_000.0 ** (-jnp.arange(WIDTH) / WIDTH))
    tree = tree_of(Chosen)
    rules = rules_by_path(tree)
    assert (rules["frequencies"].lr, rules["frequencies"].weight_decay) == (0.0, 0.0)
    assert rules["lstm.bias"].lr == 1.0, "a class declares it as a parameter"
    assert "as the model, not trained" in table(tree)
    # by training it, with decay, which would shrink it by a percent a step
    params = eqx.filter(chosen, eqx.is_inexact_array)
    optimizer = adamw(tree, learning_rate=0.1, weight_decay=0.01)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    assert jnp.all(updates.frequencies == 0) and jnp.all(updates.head.weight != 0)


def test_computed_array_is_trained_where_that_is_declared():
    class Positions(eqx.Module):
        sines: jax.Array

        def __init__(self, width, *, key):
            self.sines = jnp.sin(jnp.arange(width) / 7)

    assert rules_by_path(tree_of(Positions))["sines"].lr == 0.0
    register_axes(Positions, sines=axes("out", trained=True))
    assert rules_by_path(tree_of(Positions))["sines"].lr == 1.0


@pytest.mark.parametrize("scheme", [mup(), tpv(8), tpv(9), ntk()], ids=lambda scheme: scheme.name)
def test_at_the_base_a_model_starts_as_its_constructor_draws_it(scheme):
    tree = tree_of(Chosen, scheme.with_start("constructor"), width=BASE)
    model, own = initialize(tree, KEY), Chosen(BASE, key=KEY)
    for mine, theirs in zip(jax.tree.leaves(scaled(tree, model)), jax.tree.leaves(own), strict=True):
        if eqx.is_array(mine):
            np.testing.assert_allclose(mine, theirs, rtol=0 if scheme.name.startswith("mup") else 1e-6, atol=0)


def test_from_the_base_on_the_spread_follows_the_law():
    model, own = start_of(Chosen, mup().with_start("constructor")), Chosen(WIDTH, key=KEY)
    # The law of a hidden matrix and of an input agrees with the constructor's: to the bit.
    assert jnp.array_equal(model.tiny, own.tiny)
    assert jnp.array_equal(model.biased.weight, own.biased.weight)
    assert jnp.array_equal(model.time, own.time)
    # That of a readout, 1/n, and the constructor's, n^-1/2, differ by the root of the widths' ratio.
    np.testing.assert_allclose(model.head.weight, own.head.weight * (BASE / WIDTH) ** 0.5, rtol=1e-5)
    # Equinox draws recurrent weights and biases by n^-1/2 whatever they read: three inputs should be read alike at all widths.
    np.testing.assert_allclose(model.lstm.weight_ih, own.lstm.weight_ih * (WIDTH / BASE) ** 0.5, rtol=1e-5)


class Orthogonal(eqx.Module):
    """Draws whose entries are not independent, so that their spread is measured."""

    square: jax.Array
    readout: jax.Array
    level: jax.Array

    def __init__(self, width, *, key):
        make = jax.nn.initializers.orthogonal()
        keys = jax.random.split(key, 3)
        self.square = make(keys[0], (width, width))
        self.readout = make(keys[1], (width, 2))
        self.level = 3.0 + 0.1 * jax.random.normal(keys[2], (2 * width,))


register_axes(Orthogonal, square=("in", "out"), readout=("in", "out"))


@pytest.mark.long
def test_spread_of_mixed_draws_is_measured():
    model, own = start_of(Orthogonal, mup().with_start("constructor"), width=256), Orthogonal(256, key=KEY)
    assert jnp.array_equal(model.square, own.square)  # n^-1/2 both
    # Two orthogonal vectors of length 1: n^-1/2 as well, and the law of a readout is 1/n.
    np.testing.assert_allclose(model.readout, own.readout * (BASE / 256) ** 0.5, rtol=0.05)
    assert jnp.array_equal(model.level, own.level)


def test_draws_that_are_kept_can_be_traced_swept_and_written():
    tree = tree_of(Chosen, mup().with_start("constructor").tune("head", init_std=2.0))
    plain = initialize(tree, KEY)
    traced = eqx.filter_jit(lambda numbers, key: initialize(with_numbers(tree, numbers), key))(
        jax.tree.map(jnp.float32, numbers_of(tree)), KEY
    )
    for mine, theirs in zip(jax.tree.leaves(plain), jax.tree.leaves(traced), strict=True):
        if eqx.is_array(mine):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    np.testing.assert_allclose(plain.head.weight, Chosen(WIDTH, key=KEY).head.weight, rtol=1e-5)  # 2 · √(16/64)
    assert rules_of(from_json(to_json(tree), like=tree)) == rules_of(tree)


def test_mean_next_to_the_spread_moves_with_it_whether_numbers_are_traced_or_not():
    class Tilted(eqx.Module):
        head: jax.Array

        def __init__(self, width, *, key):
            self.head = (jax.random.normal(key, (width, 3)) + 0.1) * width**-0.5

    register_axes(Tilted, head=("in", "out"))
    tree = tree_of(Tilted, mup().with_start("constructor"))
    plain = initialize(tree, KEY)
    traced = eqx.filter_jit(lambda numbers, key: initialize(with_numbers(tree, numbers), key))(
        jax.tree.map(jnp.float32, numbers_of(tree)), KEY
    )
    for model in (plain, traced):  # the law of a readout falls by the root of the widths' ratio faster
        np.testing.assert_allclose(model.head, Tilted(WIDTH, key=KEY).head * (BASE / WIDTH) ** 0.5, rtol=1e-5)


def test_draw_that_was_chosen_is_replaced_by_the_law_with_a_warning_that_names_it():
    with pytest.warns(UserWarning, match=r"tiny, which the constructor draws 0 ± .*time, which .* -4\.59") as caught:
        initialize(tree_of(Chosen), KEY)
    message = str(caught[0].message)
    assert 'with_start("constructor")' in message and "as_model=True" in message
    assert "fourier" not in message and "head" not in message and "biased" not in message


def test_generic_draws_are_replaced_without_a_warning_and_stand_in_the_table():
    def make(width, key):
        return eqx.nn.MLP(3, 2, width, 2, key=key)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = tree_of(make)
        initialize(tree, KEY)
    # Equinox draws uniformly within ±n^-1/2
    assert f"0 ± {WIDTH**-0.5 / 3**0.5:.3g}" in table(tree)


def test_matrix_that_is_made_without_the_key_is_warned_of_unless_that_is_declared():
    class Fixed(eqx.Module):
        weight: jax.Array

        def __init__(self, width, *, key):
            self.weight = jnp.asarray(np.random.default_rng(0).normal(size=(width, width)), jnp.float32)

    register_axes(Fixed, weight=("in", "out"))
    with pytest.warns(UserWarning, match=r"weight starts from what the constructor computes without the key.*as_model"):
        tree_of(Fixed)
    register_axes(Fixed, weight=axes("in", "out", as_model=True))
    assert rules_by_path(tree_of(Fixed))["weight"].lr == BASE / WIDTH


def test_line_for_a_computed_table_leaves_it_untrained():
    class Waves(eqx.Module):
        table: jax.Array

        def __init__(self, width, *, key):
            self.table = jnp.sin(jnp.arange(5 * width).reshape(5, width))

    with pytest.raises(EquimuError, match="trained=False where it is to stay as the constructor computes it") as caught:
        tree_of(Waves)
    line = str(caught.value)[str(caught.value).index("equimu.register_axes(") :]
    exec(line.replace("equimu.", ""), {"register_axes": register_axes, "axes": axes, "Waves": Waves})
    assert rules_by_path(tree_of(Waves))["table"].lr == 0.0


def test_key_of_the_constructor_s_own_is_warned_of():
    class Seeded(eqx.Module):
        weight: jax.Array

        def __init__(self, width, *, key):
            self.weight = jax.random.normal(jax.random.key(7), (width,)) * width**-0.5

    with pytest.warns(UserWarning, match="weight from a random key of its own"):
        tree_of(Seeded)


def test_closure_over_an_array_is_refused_with_what_to_do():
    def make(width, key):
        weight = jax.random.normal(key, (width, 3))
        return eqx.nn.Sequential([eqx.nn.Lambda(lambda x: weight @ x), eqx.nn.Linear(width, 2, key=key)])

    with pytest.raises(EquimuError, match=r"layers\[0\].fn closes over an array .*field of an eqx.Module"):
        tree_of(make)
