"""Tuning: what is searched and how it is written, the search itself, and what large runs take from it."""

import dataclasses
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equimu as mu
from equimu import EquimuError
from equimu.runs import RunConfig, config_to_dict
from equimu.runs._config import identity_of_run
from equimu.tuning import TuneConfig, tune_config_from_dict, write_tuned
from equimu.tuning._sampler import Sampler
from equimu.tuning._space import searched_numbers, with_values

pytest.importorskip("optuna")


@dataclasses.dataclass(frozen=True)
class Curve(mu.Task):
    """A function of three numbers."""

    rows: int = 16

    def make(self, width: int = 8, *, key):
        return eqx.nn.MLP(3, "scalar", width, 2, key=key)

    def data(self):
        x = np.random.default_rng(0).normal(size=(256, 3)).astype(np.float32)
        return mu.data.arrays(x, np.sin(x.sum(axis=1)), rows=self.rows)

    def loss(self, model, batch):
        x, y = batch
        return jnp.square(jax.vmap(model)(x) - y)


RUN = RunConfig(task=Curve(), steps=40, optimizer=mu.AdamW(learning_rate=2**-12))
RANGES = {"learning_rate": (2**-12, 2**-2), "output.multiplier": (0.25, 4)}


@pytest.mark.parametrize(
    ("name", "low", "high", "middle"),
    [
        ("learning_rate", 2**-9, 2**-3, 2**-6),
        ("weight_decay", 0.0, 1.0, 0.5),
        ("b2", 0.9, 0.999, 0.99),
        ("warmup", 0.1, 0.15, 0.125),
        ("rows", 8, 32, 16),
        ("hidden.init_std", 0.25, 4, 1),
    ],
)
def test_points_are_even_on_the_axis_of_a_number(name, low, high, middle):
    (number,) = searched_numbers(RUN, {name: (low, high)})
    assert number.name == name
    assert [number.value(share) for share in (0, 0.5, 1)] == [low, pytest.approx(middle, rel=1e-3), high]
    assert number.share(middle) == pytest.approx(0.5, abs=1e-3)
    assert number.share(high * 2) is None
    assert isinstance(number.value(0.3), int) == (name == "rows")


def test_a_setting_is_a_run_like_any_other():
    numbers = searched_numbers(RUN, {**RANGES, "output.lr": (0.5, 2)})
    run = with_values(RUN, numbers, {"learning_rate": 0.01, "output.multiplier": 0.5, "output.lr": 2.0})
    assert run.parameterization == "mup.tune(output, lr=2, multiplier=0.5)"
    assert run.optimizer.learning_rate == 0.01
    # with everything at its default it is the run that nobody tuned
    assert with_values(RUN, numbers, {number.name: number.default for number in numbers}) == RUN
    table = dataclasses.replace(RUN, parameterization=mu.mup())
    made = with_values(table, numbers, {"output.multiplier": 0.5, "output.lr": 1.0, "learning_rate": 0.01})
    assert made.parameterization == mu.mup().tune("output", multiplier=0.5)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({}, "nothing to tune"),
        ({"learning_rat": (0.1, 1)}, "did you mean 'learning_rate'"),
        ({"output.multipler": (0.1, 1)}, "not a number of the run"),
        ({"learning_rate": (0.1,)}, "a lowest and a highest value, got 1"),
        ({"learning_rate": 0.1}, "must be a list or a tuple"),
        ({"learning_rate": (1, 0.1)}, "from 1 to 0.1; give the lower value first"),
        ({"learning_rate": (-1, 0.1)}, "at least 0"),
        ({"width": (8, 16)}, "more of it always helps"),
        ({"steps": (8, 16)}, "more of it always helps"),
        ({"learning_rate": (0.1, 1), "optimizer.learning_rate": (0.1, 1)}, "twice"),
    ],
)
def test_mistakes_in_what_is_searched(search, words):
    with pytest.raises(EquimuError, match=words) as error:
        searched_numbers(RUN, search)
    assert "\n" not in str(error.value)


def test_mistakes_of_the_rest(tmp_path):
    with pytest.raises(EquimuError, match="seeds must be at least 2"):
        TuneConfig(run=RUN, seeds=1)
    with pytest.raises(EquimuError, match="trials must be at least 1"):
        TuneConfig(run=RUN, trials=0)
    with pytest.raises(EquimuError, match="seed=3 is for a single run"):
        TuneConfig(run=dataclasses.replace(RUN, seed=3))
    with pytest.raises(EquimuError, match="nowhere"):
        mu.tune(RUN, search={"nowhere.lr": (0.5, 2)}, out=tmp_path)
    with pytest.raises(EquimuError, match="unknown key 'trails': did you mean 'trials'"):
        tune_config_from_dict({"trails": 3})
    assert not list(tmp_path.iterdir())


def test_the_sampler_begins_with_the_defaults_and_finds_a_bowl():
    def best(seed):
        sampler, found, first = Sampler(3, [[0.9, 0.1, 0.5]], seed), [], None
        for _ in range(16):
            asked = sampler.ask(4)
            first = asked[0][1] if first is None else first
            for number, point in asked:
                loss = math.inf if point[0] > 0.95 else float(np.sum((point - [0.3, 0.6, 0.5]) ** 2))
                sampler.tell(number, loss)
                found.append(loss)
        assert first.tolist() == [0.9, 0.1, 0.5]
        return min(found), found

    assert best(0)[1] == best(0)[1]
    # of 64 points drawn at random, the best is 0.02 on average
    assert np.mean([best(seed)[0] for seed in range(5)]) < 0.01


def test_a_search_finds_a_better_setting_goes_on_and_is_carried(tmp_path):
    found = []
    options = {"search": RANGES, "trials": 20, "seeds": 2, "finalists": 2, "out": tmp_path}
    tuned = mu.tune(RUN, **options, on_trial=lambda run, done, most: found.append((done, most)))
    # a rate of 2**-12 in 40 steps learns nothing
    assert tuned.loss + tuned.plus_minus < tuned.default_loss
    assert (
        tuned.values["learning_rate"] > 2**-9 and tuned.config.optimizer.learning_rate == tuned.values["learning_rate"]
    )
    assert tuned.effects[0].name == "learning_rate" and tuned.effects[0].lost > 0
    assert tuned.effects[0].default == 2**-12 and {e.name for e in tuned.effects} == set(RANGES)
    assert tuned.trials <= 20 and len(tuned.runs) == len(found) == found[-1][0] <= found[-1][1] == 20 + 2 * (2 + 2 + 2)
    # the winner's loss is of seeds that the search did not see
    identities = [run.identity["config"] for run in tuned.runs]
    for seed in (1, 2):
        assert identity_of_run(dataclasses.replace(tuned.config, seed=seed, on_nonfinite="record")) in identities

    again = mu.tune(RUN, **options)
    assert again.values == tuned.values and again.loss == tuned.loss
    assert len(list(tmp_path.glob("*/done"))) == len(tuned.runs)

    large = tuned.carried(width=64)
    assert dict(large.size) == {"width": 64} and large.base == RUN.base
    assert (large.optimizer, large.parameterization) == (tuned.config.optimizer, tuned.config.parameterization)
    for size, words in (({"widht": 64}, "did you mean 'width'"), ({"width": 4}, "below the 8 that was tuned at")):
        with pytest.raises(EquimuError, match=words):
            tuned.carried(**size)

    page, data, config = write_tuned(tuned, tmp_path / "report", large)
    assert "| learning_rate |" in page.read_text()
    assert json.loads(data.read_text())["values"] == tuned.values
    assert json.loads(config.read_text()) == config_to_dict(large)
    assert max(map(len, repr(tuned).splitlines())) <= 80


def test_where_all_trials_diverge(tmp_path):
    run = dataclasses.replace(RUN, optimizer=mu.SGD(learning_rate=1e30), steps=5)
    with pytest.raises(EquimuError, match="all 3 trials diverged; search lower values of learning_rate"):
        mu.tune(run, search={"learning_rate": (1e29, 1e31)}, trials=3, seeds=2, out=tmp_path)
