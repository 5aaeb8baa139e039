"""Optimizers as values: their names, their JSON, and what they build."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import LINES

import equimu as mu
from equimu.optim import optimizer_class, optimizer_from_dict, optimizer_name, optimizer_to_dict
from equimu.runs import read_runs
from equimu.tasks import find_task
from equimu.training import Programs

pytestmark = pytest.mark.usefixtures("light_compilation")

NAMES = {"adamw": mu.AdamW, "lion": mu.Lion, "sgd": mu.SGD, "adafactor": mu.Adafactor, "muon": mu.Muon}
FUNCTIONS = {"adamw": mu.adamw, "lion": mu.lion, "sgd": mu.sgd, "adafactor": mu.adafactor, "muon": mu.muon}


def make(width, *, key):
    return eqx.nn.MLP(4, 2, width, 2, key=key)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_goes_to_json_and_back(name):
    value = NAMES[name](learning_rate=0.1, clip_norm=None, warmup=0.25)
    assert optimizer_class(name) is NAMES[name] and optimizer_name(value) == name
    plain = json.loads(json.dumps(optimizer_to_dict(value)))
    assert plain["name"] == name and optimizer_from_dict(plain) == value


@pytest.mark.parametrize("name", NAMES)
def test_a_value_builds_what_its_function_does(name):
    value = NAMES[name](clip_norm=0.5, weight_decay=0.1, schedule="constant", floor=0.0)
    table = mu.parameterization_from_text("mup", optimizer=value.family, decay="independent")
    tree = mu.parameterize(make, table, base={"width": 4}, target={"width": 8})
    params = jax.tree.map(lambda x: x if hasattr(x, "dtype") else None, mu.initialize(tree, jax.random.key(0)))
    grads = jax.tree.map(lambda x: jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
    own = {"sgd": {"momentum": 0.9}, "muon": {"beta": 0.9}, "lion": {"b2": 0.95}}.get(name, {})
    theirs = FUNCTIONS[name](tree, learning_rate=0.1, weight_decay=0.1, clip_norm=0.5, **own)
    ours = value.build(tree, learning_rate=0.1, weight_decay=0.1, steps=10, warmup=0)
    found, expected = (o.update(grads, o.init(params), params)[0] for o in (ours, theirs))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Still(mu.Optimizer):
    family = "sgd"

    def transformation(self, tree, **common):
        return optax.with_extra_args_support(optax.set_to_zero())


def test_an_optimizer_of_ones_own_has_a_name_once_it_is_registered():
    with pytest.raises(mu.EquimuError, match=r"write equimu.register_optimizer\('mine', Still\)"):
        optimizer_to_dict(Still())
    mu.register_optimizer("still", Still)
    assert optimizer_from_dict({"name": "still", "learning_rate": 0.5}) == Still(learning_rate=0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: optimizer_from_dict({"name": "adamx"}), "'adamx' is unknown: did you mean 'adamw'"),
        (lambda: optimizer_from_dict({"name": "lion", "momentum": 0.5}), "unknown key 'optimizer.momentum'"),
        (lambda: optimizer_from_dict({"name": 3}), "must be the name of an optimizer"),
        (lambda: mu.register_optimizer("adamw", Still), "an optimizer of equimu's own"),
        (lambda: mu.register_optimizer("mine", type("Bare", (mu.Optimizer,), {})), "a frozen dataclass"),
    ],
)
def test_mistakes_are_one_line(call, words):
    with pytest.raises(mu.EquimuError) as error:
        call()
    assert words in str(error.value) and "\n" not in str(error.value)


def test_schedules_by_name():
    factor = lambda name: [float(mu.warmup_schedule(total=14, warmup=4, decay=name, floor=0.0)(n)) for n in range(15)]  # noqa: E731
    np.testing.assert_allclose(factor("wsd")[4:], [1] * 9 + [0.5, 0], atol=1e-6)
    np.testing.assert_allclose(factor("inverse_sqrt")[4:], [(4 / n) ** 0.5 for n in range(4, 15)], rtol=1e-6)
    mu.register_schedule("squared", lambda at: (1 - at.share) ** 2)
    np.testing.assert_allclose(factor("squared")[4:], [(1 - n / 10) ** 2 for n in range(11)], atol=1e-6)
    assert optimizer_from_dict({"name": "lion", "schedule": "squared"}) == mu.Lion(schedule="squared")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mu.AdamW(schedule="cosin"), "optimizer.schedule 'cosin' is unknown: did you mean 'cosine'"),
        (lambda: optimizer_from_dict({"decay": "cosine"}), "optimizer.decay is now optimizer.schedule"),
        (lambda: mu.register_schedule("linear", lambda at: at.share), "of equimu's own"),
        (lambda: mu.register_schedule("two words", lambda at: at.share), "letters, digits"),
    ],
)
def test_mistakes_with_schedules_are_one_line(call, words):
    with pytest.raises(mu.EquimuError, match=words):
        call()


@pytest.mark.long
def test_runs_that_differ_in_numbers_of_the_optimizer_share_a_program(tmp_path):
    programs = Programs()
    config = mu.RunConfig(task=find_task(LINES)(), size={"width": 8}, steps=3, validation_batches=3)
    for numbers in ({}, {"b1": 0.5}, {"b2": 0.99, "eps": 1e-4}, {"floor": 0.5}):
        optimizer = dataclasses.replace(config.optimizer, **numbers)
        mu.train(dataclasses.replace(config, optimizer=optimizer), out=tmp_path, programs=programs)
    assert programs.made == 1
    for other in ({"b1": 0.0}, {"clip_norm": None}, {"first_moment_dtype": "bfloat16"}):
        optimizer = dataclasses.replace(config.optimizer, **other)
        mu.train(dataclasses.replace(config, optimizer=optimizer), out=tmp_path, programs=programs)
    assert programs.made == 4
    losses = {run.validation_loss for run in read_runs(tmp_path)}
    assert len(losses) == 7


@pytest.mark.parametrize(
    "optimizer", [mu.AdamW(b1=0.7, b2=0.9), mu.Lion(b1=0.7), mu.SGD(momentum=0.7), mu.Muon(momentum=0.7)]
)
def test_numbers_as_inputs_update_with_the_bits_of_numbers_that_are_compiled_in(optimizer):
    table = mu.parameterization_from_text(
        "mup" if optimizer.family != "muon" else "spectral", optimizer=optimizer.family
    )
    tree = mu.parameterize(make, table, base={"width": 4}, target={"width": 8})
    params = eqx.filter(mu.initialize(tree, jax.random.key(0)), eqx.is_inexact_array)

    def two_steps(inputs):
        built = optimizer.with_inputs(inputs).build(tree, learning_rate=0.1, weight_decay=0.0, steps=9, warmup=2)
        state, each = built.init(params), []
        for number in range(2):
            grads = jax.tree.map(lambda x, number=number: jnp.sin(x + number), params)
            updates, state = built.update(grads, state, params)
            each += jax.tree.leaves(updates)
        return each

    inputs = optimizer.inputs()
    assert inputs and "learning_rate" not in inputs
    for found, wanted in zip(two_steps(inputs), two_steps({}), strict=True):
        np.testing.assert_array_equal(found, wanted)
