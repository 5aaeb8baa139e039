import dataclasses
import json

import pytest

from equimu import EquimuError, RunConfig, SweepConfig
from equimu.sweep import cells, parameterization_name
from equimu.train import ModelConfig, config_from_dict, config_to_dict
from equimu.train._config import digest


def test_config_round_trip_through_json():
    config = RunConfig(model=ModelConfig(width=64, n_kv_head=1, rotary_base=None, attention_scale=0.25), steps=7)
    text = json.dumps(config_to_dict(config))
    assert config_from_dict(RunConfig, json.loads(text)) == config
    sweep = SweepConfig(widths=(32, 64), log2_learning_rates=(-3, -2.5))
    assert config_from_dict(SweepConfig, json.loads(json.dumps(config_to_dict(sweep)))) == sweep


@pytest.mark.parametrize(
    "values, words",
    [
        ({"stepz": 3}, ["'stepz'", "did you mean 'steps'"]),
        ({"model": {"widht": 3}}, ["'model.widht'", "did you mean 'width'"]),
        ({"model": {"width": "64"}}, ["model.width", "int", "'64'"]),
        ({"model": {"width": True}}, ["model.width", "int", "True"]),
        ({"model": 3}, ["model", "3"]),
        ({"model": {"activation": "gelo"}}, ["model.activation", "did you mean 'gelu'"]),
        ({"steps": 0}, ["steps", "at least 1"]),
        ({"optimizer": {"warmup": 1.5}}, ["warmup", "1.5"]),
        ({"optimizer": {"learning_rate": -1}}, ["learning_rate", "-1"]),
        ({"optimizer": {"eps": float("nan")}}, ["eps", "nan"]),
        ({"optimizer": {"b2": 1.0}}, ["b2", "below 1"]),
        ({"accumulate": 3}, ["8 rows", "3 equal parts"]),
    ],
)
def test_config_errors_name_the_key(values, words):
    with pytest.raises(EquimuError) as error:
        config_from_dict(RunConfig, values)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["widths", "depths", "log2_learning_rates", "seeds", "parameterizations"])
@pytest.mark.parametrize("value", [64, "mup", 2.5, None, {"a": 1}])
def test_a_single_value_for_a_list_is_told_what_to_write(name, value):
    with pytest.raises(EquimuError) as error:
        config_from_dict(SweepConfig, {name: value})
        told = str(error.value)
        assert (
            f"{name} must be a list" in told
            and f"write [{value!r}]" in told
            and "\n" not in told
            and "Union" not in told
        )


@pytest.mark.parametrize(
    "values, words",
    [
        ({"parameterization": {"tune": "output.lr=2"}}, "parameterization.tune must be a list, got 'output.lr=2'"),
        ({"model": {"n_kv_head": "2"}}, "model.n_kv_head must be int, got '2'"),
        (
            {"model": {"attention_scale": []}},
            r"attention_scale must be '1/head_dim' or '1/sqrt\(head_dim\)' or float, got",
        ),
        ({"steps": 10**5000}, "steps must be .*an integer of 16610 bits"),
        ({"model": {"width": 2**40}}, r"model.width must be below 2\*\*31"),
        ({"optimizer": {"clip_norm": 0}}, "clip_norm must be above 0"),
        ({"model": {"unroll": 0}}, "unroll must be at least 1"),
        ({"data": {"corpus": ""}}, "data.corpus is empty"),
        ({"data": {"corpus": "x" * 300}}, "data.corpus has 300 bytes"),
    ],
)
def test_values_out_of_their_type_are_one_line(values, words):
    with pytest.raises(EquimuError, match=words) as error:
        config_from_dict(RunConfig, values)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_an_int_where_a_float_belongs_is_the_same_run():
    plain, other = (config_from_dict(RunConfig, {"optimizer": {"learning_rate": rate}}) for rate in (1.0, 1))
    assert digest(config_to_dict(other)) == digest(config_to_dict(plain))


def test_digest_changes_with_every_field():
    base = RunConfig()
    digests = {digest(config_to_dict(base))}
    changes = [
        dataclasses.replace(base, steps=151),
        dataclasses.replace(base, seed=1),
        dataclasses.replace(base, model=dataclasses.replace(base.model, use_bias=True)),
        dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, eps=1e-9)),
        dataclasses.replace(base, data=dataclasses.replace(base.data, rows=16)),
        dataclasses.replace(base, parameterization=dataclasses.replace(base.parameterization, eps="lr")),
    ]
    digests |= {digest(config_to_dict(changed)) for changed in changes}
    assert len(digests) == 1 + len(changes)
    assert digest(config_to_dict(base)) in digests


def test_cells_are_the_whole_product():
    config = SweepConfig(
        parameterizations=("mup-absolute", "sp"), widths=(64, 32), log2_learning_rates=(-4.0, -3.0), seeds=(0, 1)
    )
    runs = list(cells(config))
    found = {
        (parameterization_name(r.parameterization), r.model.width, r.optimizer.learning_rate, r.seed) for r in runs
    }
    expected = {
        (name, width, rate, seed)
        for name in ("mup-absolute", "sp")
        for width in (32, 64)
        for rate in (2**-4, 2**-3)
        for seed in (0, 1)
    }
    assert found == expected and len(runs) == len(expected)
    assert {r.parameterization.base_width for r in runs} == {32}
    # runs of one width stand together, so that one compiled program serves them one after the other
    assert [r.model.width for r in runs] == [64] * 8 + [32] * 8


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"widths": ()}, ["empty", "widths"]),
        ({"seeds": (1, 1)}, ["seeds", "twice"]),
        ({"parameterizations": ("mop",)}, ["'mop'", "mup"]),
        ({"parameterizations": ("sp-absolute",)}, ["sp-absolute"]),
        ({"run": RunConfig(model=ModelConfig(width=64))}, ["model.width=64", "widths"]),
        ({"run": RunConfig(seed=3)}, ["seed=3", "seeds"]),
    ],
)
def test_sweep_config_errors(fields, words):
    with pytest.raises(EquimuError) as error:
        SweepConfig(**fields)
    for word in words:
        assert word in str(error.value)
