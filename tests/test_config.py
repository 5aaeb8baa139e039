import dataclasses
import json

import pytest

from equimu import EquimuError, LanguageModel, RunConfig, SweepConfig, mup, octaves
from equimu.runs import config_from_dict, config_to_dict
from equimu.runs._config import digest, identity_of_run
from equimu.sweeps import cells, sweep_config_from_dict
from equimu.tasks import ModelConfig, TextConfig


def test_config_round_trip_through_json():
    task = LanguageModel(model=ModelConfig(n_kv_head=1, rotary_base=None, attention_scale=0.25))
    config = RunConfig(task=task, size={"width": 64}, steps=7)
    text = json.dumps(config_to_dict(config))
    assert config_from_dict(json.loads(text)) == config
    sweep = SweepConfig(run=config, over={"depth": (2, 4)}, fit={"learning_rate": octaves(-3, -2.5, 0.5)})
    plain = {"over": {"depth": [2, 4]}, "fit": {"learning_rate": [2**-3, 2**-2.5]}, "run": json.loads(text)}
    assert sweep_config_from_dict(plain) == sweep


@pytest.mark.parametrize(
    "values, words",
    [
        ({"stepz": 3}, ["'stepz'", "did you mean 'steps'"]),
        ({"size": {"widht": 3}}, ["'widht'", "did you mean 'width'"]),
        ({"task": {"model": {"n_heads": 3}}}, ["'task.model.n_heads'", "did you mean 'n_head'"]),
        ({"size": {"width": "64"}}, ["size.width", "int", "'64'"]),
        ({"size": {"width": True}}, ["size.width", "int", "True"]),
        ({"task": {"model": 3}}, ["task.model", "3"]),
        ({"task": 3}, ["task", "3"]),
        ({"size": 3}, ["size", "3"]),
        ({"task": {"model": {"activation": "gelo"}}}, ["task.model.activation", "did you mean 'gelu'"]),
        ({"steps": 0}, ["steps", "at least 1"]),
        ({"optimizer": {"warmup": 1.5}}, ["warmup", "1.5"]),
        ({"optimizer": {"learning_rate": -1}}, ["learning_rate", "-1"]),
        ({"optimizer": {"eps": float("nan")}}, ["eps", "nan"]),
        ({"optimizer": {"b2": 1.0}}, ["b2", "below 1"]),
        ({"accumulate": 0}, ["accumulate", "at least 1"]),
    ],
)
def test_config_errors_name_the_key(values, words):
    with pytest.raises(EquimuError) as error:
        config_from_dict(values)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["over.width", "fit.learning_rate", "seeds", "panels"])
@pytest.mark.parametrize("value", ["mup", 2.5, None, {"a": 1}])
def test_a_single_value_for_a_list_is_told_what_to_write(name, value):
    with pytest.raises(EquimuError) as error:
        first, _, second = name.partition(".")
        sweep_config_from_dict({first: {second: value}} if second else {name: value})
    message = str(error.value)
    assert f"{name} must be a list" in message and "\n" not in message and "Union" not in message
    assert f"write [{value!r}]" in message or isinstance(value, dict | None)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"optimizer": {"name": ["lion"]}}, "optimizer.name .*'lion'"),
        ({"task": {"model": {"n_kv_head": "2"}}}, "task.model.n_kv_head must be int, got '2'"),
        (
            {"task": {"model": {"attention_scale": []}}},
            r"attention_scale must be '1/head_dim' or '1/sqrt\(head_dim\)' or float, got",
        ),
        ({"steps": 10**5000}, "steps must be .*an integer of 16610 bits"),
        ({"size": {"width": 2**40}}, r"size.width must be below 2\*\*31"),
        ({"optimizer": {"clip_norm": 0}}, "clip_norm must be above 0"),
        ({"task": {"model": {"unroll": 0}}}, "unroll must be at least 1"),
        ({"task": {"text": {"corpus": ""}}}, "text.corpus is empty"),
        ({"task": {"text": {"corpus": "x" * 300}}}, "text.corpus has 300 bytes"),
    ],
)
def test_values_out_of_their_type_are_one_line(values, words):
    with pytest.raises(EquimuError, match=words) as error:
        config_from_dict(values)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_an_int_where_a_float_belongs_is_the_same_run():
    plain, other = (config_from_dict({"optimizer": {"learning_rate": rate}}) for rate in (1.0, 1))
    assert digest(config_to_dict(other)) == digest(config_to_dict(plain))


def test_digest_changes_with_every_field():
    base = RunConfig()
    digests = {digest(identity_of_run(base))}
    changes = [
        dataclasses.replace(base, steps=151),
        dataclasses.replace(base, seed=1),
        RunConfig(task=LanguageModel(model=ModelConfig(use_bias=True))),
        RunConfig(task=LanguageModel(z_loss=1e-4)),
        RunConfig(size={"width": 256}),
        RunConfig(base={"width": 32}),
        RunConfig(base_rows=4),
        dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, eps=1e-9)),
        RunConfig(task=LanguageModel(text=TextConfig(rows=16))),
        RunConfig(parameterization="mup.with_eps(lr)"),
    ]
    digests |= {digest(identity_of_run(changed)) for changed in changes}
    assert len(digests) == 1 + len(changes)


def test_how_a_run_is_carried_out_is_not_part_of_what_it_is():
    model = ModelConfig(remat=True, unroll=2, attention_backend="reference")
    other = RunConfig(task=LanguageModel(model=model, loss_chunk=8), accumulate=2, log_every=1)
    assert identity_of_run(other) == identity_of_run(RunConfig())
    assert config_from_dict(json.loads(json.dumps(config_to_dict(other)))) == other


def test_what_is_left_out_of_the_base_is_the_default_or_the_runs_own():
    assert RunConfig(size={"width": 256, "depth": 1}).base == {"width": 128, "depth": 1}
    assert RunConfig(size={"width": 64}, base={"depth": 1}).base == {"width": 64, "depth": 1}


def test_cells_are_the_whole_product():
    names = ("mup(form=absolute)", "sp")
    config = SweepConfig(panels=names, over={"width": (64, 32)}, fit={"learning_rate": octaves(-4, -3)}, seeds=2)
    runs = list(cells(config))
    found = {(r.parameterization_name, r.size["width"], r.optimizer.learning_rate, r.seed) for r in runs}
    expected = {
        (name, width, rate, seed) for name in names for width in (32, 64) for rate in (2**-4, 2**-3) for seed in (0, 1)
    }
    assert found == expected and len(runs) == len(expected)
    assert {r.base["width"] for r in runs} == {32}
    # runs of one width stand together, so that one compiled program serves them one after the other
    assert [r.size["width"] for r in runs] == [64] * 8 + [32] * 8


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"over": {"width": ()}}, ["empty", "over.width"]),
        ({"fit": {"b2": (0.9,), "learning_rate": (0.1,)}}, ["fits one number", "b2 and learning_rate"]),
        ({"fit": {}}, ["fits one number", "none"]),
        ({"over": {"weight_decya": (0.1,)}}, ["did you mean 'weight_decay'"]),
        ({"over": {"momentum": (0.1,)}}, ["'momentum'", "not a number of the run"]),
        ({"over": {"activation": (1,)}}, ["'activation'", "not a number of the run"]),
        ({"over": {"steps": (1.5,)}}, ["over.steps must be int", "1.5"]),
        ({"over": {"steps": (10,), "fit": (1,)}}, ["'fit'"]),
        ({"over": {"learning_rate": (0.1,)}}, ["learning_rate", "over", "fit"]),
        ({"fit": {"weight_decay": (0.0, 0.1)}, "fit_scale": "log2"}, ["no logarithm", "linear"]),
        ({"fit": {"b2": (0.9,)}, "panels": ("adamw", "sgd")}, ["panel sgd", "b2"]),
        ({"panels": ("lion(b3=1)",)}, ["optimizer.b3"]),
        ({"panels": (mup(), mup(form="absolute").tune("output", multiplier=2), mup())}, ["mup-relative", "twice"]),
        ({"seeds": 0}, ["seeds", "how many"]),
        ({"over": {"widht": (64,)}}, ["'widht'", "did you mean 'width'"]),
        ({"seeds": (1, 1)}, ["seeds", "twice"]),
        ({"panels": ("mop",)}, ["'mop'", "mup"]),
        ({"panels": ("sp(form=absolute)",)}, ["sp", "form"]),
        ({"over": {"width": (64,)}, "run": RunConfig(size={"width": 64})}, ["size.width=64", "over.width"]),
        ({"run": RunConfig(seed=3)}, ["seed=3", "seeds"]),
    ],
)
def test_sweep_config_errors(fields, words):
    with pytest.raises(EquimuError) as error:
        SweepConfig(**fields)
    for word in words:
        assert word in str(error.value)
