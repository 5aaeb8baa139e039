"""The registry: what is declared is found, along the bases and further inside, and what cannot be declared is said."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equimu import EquimuError, axes, mup, parameterize, register_axes
from equimu.declarations._axes import Axes, find_axes, find_tied_source
from equimu.parameterization import rules_of

N = 24  # the target width; the base is 8, so every ratio is 3


def rules(make):
    return {rule.path: rule for rule in rules_of(parameterize(make, mup(), base={"n": 8}, target={"n": N}))}


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


def test_entries_of_a_dictionary_are_declared_by_their_keys_and_sizes_may_be_numpy_integers():
    class Weights(eqx.Module):
        maps: dict

        def __init__(self, n, *, key):
            self.maps = {"up": jax.random.normal(key, (n, n)), "read": jax.random.normal(key, (n, 3))}

    def make(n, *, key):
        return Weights(n, key=key)

    sizes = {"base": {"n": np.int32(8)}, "target": {"n": np.int64(16)}}
    with pytest.raises(EquimuError) as caught:
        parameterize(make, mup(), **sizes)
    message = str(caught.value)
    assert "register_axes(Weights, **{\"maps['read']\": (" in message and "\"maps['up']\": (" in message
    register_axes(Weights, **{"maps['up']": ("in", "out"), "maps['read']": ("in", "out")})
    found = {rule.path: rule.role for rule in rules_of(parameterize(make, mup(), **sizes))}
    assert found == {"maps['up']": "hidden", "maps['read']": "output"}
