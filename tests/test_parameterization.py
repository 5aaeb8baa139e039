"""Trees of rules: how sizes are found, what cannot be, editing, JSON, traced numbers, and what the largest one costs."""

import dataclasses
import functools
import json
import math
import resource
import time
from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from equimu import (
    EquimuError,
    adamw,
    completep,
    from_json,
    initialize,
    mup,
    nn,
    parameterize,
    register_axes,
    scaled,
    sp,
    to_json,
    tpv,
)
from equimu import table as rule_table
from equimu.declarations import locate
from equimu.parameterization import (
    Parameterization,
    Row,
    _sizes,
    _uses,
    depth_ratio,
    disagreements,
    numbers_of,
    rules_of,
    width_ratio,
    with_numbers,
)
from equimu.sharding import _specs, make_mesh, partition_specs

transformer = functools.partial(nn.Transformer, vocab_size=11, head_dim=8)
make = functools.partial(transformer, n_layer=2, norm_gain="vector")
SIZES = {"base": {"d_model": 16}, "target": {"d_model": 24}}


@pytest.fixture(scope="module")
def tree():
    return parameterize(make, mup(), **SIZES)


@pytest.fixture(scope="module")
def model(tree):
    return initialize(tree, jax.random.key(0))


def by_path(tree):
    return {rule.path: rule for rule in rules_of(tree)}


# --- sizes


class Tower(eqx.Module):
    """A list of blocks, of which a size gives the number."""

    first: eqx.nn.Linear
    layers: list[eqx.nn.Linear]
    last: eqx.nn.Linear

    def __init__(self, width, depth, *, key):
        self.first = eqx.nn.Linear(3, width, key=key)
        self.layers = [eqx.nn.Linear(width, width, key=key) for _ in range(depth)]
        self.last = eqx.nn.Linear(width, 2, key=key)


def test_depth_is_found_in_a_list_of_blocks():
    tree = parameterize(Tower, mup(), base={"width": 8, "depth": 2}, target={"width": 12, "depth": 5})
    assert len(tree.layers) == 5
    for path, rule in by_path(tree).items():
        assert rule.dimensions.depth_ratio == (Fraction(5, 2) if path.startswith("layers[") else 1)
        assert rule.dimensions.width_ratio == (1 if path == "last.bias" else Fraction(3, 2))


def test_depth_is_found_in_stacked_blocks_and_laws_may_use_it():
    table = Parameterization(name="deep", hidden=Row(multiplier=1 / depth_ratio, lr=depth_ratio**-0.5 / width_ratio))
    tree = parameterize(transformer, table, base={"d_model": 16, "n_layer": 2}, target={"d_model": 24, "n_layer": 6})
    for path, rule in by_path(tree).items():
        assert rule.dimensions.depth_ratio == (3 if path.startswith("blocks.") else 1)
    hidden = tree.blocks.mlp.down.weight
    assert hidden.shape == (6, 96, 24)
    assert (hidden.multiplier, hidden.lr) == (pytest.approx(1 / 3), pytest.approx(3**-0.5 / 1.5))


def test_roles_do_not_depend_on_the_ratios(tree):
    same = parameterize(make, mup(), base={"d_model": 24}, target={"d_model": 24})
    assert {p: r.role for p, r in by_path(same).items()} == {p: r.role for p, r in by_path(tree).items()}


def test_two_widths_have_a_ratio_each_and_their_product_where_they_meet():
    def make(heads, dim, *, key):
        return {"a": eqx.nn.Linear(5, heads, key=key), "b": eqx.nn.Linear(heads * dim, dim, key=key)}

    tree = parameterize(make, mup(), base={"heads": 2, "dim": 4}, target={"heads": 6, "dim": 8})
    rules = by_path(tree)
    assert rules["['a'].weight"].dimensions.width_ratio == 3
    assert rules["['b'].weight"].dimensions.fan_in_ratio == 6
    assert rules["['b'].weight"].dimensions.fan_out_ratio == 2
    assert rules["['b'].bias"].dimensions.width_ratio == 2


def test_axis_that_grows_otherwise_than_its_width_has_its_own_ratio():
    def make(n, *, key):
        return eqx.nn.Linear(n * n, 3, key=key)

    tree = parameterize(make, mup(), base={"n": 4}, target={"n": 12})
    assert tree.weight.dimensions.fan_in_ratio == 9 and tree.weight.lr == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    ("base", "target", "words"),
    [
        ({"d_model": 32}, {"d_model": 16}, ["base d_model 32 is larger than the target's 16"]),
        ({"d_model": 16}, {"width": 16}, ["same sizes", "['d_model']", "['width']"]),
        ({}, {}, ["same sizes"]),
        ({"d_model": 0}, {"d_model": 16}, ["d_model must be at least 1, got 0"]),
        ({"d_model": 16, "norm_eps": 1}, {"d_model": 16, "norm_eps": 2}, ["norm_eps changes no array", "leave it out"]),
        ({"d_model": 20}, {"d_model": 24}, ["d_model 20 is not a multiple of head_dim 8"]),
    ],
)
def test_sizes_that_cannot_be_say_why(base, target, words):
    with pytest.raises(EquimuError) as caught:
        parameterize(make, mup(), base=base, target=target)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_size_of_both_width_and_depth_is_refused_by_rules_of_depth():
    sizes = {"base": {"n": 2}, "target": {"n": 4}}
    with pytest.raises(
        EquimuError, match=r"n changes both widths and the number of arrays like layers.*one size for each"
    ):
        parameterize(lambda n, key: Tower(n, n, key=key), completep(), **sizes)


@pytest.mark.parametrize(("base", "target"), [(2, 2), (2, 3), (1, 2)])
def test_array_that_exists_at_one_size_only_is_an_error_that_says_so(base, target):
    def make(n, *, key):
        shortcut = eqx.nn.Linear(3, 5, key=key) if n == 2 else None
        return {"map": eqx.nn.Linear(n, n, key=key), "shortcut": shortcut}

    with pytest.raises(EquimuError, match=r"shortcut.*weight .* exists at n=2 and not at n=., .*leave n out"):
        parameterize(make, mup(), base={"n": base}, target={"n": target})


# --- declarations


class Raw(eqx.Module):
    inner: "Tokens"

    def __init__(self, n, *, key):
        self.inner = Tokens(n, key=key)


class Tokens(eqx.Module):
    table: jax.Array

    def __init__(self, n, *, key):
        self.table = jax.random.normal(key, (5, n))


def test_ambiguous_array_names_its_path_and_the_line_to_write():
    with pytest.raises(EquimuError) as caught:
        parameterize(Raw, mup(), base={"n": 8}, target={"n": 16})
    message = str(caught.value)
    assert "inner.table (float32[5, 16])" in message and "\n" not in message
    line = message[message.index("equimu.register_axes(") :]
    assert line == 'equimu.register_axes(Tokens, table=("table", "out"))'

    class Declared(Tokens):
        pass

    exec(
        line.removeprefix("equimu.").replace("Tokens", "Declared"),
        {"register_axes": register_axes, "Declared": Declared},
    )
    assert parameterize(Declared, mup(), base={"n": 8}, target={"n": 16}).table.role == "input"


def test_array_of_one_wide_axis_needs_no_declaration():
    def make(n, *, key):
        return {"gain": jnp.ones(n), "shift": jax.random.normal(key, (n,)), "temperature": jnp.asarray(2.0)}

    rules = by_path(parameterize(make, mup(), base={"n": 8}, target={"n": 16}))
    assert {path: rule.role for path, rule in rules.items()} == {
        "['gain']": "vector",
        "['shift']": "vector",
        "['temperature']": "scalar",
    }
    assert rules["['temperature']"].init_mean == 2.0


@pytest.mark.parametrize("scheme", [sp(), mup(), mup("absolute"), tpv(3), tpv(3, form="absolute")])
def test_tied_embeddings_need_a_table_with_one_growth_for_both_uses(scheme):
    tied = functools.partial(transformer, n_layer=1, tie_embeddings=True)
    with pytest.raises(EquimuError, match=rf"embedding.weight is tied, which {scheme.name} does not permit.*tpv\(8\)"):
        parameterize(tied, scheme, **SIZES)


def test_base_constants_for_a_place_that_is_not_there_are_an_error():
    with pytest.raises(EquimuError, match="'blocks.ml'.*no such role, module or leaf"):
        parameterize(make, mup().tune("blocks.ml", lr=2.0), **SIZES)


# --- the tree as a pytree


def test_tree_has_the_models_shape(tree, model):
    assert jax.tree.structure(tree) == jax.tree.structure(model)
    for rule, leaf in zip(jax.tree.leaves(tree), jax.tree.leaves(model), strict=True):
        assert (rule.shape, rule.dtype) == (leaf.shape, leaf.dtype)


def test_tree_at_edits_one_rule_and_everything_downstream_follows(tree):
    edited = eqx.tree_at(
        lambda t: t.unembedding.weight,
        tree,
        replace_fn=lambda rule: dataclasses.replace(rule, init_std=0.0, init_mean=3.0, multiplier=2.0, lr=5),
    )
    plain, model = (initialize(t, jax.random.key(1)) for t in (tree, edited))
    assert jnp.all(model.unembedding.weight == 3.0)
    assert jnp.all(scaled(edited, model).unembedding.weight == 6.0)
    assert jnp.all(model.blocks.mlp.up.weight == plain.blocks.mlp.up.weight)
    assert "5" in rule_table(edited) and json.loads(to_json(edited))["rules"]["unembedding.weight"]["lr"] == 5
    assert from_json(to_json(edited), like=tree).unembedding.weight == edited.unembedding.weight


@pytest.mark.parametrize(
    ("number", "value"),
    [("init_std", -0.1), ("lr", float("nan")), ("weight_decay", -1), ("eps", float("inf"))],
)
def test_number_that_makes_no_sense_is_refused(tree, number, value):
    with pytest.raises(EquimuError, match=rf"embedding.weight: {number} must be finite and not negative"):
        dataclasses.replace(tree.embedding.weight, **{number: value})


def test_scaled_multiplies_by_the_multiplier_and_leaves_the_rest_untouched(model):
    tree = parameterize(make, tpv(9), **SIZES)
    found, plain = by_path(tree), jax.tree_util.tree_leaves_with_path(model)
    for rule, (_, before), after in zip(found.values(), plain, jax.tree.leaves(scaled(tree, model)), strict=True):
        if rule.multiplier == 1.0:
            assert after is before
        else:
            assert jnp.allclose(after, before * rule.multiplier, rtol=1e-6)
    assert found["embedding.weight"].multiplier == pytest.approx(1.5**0.5)


def test_scaled_keeps_the_dtype(model):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model)
    assert scaled(parameterize(make, tpv(9), **SIZES), half).embedding.weight.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (functools.partial(make, d_model=16), ["embedding.weight is [11, 24] there and [11, 16] here"]),
        (
            functools.partial(make, d_model=24, use_bias=True),
            ["blocks.attention.query.bias is None there and an array here"],
        ),
        (functools.partial(make, d_model=24, norm_eps=1e-6), ["other static fields"]),
    ],
)
def test_scaled_names_the_first_difference_to_another_model(tree, other, words):
    with pytest.raises(EquimuError, match="the tree of rules is of another model") as caught:
        scaled(tree, eqx.filter_eval_shape(other, key=jax.random.key(0)))
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


# --- JSON and the table


@pytest.mark.parametrize("scheme", [mup("absolute", eps="lr"), tpv(9, optimizer="sgd"), sp(optimizer="sign")])
def test_json_round_trip_is_exact(tree, scheme):
    thirds = scheme.tune("hidden", init_std=1 / 3, multiplier=2 / 3, lr=4 / 3, weight_decay=5 / 3, eps=7 / 3)
    written = parameterize(make, thirds, **SIZES)
    read = from_json(to_json(written), like=tree)
    assert jax.tree.structure(read) == jax.tree.structure(written)
    assert rules_of(read) == rules_of(written)  # exactly: floats, fractions, dtypes and all


def test_json_keeps_what_the_model_makes_itself():
    def make(n, *, key):
        return {"steps": jnp.arange(n) / n, "count": jnp.arange(3), "blocks": [eqx.nn.Linear(n, n, key=key)]}

    written = parameterize(make, mup(), base={"n": 4}, target={"n": 8})
    read = from_json(to_json(written), like=written)
    assert rules_of(read) == rules_of(written)
    assert read["steps"].init_mean is None and read["count"] == written["count"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["not a tree of rules in JSON", "to_json"]),
        ("[]", ["not a tree of rules in JSON"]),
        ('{"format": 2}', ["not a tree of rules in JSON", "it has no 'rules'"]),
        ('{"format": 2, "rules": {}}', ["format 2"]),
        ('{"format": 4, "rules": {}}', ["another model", "only the model has blocks.attention.key.weight"]),
    ],
)
def test_json_that_cannot_be_read_says_why(tree, text, words):
    with pytest.raises(EquimuError) as caught:
        from_json(text, like=tree)
    assert all(word in str(caught.value) for word in words)


def test_json_with_a_field_too_few_or_too_many_is_an_error(tree):
    found = json.loads(to_json(tree))
    del found["rules"]["norm.gain"]["weight_decay"]
    with pytest.raises(EquimuError, match="rule of norm.gain is damaged at 'weight_decay'"):
        from_json(json.dumps(found), like=tree)


def test_json_of_another_model_names_the_first_difference(tree):
    wide = parameterize(make, mup(), base={"d_model": 16}, target={"d_model": 32})
    with pytest.raises(EquimuError, match=r"embedding.weight is \[11, 32\] there, \[11, 24\] here"):
        from_json(to_json(wide), like=tree)
    biased = parameterize(functools.partial(make, use_bias=True), mup(), **SIZES)
    with pytest.raises(EquimuError, match="only the JSON has blocks.attention.key.bias"):
        from_json(to_json(biased), like=tree)


@pytest.mark.parametrize("markdown", [False, True])
def test_table_has_a_row_for_each_leaf(tree, markdown):
    lines = rule_table(tree, markdown=markdown).splitlines()
    rows = {line.strip("| ").split()[0]: line for line in lines[2:]}
    assert list(rows) == list(by_path(tree))
    assert all(word in rows["unembedding.weight"] for word in ("24×11", "output", "0.0416667", "0.666667"))
    assert "= 1" in rows["norm.gain"] and "vector" in rows["norm.gain"]


# --- traced numbers


def test_with_numbers_is_the_inverse_of_numbers_of(tree):
    for scheme in (mup(), tpv(9), sp()):
        written = parameterize(make, scheme, **SIZES)
        assert rules_of(with_numbers(written, numbers_of(written))) == rules_of(written)
    other = parameterize(make, mup("absolute"), **SIZES)
    assert rules_of(with_numbers(tree, numbers_of(other))) == rules_of(other)


def test_numbers_of_leaves_out_what_is_part_of_the_program(tree):
    numbers = numbers_of(tree)
    assert set(numbers["unembedding.weight"]) == {"init_mean", "init_std", "lr", "weight_decay", "eps"}
    assert "multiplier" in numbers_of(parameterize(make, tpv(8), **SIZES))["unembedding.weight"]
    table = parameterize(lambda n, key: {"t": jnp.arange(n) * 1.0}, mup(), base={"n": 2}, target={"n": 4})
    assert set(numbers_of(table)["['t']"]) == {"lr", "weight_decay", "eps"}


class Bigram(eqx.Module):
    """The smallest language model: an embedding and an unembedding."""

    embedding: nn.Embedding
    unembedding: nn.Linear

    def __init__(self, d_model, *, key):
        self.embedding = nn.Embedding(11, d_model, key=key)
        self.unembedding = nn.Linear(d_model, 11, key=key)


def test_base_constants_may_be_traced_in_one_program():
    traces = 0

    @jax.jit
    def first_step(multiplier, std, rate):
        nonlocal traces
        traces += 1
        scheme = mup().tune("output", multiplier=multiplier, init_std=std).tune("embedding", lr=rate)
        tree = parameterize(Bigram, scheme, **SIZES)
        model = initialize(tree, jax.random.key(0))
        optimizer = adamw(tree, learning_rate=0.5)
        updates, _ = optimizer.update(model, optimizer.init(model), model)
        return scaled(tree, model), updates

    plain, plain_updates = first_step(1.0, 1.0, 1.0)
    tuned, updates = first_step(2.0, 3.0, 4.0)
    assert traces == 1
    assert jnp.allclose(tuned.unembedding.weight, 6 * plain.unembedding.weight, rtol=1e-6)
    assert jnp.allclose(updates.embedding.weight, 4 * plain_updates.embedding.weight, rtol=1e-6)
    assert jnp.array_equal(tuned.embedding.weight, plain.embedding.weight)
    assert jnp.allclose(updates.unembedding.weight, plain_updates.unembedding.weight, rtol=1e-4)  # but for epsilon


def test_traced_numbers_cannot_be_written(tree):
    def write(value):
        with pytest.raises(EquimuError, match="embedding.weight: lr is not a plain number"):
            to_json(with_numbers(tree, {**numbers_of(tree), "embedding.weight": {"lr": value}}))
        assert "(traced)" in rule_table(with_numbers(tree, {**numbers_of(tree), "embedding.weight": {"lr": value}}))

    jax.eval_shape(write, 1.0)


# --- cost


def test_tree_of_ten_billion_parameters_takes_no_memory_and_no_time():
    large = functools.partial(nn.Transformer, vocab_size=32_100, n_layer=12, head_dim=128)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    tree = parameterize(large, mup(), base={"d_model": 128}, target={"d_model": 8192})
    seconds = time.process_time() - start
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    entries = sum(math.prod(rule.shape) for rule in rules_of(tree))
    assert entries > 10e9
    assert seconds < 2.0 and megabytes < 500, (seconds, megabytes)


@pytest.mark.parametrize(
    ("base", "target", "times"),
    [
        ({"n": 8}, {"n": 16}, 2),
        ({"n": 8}, {"n": 8}, 2),  # that it is a width shows at twice the size
        ({"n": 8, "depth": 2}, {"n": 16, "depth": 2}, 3),
    ],
)
def test_the_constructor_is_traced_once_at_each_size_and_its_arrays_are_located_once(base, target, times, monkeypatch):
    sizes, located = [], []
    for module in (_sizes, _uses, _specs):
        monkeypatch.setattr(module, "locate", lambda model: located.append(id(model)) or locate(model))

    def make(n, depth=2, *, key):
        sizes.append((n, depth))
        return eqx.nn.MLP(4, 2, n, depth, key=key)

    tree = parameterize(make, mup(), base=base, target=target)
    assert len(sizes) == len(set(sizes)) == len(located) == len(set(located)) == times
    partition_specs(tree, make_mesh(devices=jax.devices()[:1]))
    disagreements(tree, {})
    assert len(located) == times  # the tree has what was declared
