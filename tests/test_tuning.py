"""Tuning: what is searched and how it is written, the search itself, and what large runs take from it."""

import dataclasses
import json
import math
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from json_schemas import check_schema

import equimu as mu
from equimu import EquimuError
from equimu.cli import main
from equimu.runs import RunConfig, config_to_dict
from equimu.runs._config import identity_of_run
from equimu.tuning import Trained, TuneConfig, tune_config_from_dict, write_comparison, write_tuned
from equimu.tuning._sampler import Sampler
from equimu.tuning._space import searched_numbers, with_values

pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("light_compilation")


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


def test_mistakes_of_the_rest(tmp_path, monkeypatch):
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
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(EquimuError, match=r"needs Optuna, which is not installed: pip install 'equimu\[tune\]'"):
        mu.tune(RUN, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_quasi_random_points_do_not_depend_on_losses():
    asked = []
    for worst in (0, 39):
        sampler = Sampler(2, [[0.9, 0.1]], seed=3, quasi_random=40)
        points = []
        for number, point in (sampler.ask(1)[0] for _ in range(40)):
            sampler.tell(number, float(number == worst))
            points.append(point)
        asked.append(np.array(points))
    np.testing.assert_array_equal(*asked)
    # each half of each axis has as many points as the other, but for the first, which was given, and the break at 40
    counts = (asked[0][1:33] < 0.5).sum(axis=0)
    assert list(counts) == [16, 16]


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
    assert check_schema("tune", data.read_text())["values"] == tuned.values
    assert json.loads(config.read_text()) == config_to_dict(large)
    assert max(map(len, repr(tuned).splitlines())) <= 80


def test_where_all_trials_diverge(tmp_path):
    run = dataclasses.replace(RUN, optimizer=mu.SGD(learning_rate=1e30), steps=5)
    with pytest.raises(EquimuError, match="all 3 trials diverged; search lower values of learning_rate"):
        mu.tune(run, search={"learning_rate": (1e29, 1e31)}, trials=3, seeds=2, out=tmp_path)


# Beside another table


def trained(size, rate, *losses, flops=1.0):
    return Trained(size=size, learning_rate=rate, losses=losses, flops=flops)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    options = {"search": RANGES, "trials": 8, "seeds": 2, "finalists": 1, "at": {"width": (16, 32)}}
    told = []
    found = mu.compare(RUN, **options, rates=(2**-8, 2**-6), out=out, on_run=lambda *args: told.append(args))
    return found, told, out, options


@pytest.mark.long
def test_the_same_seeds_of_each_way_to_train(compared):
    found, told, out, options = compared
    assert [each.size for each in found.carried] == [8, 16, 32]
    assert [(each.size, each.learning_rate) for each in found.grid] == [
        (size, rate) for size in (8, 16, 32) for rate in (2**-8, 2**-6)
    ]
    configs = [run.identity["config"] for run in found.runs]
    mine, others = configs[: 3 * 2], configs[3 * 2 :]
    own = config_to_dict(found.tuned.config)["parameterization"]
    for group, table in ((mine, own), (others, "sp")):
        assert {(c["size"]["width"], c["seed"]) for c in group} == {(w, s) for w in (8, 16, 32) for s in (1, 2)}
        assert all(c["parameterization"] == table and c["base"] == {"width": 8} for c in group)
    assert [what for what, *_ in told][-1] == "sp" and told[-1][2:] == (12, 12)
    # the smallest size is the winner of the search itself
    assert found.carried[0].loss == pytest.approx(found.tuned.loss, rel=1e-6)
    done = {path: path.stat().st_mtime_ns for path in out.rglob("done")}
    again = mu.compare(RUN, **options, rates=(2**-8, 2**-6), out=out)
    assert again.carried == found.carried and done == {path: path.stat().st_mtime_ns for path in out.rglob("done")}


@pytest.mark.long
def test_the_page_of_a_comparison(compared, tmp_path):
    found, *_ = compared
    page, figure, data = write_comparison(found, tmp_path)
    text = page.read_text()
    assert found.sentence in text and "| width | mup tuned at width 8, carried | sp tuned at width 8, carried |" in text
    assert text.count(f"{found.carried[-1].loss:.3f} ± {found.carried[-1].plus_minus:.3f}") >= 1
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert check_schema("compare", data.read_text())["carried"][2]["losses"] == list(found.carried[2].losses)


@pytest.mark.long
def test_the_sentence_of_a_comparison(compared):
    found, *_ = compared
    tuned = dataclasses.replace(found.tuned, seconds=12.0, flops=4.0)
    known = dataclasses.replace(
        found,
        tuned=tuned,
        carried=(trained(8, 1.0, 2.0, 2.2), trained(32, 1.0, 1.0, 1.2)),
        grid=(
            *(trained(8, 0.5, 2.0, 2.1), trained(8, 0.25, 3.0, 3.0)),
            *(trained(32, 0.5, 1.5, 1.7, flops=10.0), trained(32, 0.25, 1.0, 1.05, flops=10.0)),
        ),
    )
    assert known.sentence == (
        "Tuned once at width 8 in 12 s, at width 32 the loss is 0.500 below that of sp carried over and 0.075 above that of sp "
        "retuned there, which takes 10.0 times the operations of the search."
    )
    diverging = dataclasses.replace(known, grid=(*known.grid[:2], trained(32, 0.5, math.nan, 1.0), known.grid[3]))
    assert "finite, unlike that of sp carried over" in diverging.sentence
    # two seeds: Student's t with one degree of freedom
    assert trained(8, 1.0, 1.0, 1.2).plus_minus == pytest.approx(6.3138 * 0.1, rel=1e-4)


@pytest.mark.long
def test_the_tuned_table_retuned_at_twice_and_four_times_the_size(tmp_path):
    options = {"search": {"output.multiplier": (0.25, 4)}, "trials": 3, "seeds": 2, "finalists": 1}
    found = mu.compare(RUN, **options, against=None, rates=[2**-6], out=tmp_path)
    assert [each.size for each in found.carried] == [8, 16, 32]
    tables = {json.dumps(run.identity["config"]["parameterization"]) for run in found.runs}
    assert found.against == "itself" and len(tables) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at": {}}, "at takes values of one size, e.g. width=64,128,256; got none"),
        ({"at": {"width": [8]}}, "at has no width above the 8 that is tuned at"),
        ({"at": {"width": [4]}}, "at has width=4, below the 8 that was tuned at"),
        ({"at": {"widht": [64]}}, "at names 'widht', .* did you mean 'width'"),
        ({"at": {"width": [64]}, "rates": ()}, "rates is empty; give at least one learning rate"),
        ({"at": {"width": [64]}, "against": "spp"}, "did you mean 'sp'"),
    ],
)
def test_mistakes_of_a_comparison(options, words, tmp_path):
    with pytest.raises(EquimuError, match=words):
        mu.compare(RUN, search=RANGES, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_numbers_that_are_worth_nothing_go_back_to_their_defaults(tmp_path):
    """The range of epsilon is such that no value of it matters."""
    tuned = mu.tune(RUN, search={**RANGES, "eps": (1e-12, 1e-11)}, trials=24, seeds=3, finalists=2, out=tmp_path)
    assert tuned.values["eps"] == RUN.optimizer.eps == tuned.config.optimizer.eps
    assert tuned.values["learning_rate"] > 2**-9
    (effect,) = [effect for effect in tuned.effects if effect.name == "eps"]
    assert abs(effect.lost) <= effect.plus_minus and "stays at its default" in repr(tuned)
    losses = [r.validation_loss for r in tuned.runs if r.identity["config"]["optimizer"]["eps"] == RUN.optimizer.eps]
    assert any(loss < tuned.default_loss for loss in losses)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["tune", "--carry", "width=256,512"], "--carry takes one value of each size, got width=256,512"),
        (["tune", "--carry", "256"], "--carry takes sizes by name, e.g. --carry width=1024 depth=24; got '256'"),
        (["tune", "--carry", "width=64"], "carry has width=64, below the 128"),
        (
            ["tune", "--search.lr", "1", "2"],
            "search names 'lr', which is not a number of the run: did you mean 'learning_rate'",
        ),
        (["compare", "--lr", "1"], "write --search.learning-rate"),
        (["compare", "--at", "64"], "--at takes sizes by name, e.g. --at width=64,128,256; got '64'"),
        (["compare", "--at", "width=256", "depth=4"], "at takes values of one size"),
    ],
)
def test_mistakes_on_the_command_line(flags, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*flags, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and words in capsys.readouterr().err and not (tmp_path / "out").exists()
