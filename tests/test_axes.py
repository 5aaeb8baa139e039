"""The registry, and what it says of every layer of Equinox that it knows: role and fans of each array."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from equimu import EquimuError, axes, mup, parameterize, register_axes
from equimu._axes import Axes, find_axes, find_tied_source
from equimu.parameterization import rules_of

N = 24  # the target width; the base is 8, so every ratio is 3


def rules(make):
    return {rule.path: rule for rule in rules_of(parameterize(make, mup(), base={"n": 8}, target={"n": N}))}


# layer -> {path: (role, fan_in, fan_out, what a constant starts from)}, written from the layers' own formulas
LAYERS = {
    "linear, finite to wide": (
        lambda n, key: eqx.nn.Linear(3, n, key=key),
        {"weight": ("input", 3, N, None), "bias": ("vector", 1, N, 0)},
    ),
    "linear, wide to wide": (
        lambda n, key: eqx.nn.Linear(2 * n, n, key=key),
        {"weight": ("hidden", 2 * N, N, None), "bias": ("vector", 1, N, 0)},
    ),
    "linear, wide to finite": (
        lambda n, key: eqx.nn.Linear(n, 5, key=key),
        {"weight": ("output", N, 5, None), "bias": ("scalar", 1, 5, 0)},
    ),
    "linear, wide to one number": (
        lambda n, key: eqx.nn.Linear(n, "scalar", key=key),
        {"weight": ("output", N, 1, None), "bias": ("scalar", 1, 1, 0)},
    ),
    "embedding": (lambda n, key: eqx.nn.Embedding(7, n, key=key), {"weight": ("input", 1, N, None)}),
    "layer norm": (
        lambda n, key: eqx.nn.LayerNorm(n),
        {"weight": ("vector", 1, N, 1), "bias": ("vector", 1, N, 0)},
    ),
    "layer norm over two axes": (
        lambda n, key: eqx.nn.LayerNorm((4, n)),
        {"weight": ("vector", 1, 4 * N, 1), "bias": ("vector", 1, 4 * N, 0)},
    ),
    "rms norm": (
        lambda n, key: eqx.nn.RMSNorm(n),
        {"weight": ("vector", 1, N, 1), "bias": ("vector", 1, N, 0)},
    ),
    "group norm": (
        lambda n, key: eqx.nn.GroupNorm(2, n),
        {"weight": ("vector", 1, N, 1), "bias": ("vector", 1, N, 0)},
    ),
    "convolution, first": (
        lambda n, key: eqx.nn.Conv1d(3, n, 5, key=key),
        {"weight": ("input", 15, N, None), "bias": ("vector", 1, N, 0)},
    ),
    "convolution, middle": (
        lambda n, key: eqx.nn.Conv2d(n, n, 3, key=key),
        {"weight": ("hidden", 9 * N, N, None), "bias": ("vector", 1, N, 0)},
    ),
    "convolution, last": (
        lambda n, key: eqx.nn.Conv3d(n, 2, 2, use_bias=False, key=key),
        {"weight": ("output", 8 * N, 2, None)},
    ),
    "convolution, one channel each": (
        lambda n, key: eqx.nn.Conv1d(n, n, 5, groups=n, use_bias=False, key=key),
        {"weight": ("vector", 5, N, None)},  # each output sums five entries of its own, however wide the layer
    ),
    "transposed convolution": (
        lambda n, key: eqx.nn.ConvTranspose2d(n, n, 3, key=key),
        {"weight": ("hidden", 9 * N, N, None), "bias": ("vector", 1, N, 0)},
    ),
    "multi-head attention": (
        lambda n, key: eqx.nn.MultiheadAttention(2, n, use_output_bias=True, key=key),
        {
            **{f"{name}_proj.weight": ("hidden", N, N, None) for name in ("query", "key", "value", "output")},
            "output_proj.bias": ("vector", 1, N, 0),
        },
    ),
    "gated recurrent unit": (
        lambda n, key: eqx.nn.GRUCell(3, n, key=key),
        {
            "weight_ih": ("input", 3, 3 * N, None),
            "weight_hh": ("hidden", N, 3 * N, None),
            "bias": ("vector", 1, 3 * N, 0),
            "bias_n": ("vector", 1, N, 0),
        },
    ),
    "long short-term memory": (
        lambda n, key: eqx.nn.LSTMCell(n, n, key=key),
        {
            "weight_ih": ("hidden", N, 4 * N, None),
            "weight_hh": ("hidden", N, 4 * N, None),
            "bias": ("vector", 1, 4 * N, 0),
        },
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_equinox_layer_has_the_roles_and_fans_of_its_formula(layer):
    make, expected = LAYERS[layer]
    found = {
        path: (rule.role, rule.dimensions.fan_in, rule.dimensions.fan_out, None if rule.init_std else rule.init_mean)
        for path, rule in rules(make).items()
    }
    assert found == expected


@pytest.mark.parametrize("layer", LAYERS)
def test_equinox_layer_grows_by_the_ratio_of_the_widths(layer):
    for rule in rules(LAYERS[layer][0]).values():
        wide_in, wide_out = rule.role in ("hidden", "output"), rule.role in ("hidden", "input", "vector")
        sizes = rule.dimensions
        assert sizes.fan_in_ratio == (3 if wide_in else 1)
        assert sizes.fan_out_ratio == (3 if wide_out else 1)
        assert sizes.width_ratio == (3 if wide_in or wide_out else 1)


def test_axes_in_front_of_the_declared_ones_are_stacks():
    def make(n, key):
        keys = jax.random.split(key, (2, 5))
        return eqx.filter_vmap(eqx.filter_vmap(lambda k: eqx.nn.Linear(n, n, key=k)))(keys)

    found = rules(make)
    assert found["weight"].shape == (2, 5, N, N)
    assert (found["weight"].role, found["weight"].dimensions.fan_in, found["bias"].role) == ("hidden", N, "vector")


class Layer(eqx.Module):
    weight: jax.Array

    def __init__(self, n, *, key, transposed=False):
        self.weight = jax.random.normal(key, (7, n) if transposed else (n, 7))


class Heir(Layer):
    pass


class Rebel(Layer):
    pass


register_axes(Layer, weight=("in", "out"))
register_axes(Rebel, weight=("out", "in"))


def test_declaration_is_found_along_the_bases_and_the_nearest_class_wins():
    key = jax.random.key(0)
    assert find_axes(Layer(8, key=key), "weight") == Axes(("in", "out"))
    assert find_axes(Heir(8, key=key), "weight") == Axes(("in", "out"))
    assert find_axes(Rebel(8, key=key), "weight") == Axes(("out", "in"))
    assert find_axes(Layer(8, key=key), "bias") is None
    assert {cls: rules(lambda n, key, cls=cls: cls(n, key=key))["weight"].role for cls in (Layer, Heir, Rebel)} == {
        Layer: "output",
        Heir: "output",
        Rebel: "input",
    }


def test_declaring_again_replaces_and_leaves_other_fields():
    class Own(eqx.Module):
        a: jax.Array
        b: jax.Array

    register_axes(Own, a=("in", "out"), b=("out",))
    register_axes(Own, a=("table", "out"))
    module = Own(jnp.ones((2, 3)), jnp.ones(3))
    assert find_axes(module, "a") == Axes(("table", "out"))
    assert find_axes(module, "b") == Axes(("out",))


def test_callable_declaration_is_asked_for_each_instance():
    class Turnable(eqx.Module):
        weight: jax.Array
        transposed: bool = eqx.field(static=True)

    register_axes(Turnable, weight=lambda m: axes("out", "in", constant=2.0) if m.transposed else ("in", "out"))
    weight = jnp.ones((2, 3))
    assert find_axes(Turnable(weight, transposed=False), "weight") == Axes(("in", "out"))
    assert find_axes(Turnable(weight, transposed=True), "weight") == Axes(("out", "in"), constant=2.0)


def test_declaration_holds_for_arrays_in_a_container_of_the_field():
    class Many(eqx.Module):
        weights: dict[str, list[jax.Array]]

        def __init__(self, n, *, key):
            self.weights = {"x": [jax.random.normal(key, (n, n)), jax.random.normal(key, (n, 5))]}

    register_axes(Many, weights=("in", "out"))
    roles = {path: rule.role for path, rule in rules(Many).items()}
    assert roles == {"weights['x'][0]": "hidden", "weights['x'][1]": "output"}


def test_constant_of_a_declaration_overrides_the_modules_own_draw():
    class Biased(eqx.Module):
        bias: jax.Array

        def __init__(self, n, *, key):
            self.bias = jax.random.normal(key, (n,))

    register_axes(Biased, bias=axes("out", constant=0.5))
    assert (rules(Biased)["bias"].init_mean, rules(Biased)["bias"].init_std) == (0.5, 0.0)


def test_tied_source_is_the_field_that_names_the_slot():
    class Tied(eqx.Module):
        weight: jax.Array
        slot: jax.Array
        other: jax.Array

    register_axes(Tied, weight=axes("table", "out", tied=["out", "in"], tied_multiplier="slot"))
    module = Tied(jnp.ones((2, 3)), jnp.ones(()), jnp.ones(()))
    assert find_tied_source(module, "slot") == "weight"
    assert find_tied_source(module, "other") is None


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda: register_axes(Layer, weight=("inn", "out")), ["'inn'", "did you mean 'in'", "stack, table"]),
        (lambda: axes("out", "int"), ["'int'", "did you mean 'in'"]),
        (lambda: register_axes(Layer, wieght=("in", "out")), ["Layer", "'wieght'", "did you mean 'weight'"]),
        (lambda: axes("table", "out", tied=("out", "in")), ["tied_multiplier"]),
        (lambda: axes("table", tied=("out", "in"), tied_multiplier="x"), ["('table',)", "('out', 'in')"]),
    ],
)
def test_declaration_that_cannot_be_says_so_in_one_line(declare, words):
    with pytest.raises(EquimuError) as caught:
        declare()
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
    assert find_axes(Layer(8, key=jax.random.key(0)), "weight") == Axes(("in", "out"))


def test_array_with_fewer_axes_than_declared_is_an_error_with_its_path():
    class Flat(eqx.Module):
        inside: Layer

        def __init__(self, n, *, key):
            self.inside = eqx.tree_at(lambda m: m.weight, Layer(n, key=key), jnp.ones(n))

    with pytest.raises(EquimuError, match=r"inside\.weight \(float32\[24\]\) has fewer axes than Layer\.weight"):
        rules(Flat)
