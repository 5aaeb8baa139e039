"""Models of any make: what their rules are, how one says what cannot be known, and what the initial draw keeps."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equimu import (
    EquimuError,
    adamw,
    completep,
    initialize,
    mup,
    nn,
    parameterize,
    register_axes,
    scaled,
    sp,
    tpv,
    umup,
)
from equimu.parameterization import rules_of

N, M = 24, 3  # the target width and its ratio to the base


pytestmark = pytest.mark.usefixtures("light_compilation")


def tree_of(make, scheme=None, **depth):
    base, target = ({name: sizes[i] for name, sizes in depth.items()} for i in (0, 1))
    return parameterize(make, scheme or mup(), base={"n": N // M, **base}, target={"n": N, **target})


def roles(make, scheme=None):
    return {rule.path: rule.role for rule in rules_of(tree_of(make, scheme))}


def error_of(make, scheme=None, **depth):
    with pytest.raises(EquimuError) as caught:
        tree_of(make, scheme, **depth)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stacked(layer, key, copies):
    return eqx.filter_vmap(layer)(jax.random.split(key, copies))


# --- declarations


class Attention(eqx.Module):
    """Many query heads, one key/value head of a fixed size."""

    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: list[eqx.nn.Linear]

    def __init__(self, n, *, key):
        self.query = eqx.nn.Linear(n, n, key=key)
        self.key = eqx.nn.Linear(n, 8, key=key)
        self.value = [eqx.nn.Linear(n, 8, key=key)]


def test_declaration_of_a_part_goes_before_that_of_its_class():
    assert roles(Attention)["key.weight"] == "output"  # which a linear layer to finitely many features otherwise is

    class Declared(Attention):
        pass

    register_axes(Declared, **{"key.weight": ("inner", "in"), "value[-1].weight": ("inner", "in")})
    found = roles(lambda n, key: {"a": [Declared(n, key=key)]})
    assert {path: role for path, role in found.items() if path.endswith("weight")} == {
        "['a'][0].query.weight": "hidden",
        "['a'][0].key.weight": "hidden",
        "['a'][0].value[0].weight": "hidden",
    }
    many = roles(lambda n, key: stacked(lambda k: Declared(n, key=k), key, 4))
    assert many["key.weight"] == "hidden"


def test_outer_declaration_of_a_part_goes_before_an_inner_one():
    class Outer(eqx.Module):
        inner: eqx.nn.MultiheadAttention

        def __init__(self, n, *, key):
            self.inner = eqx.nn.MultiheadAttention(2, n, qk_size=4, key=key)

    assert roles(Outer)["inner.key_proj.weight"] == "hidden"
    register_axes(Outer, **{"inner.key_proj.weight": ("out", "in")})
    assert roles(Outer)["inner.key_proj.weight"] == "output"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("kee.weight", ["Attention has no field 'kee'", "did you mean 'key'"]),
        ("key..weight", ["'key..weight' is not a path below a Attention"]),
    ],
)
def test_declaration_of_a_part_that_cannot_be_read_says_so(part, words):
    with pytest.raises(EquimuError) as caught:
        register_axes(Attention, **{part: ("inner", "in")})
    assert all(word in str(caught.value) for word in words)


def test_declaration_of_a_part_that_is_not_there_says_so():
    class Missing(Attention):
        pass

    register_axes(Missing, **{"value[3].weight": ("inner", "in")})
    message = error_of(lambda n, key: [Missing(n, key=key)])
    assert "Missing is declared to have an array at 'value[3].weight', and has no such part" in message


class Tokens(eqx.Module):
    positions: jax.Array
    mixing: jax.Array

    def __init__(self, n, *, key):
        self.positions = jax.random.normal(key, (5, n))
        self.mixing = jax.random.normal(key, (n, 2, n))


def test_raw_arrays_are_refused_with_a_line_that_makes_them_work():
    class Vision(eqx.Module):
        class_token: jax.Array
        tokens: Tokens

        def __init__(self, n, *, key):
            self.class_token = jax.random.normal(key, (n,))
            self.tokens = Tokens(n, key=key)

    message = error_of(Vision)
    assert message.startswith("tokens.positions (float32[5, 24]) and 1 more have no declared axes")
    exec(message[message.index("equimu.register_axes(") :].removeprefix("equimu."), globals())
    assert roles(Vision) == {"class_token": "vector", "tokens.positions": "input", "tokens.mixing": "hidden"}


def test_lines_for_raw_arrays_are_read_off_how_an_example_uses_them():
    class Swapped(eqx.Module):
        weight: jax.Array  # as a name, (out, in); as it is used, (in, out)
        vectors: jax.Array

        def __init__(self, n, *, key):
            self.weight = jax.random.normal(key, (n, 2 * n))
            self.vectors = jax.random.normal(key, (n, 3))

        def __call__(self, x):
            return (x @ self.weight)[: len(x)] @ self.vectors

    def make(n, key):
        return Swapped(n, key=key)

    with pytest.raises(EquimuError) as caught:
        example = (lambda model, x: model(x), jnp.ones(N))
        parameterize(make, mup(), base={"n": 8}, target={"n": N}, example=example)
    message = str(caught.value)
    assert 'register_axes(Swapped, weight=("in", "out"), vectors=("in", "out"))' in message
    assert 'weight=("out", "in")' in error_of(make)


def test_raw_array_outside_of_any_module_is_refused_with_what_to_do():
    message = error_of(lambda n, key: {"w": jax.random.normal(key, (3, n))})
    assert "['w'] (float32[3, 24]) has no declared axes" in message
    assert message.endswith(
        "give it to a field of an eqx.Module and declare it, with the words that are right (in, inner, kernel, out, stack, "
        'table): equimu.register_axes(MyModule, field=("table", "out"))'
    )


class Bare(eqx.Module):
    gain: jax.Array
    temperature: jax.Array
    linear: eqx.nn.Linear

    def __init__(self, n, *, key):
        self.gain, self.temperature = jnp.ones(n), jnp.ones(())
        self.linear = eqx.nn.Linear(n, n, key=key)


def test_bare_arrays_of_stacked_blocks_are_stacks_where_the_depth_is_a_size():
    def make(n, layers, *, key):
        return stacked(lambda k: Bare(n, key=k), key, layers)

    found = {rule.path: rule for rule in rules_of(tree_of(make, layers=(2, 4)))}
    assert {path: rule.role for path, rule in found.items()} == {
        "gain": "vector",
        "temperature": "scalar",
        "linear.weight": "hidden",
        "linear.bias": "vector",
    }
    assert {path: rule.axes for path, rule in found.items() if "linear" not in path} == {
        "gain": ("stack", "out"),
        "temperature": ("stack",),
    }
    assert {rule.dimensions.depth_ratio for rule in found.values()} == {2}
    assert found["gain"].dimensions.fan_out == N


def test_bare_array_of_stacked_blocks_is_refused_where_the_depth_is_no_size():
    assert "gain (float32[4, 24]) has no declared axes" in error_of(
        lambda n, key: stacked(lambda k: Bare(n, key=k), key, 4)
    )


@pytest.mark.parametrize("depth", [(2, 3), (1, 4), (3, 3)])
def test_layers_of_a_perceptron_have_no_rules_of_depth_and_the_roles_of_their_shapes(depth):
    tree = tree_of(lambda n, depth, key: eqx.nn.MLP(3, 5, n, depth, key=key), completep(), depth=depth)
    weights = [rule for rule in rules_of(tree) if rule.path.endswith("weight")]
    assert [rule.role for rule in weights] == ["input", *["hidden"] * (depth[1] - 1), "output"]
    assert {(rule.dimensions.depth, rule.dimensions.depth_ratio) for rule in rules_of(tree)} == {(1, 1)}


# --- low rank, state, normalised weights, sharing


class LowRank(eqx.Module):
    a: jax.Array
    b: jax.Array

    def __init__(self, n, *, key):
        self.a, self.b = jax.random.normal(key, (4, n)), jnp.zeros((n, 4))


register_axes(LowRank, a=("inner", "in"), b=("out", "in"))


def test_low_rank_pair_is_an_output_and_an_input_unless_its_middle_is_declared():
    def plain(n, key):
        return eqx.nn.Linear(n, 4, use_bias=False, key=key), eqx.nn.Linear(4, n, use_bias=False, key=key)

    first, second = rules_of(tree_of(plain))
    assert (first.role, first.init_std, first.lr) == ("output", 1 / N, pytest.approx(1 / M))
    assert (second.role, second.init_std, second.lr) == ("input", 4**-0.5, 1.0)
    # LoRA's draw: what the first makes is not a logit and starts at order one; the second starts at zero, and keeps it.
    first, second = rules_of(tree_of(LowRank))
    assert (first.role, first.init_std, first.lr) == ("hidden", pytest.approx(N**-0.5), pytest.approx(1 / M))
    assert (second.role, second.init_mean, second.init_std, second.lr) == ("input", 0.0, 0.0, 1.0)


class Stateful(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    spectral: eqx.nn.SpectralNorm

    def __init__(self, n, *, key):
        self.linear = eqx.nn.Linear(3, n, key=key)
        self.norm = eqx.nn.BatchNorm(n, "batch", mode="ema")
        self.spectral = eqx.nn.SpectralNorm(eqx.nn.Linear(n, n, key=key), "weight", key=key)

    def __call__(self, x, state):
        x, state = self.norm(self.linear(x), state)
        return self.spectral(x, state)


@pytest.mark.parametrize("make", [Stateful, lambda n, key: eqx.nn.make_with_state(Stateful)(n, key=key)[0]])
def test_state_has_no_rules_and_is_made_beside_the_model(make):
    key = jax.random.key(0)
    tree = tree_of(make)
    assert {rule.path for rule in rules_of(tree)} == {
        f"{path}.{name}" for path in ("linear", "norm", "spectral.layer") for name in ("weight", "bias")
    }
    model = initialize(tree, key, rescale=True)
    _, state = eqx.nn.make_with_state(Stateful)(N, key=key)
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    optimizer = adamw(tree, learning_rate=0.1)

    @eqx.filter_jit
    def run(params, state, x):
        def loss(params):
            whole = scaled(tree, eqx.combine(params, rest))
            y, after = jax.vmap(whole, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)
            return jnp.mean(y**2), after

        (_, after), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return eqx.apply_updates(params, updates), after

    moved, after = run(params, state, jax.random.normal(key, (8, 3)))
    assert all(bool(jnp.any(a != b)) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(moved), strict=True))
    assert not jnp.array_equal(after.get(model.norm.ema_state_index)[0], state.get(model.norm.ema_state_index)[0])
    # The draw of the constructor was kept, so the singular vectors it left in the state are still those of the weight.
    u, v = state.get(model.spectral.uv_index)
    sigma = jnp.linalg.norm(model.spectral.layer.weight, 2)
    assert u @ model.spectral.layer.weight @ v == pytest.approx(float(sigma), rel=0.05)


def test_state_that_the_constructor_returns_is_left_alone():
    tree = tree_of(lambda n, key: eqx.nn.make_with_state(eqx.nn.BatchNorm)(n, "batch", mode="batch"))
    assert [rule.path for rule in rules_of(tree)] == ["[0].weight", "[0].bias"]
    model, state = initialize(tree, jax.random.key(0))
    mean, variance = state.get(model.batch_state_index)
    assert jnp.all(mean == 0) and jnp.all(variance == 1)


@pytest.mark.parametrize(
    "scheme",
    [mup(), tpv(8), tpv(9), umup(), mup().tune("hidden", init_std=2.0).tune("output", multiplier=3.0)],
    ids=str,
)
@pytest.mark.parametrize("axis", [0, None])
def test_gain_of_a_weight_norm_makes_the_weight_that_the_rules_ask_for(scheme, axis):
    def plain(n, key):
        return [eqx.nn.Linear(n, n, key=key), eqx.nn.Linear(n, 7, key=key)]

    def normed(n, key):
        return [eqx.nn.WeightNorm(layer, axis=axis) for layer in plain(n, key)]

    found = tree_of(normed, scheme)
    model = scaled(found, initialize(found, jax.random.key(0)))
    for layer, wanted in zip(model, tree_of(plain, scheme), strict=True):
        v = layer.layer.weight
        weight = v * layer.g / layer._norm(v)
        std = wanted.weight.init_std * wanted.weight.multiplier
        assert jnp.sqrt(jnp.mean(weight**2)) == pytest.approx(float(std), rel=1e-5)


def test_spectral_norm_is_refused_where_its_norm_must_not_stay():
    for ends in ((3, None), (None, 3)):

        def make(n, key, ends=ends):
            sizes = [n if size is None else size for size in ends]
            return {"x": eqx.nn.SpectralNorm(eqx.nn.Linear(*sizes, key=key), "weight", key=key)}

        message = error_of(make)
        assert "['x'].layer.weight is divided by its spectral norm" in message and "eqx.nn.WeightNorm" in message


class Tied(eqx.Module):
    shared: eqx.nn.Shared

    def __init__(self, n, *, key):
        pair = (eqx.nn.Embedding(7, n, key=key), eqx.nn.Linear(n, 7, key=key))
        self.shared = eqx.nn.Shared(pair, lambda p: p[1].weight, lambda p: p[0].weight)


@pytest.mark.parametrize(("scheme", "number"), [(mup(), "init_std"), (sp(), "init_std"), (tpv(8), "multiplier")])
def test_shared_embedding_is_refused_with_the_layer_to_take_instead(scheme, number):
    message = error_of(Tied, scheme)
    assert "shared.pytree[0].weight is used again as shared.pytree[1].weight" in message
    assert (
        f"its {number} would go as width^0 as input" in message and "equimu.nn.TiedEmbedding (with tpv(8))" in message
    )


def test_tied_embedding_has_a_multiplier_for_each_use():
    table, slot = rules_of(tree_of(lambda n, key: nn.TiedEmbedding(7, n, key=key), tpv(8)))
    assert (table.role, table.init_std, table.multiplier, table.lr) == ("input", 1.0, 1.0, 1.0)
    # base width 8: its readout starts with logits of the std that 1/sqrt(8) makes of a table of std 1
    assert (slot.multiplier, slot.lr) == (pytest.approx(8**-0.5 / M), 0.0)


def test_sharing_between_equal_uses_has_one_rule():
    class Twice(eqx.Module):
        shared: eqx.nn.Shared

        def __init__(self, n, *, key):
            layers = [eqx.nn.MLP(3, 5, n, 2, key=key) for _ in range(2)]
            self.shared = eqx.nn.Shared(layers, lambda x: x[1].layers[1], lambda x: x[0].layers[1])

    found = roles(Twice)
    assert found["shared.pytree[0].layers[1].weight"] == "hidden" and "shared.pytree[1].layers[1].weight" not in found
    assert len(found) == 10


def test_sharing_with_a_transposed_second_use_is_traced_to_its_source():
    class Autoencoder(eqx.Module):
        shared: eqx.nn.Shared

        def __init__(self, n, finite, *, key):
            layers = [eqx.nn.Linear(finite or n, n, key=key), eqx.nn.Linear(n, finite or n, key=key)]
            self.shared = eqx.nn.Shared(layers, lambda x: x[1].weight, lambda x: jnp.transpose(x[0].weight))

    found = tree_of(lambda n, key: Autoencoder(n, None, key=key), umup())
    assert found.shared.pytree[0].weight.role == "hidden"
    # u-μP multiplies a bias by fan_in^-1/2 of the map that it is added to: here of one that stands elsewhere.
    assert found.shared.pytree[1].bias.multiplier == pytest.approx(N**-0.5)
    assert "its init_std would go as width^0 as input" in error_of(lambda n, key: Autoencoder(n, 3, key=key))


def test_one_layer_in_two_places_is_two_layers_as_in_equinox():
    def make(n, key):
        layer = eqx.nn.Linear(n, n, key=key)
        return [layer, layer]

    first, second = initialize(tree_of(make), jax.random.key(0))
    assert not jnp.array_equal(first.weight, second.weight)


# --- frozen leaves


def test_frozen_leaves_stay_through_training():
    def make(n, key):
        return {
            "frozen": eqx.nn.Linear(3, n, key=key),
            "kept": eqx.nn.Linear(n, n, key=key),
            "trained": eqx.nn.Linear(n, 2, key=key),
            "steps": jnp.arange(n),
            "mask": jnp.arange(n) > 2,
        }

    tree = tree_of(make, mup().tune("['frozen']", lr=0.0, weight_decay=0.0))

    def keep(rule):
        return dataclasses.replace(rule, init_mean=None, init_std=0.0, multiplier=1.0, lr=0.0, weight_decay=0.0)

    tree = eqx.tree_at(lambda t: t["kept"], tree, replace_fn=lambda part: jax.tree.map(keep, part))
    key = jax.random.key(0)
    model = initialize(tree, key)
    assert jnp.array_equal(model["kept"].weight, make(N, key)["kept"].weight)  # as the model makes it
    assert jnp.array_equal(model["steps"], jnp.arange(N)) and jnp.array_equal(model["mask"], jnp.arange(N) > 2)
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    optimizer = adamw(tree, learning_rate=0.1, weight_decay=0.1)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    after = eqx.combine(eqx.apply_updates(params, updates), rest)
    for name in ("frozen", "kept"):
        assert eqx.tree_equal(after[name], model[name]) is True or bool(eqx.tree_equal(after[name], model[name]))
    assert not jnp.any(after["trained"].weight == model["trained"].weight)


# --- initial draws


def test_complex_arrays_are_drawn_with_the_rules_mean_square():
    def make(n, key):
        return [eqx.nn.Linear(3 * n, 50 * n, dtype=jnp.complex64, key=key), jnp.full(n, 1j), jnp.full(n, 2.0 + 0j)]

    tree = tree_of(make)
    layer, imaginary, real = initialize(tree, jax.random.key(0))
    x = np.asarray(layer.weight, np.complex128) / tree[0].weight.init_std
    assert tree[0].weight.init_std == pytest.approx((3 * N) ** -0.5) and x.size > 80_000
    # |z|² of a unit complex normal is exponential, with standard deviation 1; real and imaginary part have variance 1/2 each
    assert abs((abs(x) ** 2).mean() - 1) < 4.5 / x.size**0.5
    for part in (x.real, x.imag):
        assert abs((part**2).mean() - 0.5) < 4.5 * 0.5**0.5 / x.size**0.5
    assert jnp.all(imaginary == 1j) and jnp.all(real == 2) and jnp.all(layer.bias == 0)
    own = initialize(tree, jax.random.key(0), rescale=True)[0].weight
    assert float(jnp.mean(jnp.abs(own) ** 2)) * 3 * N == pytest.approx(1, rel=1e-5)


class Orthogonal(eqx.Module):
    weight: jax.Array

    def __init__(self, n, *, key, scale=1.0):
        self.weight = scale * jax.random.orthogonal(key, n)


register_axes(Orthogonal, weight=("out", "in"))


@pytest.mark.filterwarnings("ignore:initialize draws")
def test_rescale_scales_each_member_of_a_stack_for_itself():
    def in_stack(n, key):
        def layer(k, scale):
            return Orthogonal(n, key=k, scale=scale)

        return eqx.filter_vmap(layer)(jax.random.split(key, 3), jnp.array([1.0, 5.0, 0.1]))

    def in_list(n, key):
        scales = (1.0, 5.0, 0.1)
        return [Orthogonal(n, key=k, scale=s) for k, s in zip(jax.random.split(key, 3), scales, strict=True)]

    stack, members = (initialize(tree_of(make), jax.random.key(0), rescale=True) for make in (in_stack, in_list))
    for i, member in enumerate(members):
        assert jnp.allclose(stack.weight[i], member.weight, atol=1e-5)
        # still orthogonal, and of the rule's standard deviation, N^-1/2
        assert jnp.allclose(member.weight @ member.weight.T, jnp.eye(N), atol=1e-5)


# leaf -> (constructor at width n, its path, the standard deviation that μP asks for)
DRAWN = {
    "convolution": (lambda n, key: eqx.nn.Conv2d(n, n, 3, key=key), "weight", (9 * N) ** -0.5),
    "grouped": (lambda n, key: eqx.nn.Conv2d(n, n, 3, groups=n // 4, key=key), "weight", 36**-0.5),
    "gated, input": (lambda n, key: eqx.nn.GRUCell(5, n, key=key), "weight_ih", 5**-0.5),
    "gated, state": (lambda n, key: eqx.nn.GRUCell(5, n, key=key), "weight_hh", N**-0.5),
    "query of one head": (
        lambda n, key: eqx.nn.MultiheadAttention(1, n, qk_size=32, vo_size=16, key=key).query_proj,
        "weight",
        1 / N,
    ),
    "experts": (lambda n, key: stacked(lambda k: eqx.nn.Linear(n, 2 * n, key=k), key, 4), "weight", N**-0.5),
    "router": (lambda n, key: eqx.nn.Linear(n, 40, key=key), "weight", 1 / N),
}


@pytest.mark.parametrize("leaf", DRAWN)
def test_draws_have_the_deviation_of_the_formula_over_seeds(leaf):
    make, path, std = DRAWN[leaf]
    tree = tree_of(make)
    draw = eqx.filter_jit(jax.vmap(lambda key: getattr(initialize(tree, key), path)))
    x = np.asarray(draw(jax.random.split(jax.random.key(0), 20)), np.float64) / std
    # of unit normals: the mean over all within 4.5 standard deviations of it, and each seed's, over which they must scatter so
    assert abs(x.mean()) < 4.5 / x.size**0.5
    assert abs((x**2).mean() - 1) < 4.5 * (2 / x.size) ** 0.5
    z = ((x.reshape(20, -1) ** 2).mean(axis=1) - 1) / (2 / (x.size // 20)) ** 0.5
    assert np.abs(z).max() < 4.5 and 0.4 < z.std() < 1.8
    assert abs(np.corrcoef(x.reshape(20, -1)) - np.eye(20)).max() < 4.5 / (x.size // 20) ** 0.5
