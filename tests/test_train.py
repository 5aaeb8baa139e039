import dataclasses
import json
import math

import jax
import pytest
from runs import small_run

from equimu import EquimuError, RunConfig, train
from equimu.train import _program as program_module
from equimu.train import build_tree, config_from_dict, config_to_dict, open_data, program_for, read_run, read_runs

TIMES = {"tokens_per_second"}


def without_times(rows):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_train_writes_a_run_and_learns(corpus, tmp_path):
    config = small_run(corpus, steps=60, learning_rate=2**-4)
    seen = []
    run = train(config, out=tmp_path, on_row=seen.append)
    assert run.status == "finished" and run.folder.parent == tmp_path
    assert {p.name for p in run.folder.iterdir()} == {"config.json", "rules.json", "metrics.jsonl", "done"}
    assert [dict(row) for row in run.rows] == seen
    *rows, last = run.rows
    assert [row["step"] for row in rows] == [1, *range(5, 61, 5)]
    assert [row["tokens"] for row in rows] == [4 * 16 * row["step"] for row in rows]
    # an untrained model with a small readout says ln(256); sixty steps are enough to do much better
    assert abs(rows[0]["loss"] - math.log(256)) < 0.05
    assert run.validation_loss == last["validation_loss"] < 4.5
    assert all(row["grad_norm"] > 0 and row["update_rms"] > 0 and row["tokens_per_second"] > 0 for row in rows)


def test_train_same_config_same_bits(corpus, tmp_path):
    config = small_run(corpus)
    first = train(config, out=tmp_path / "a")
    jax.clear_caches()
    program_module._PROGRAMS.clear()  # also compiled again
    second = train(config, out=tmp_path / "b")
    assert without_times(first.rows) == without_times(second.rows)
    assert first.folder.name == second.folder.name
    other = train(dataclasses.replace(config, seed=1), out=tmp_path / "a")
    assert without_times(other.rows) != without_times(first.rows)


def test_train_does_not_repeat_a_finished_run(corpus, tmp_path):
    config = small_run(corpus)
    run = train(config, out=tmp_path)
    before = (run.folder / "metrics.jsonl").stat().st_mtime_ns
    seen = []
    again = train(config, out=tmp_path, on_row=seen.append)
    assert again == run and seen == []
    assert (run.folder / "metrics.jsonl").stat().st_mtime_ns == before


def test_train_starts_an_interrupted_run_anew(corpus, tmp_path):
    config = small_run(corpus)
    whole = train(config, out=tmp_path / "whole")

    def stop(row):
        if row["step"] >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path / "cut", on_row=stop)
    (folder,) = (tmp_path / "cut").iterdir()
    assert read_run(folder) is None and list(read_runs(tmp_path / "cut")) == []
    run = train(config, out=tmp_path / "cut")
    assert without_times(run.rows) == without_times(whole.rows)


def test_train_records_divergence(corpus, tmp_path):
    # SGD with a rate that no curvature permits
    config = small_run(corpus, learning_rate=1e20, clip_norm=None)
    optimizer = dataclasses.replace(config.optimizer, name="sgd")
    config = dataclasses.replace(config, optimizer=optimizer, steps=20, on_nonfinite="record")
    run = train(config, out=tmp_path)
    assert run.status == "diverged" and run.validation_loss == math.inf
    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert next(iter(read_runs(tmp_path))) == run


def test_train_refuses_a_folder_of_another_config(corpus, tmp_path):
    config = small_run(corpus)
    run = train(config, out=tmp_path)
    identity = json.loads((run.folder / "config.json").read_text())
    identity["config"]["steps"] += 1
    (run.folder / "config.json").write_text(json.dumps(identity))
    with pytest.raises(EquimuError, match="another config"):
        train(config, out=tmp_path)
    (run.folder / "config.json").unlink()
    with pytest.raises(EquimuError, match=r"no config\.json"):
        train(config, out=tmp_path)


def test_train_leaves_nothing_behind_after_bad_input(corpus, tmp_path):
    good = small_run(corpus)
    bad = [
        dataclasses.replace(good, model=dataclasses.replace(good.model, width=20)),
        dataclasses.replace(good, parameterization=dataclasses.replace(good.parameterization, base_width=64)),
        dataclasses.replace(good, model=dataclasses.replace(good.model, tie_embeddings=True)),
        dataclasses.replace(good, model=dataclasses.replace(good.model, attention_backend="nosuch")),
        dataclasses.replace(good, data=dataclasses.replace(good.data, corpus=str(tmp_path / "nothing.txt"))),
        dataclasses.replace(good, data=dataclasses.replace(good.data, seq=10**8)),
    ]
    for config in bad:
        with pytest.raises(EquimuError):
            train(config, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_programs_are_shared_by_runs_that_differ_in_numbers_only(corpus):
    base = small_run(corpus, width=32)
    vocab = open_data(base.data).info.vocab_size

    def program(config):
        return program_for(config, build_tree(config, vocab))[0]

    first = program(base)
    optimizer = base.optimizer
    same = [
        small_run(corpus, width=32, name="sp", learning_rate=2**-9, seed=3, steps=99),
        dataclasses.replace(base, parameterization=dataclasses.replace(base.parameterization, form="absolute")),
        dataclasses.replace(base, optimizer=dataclasses.replace(optimizer, warmup=0.5)),
    ]
    assert all(program(config) is first for config in same)
    other = [
        small_run(corpus, width=16),
        dataclasses.replace(base, optimizer=dataclasses.replace(optimizer, weight_decay=0.1)),
        dataclasses.replace(base, optimizer=dataclasses.replace(optimizer, name="lion")),
        dataclasses.replace(base, parameterization=dataclasses.replace(base.parameterization, name="tpv8")),
        dataclasses.replace(base, model=dataclasses.replace(base.model, attention_scale="1/sqrt(head_dim)")),
    ]
    assert len({id(program(config)) for config in other} | {id(first)}) == 1 + len(other)


def test_weight_decay_shrinks_weights(corpus, tmp_path):
    config = small_run(corpus, steps=30)
    decayed = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, weight_decay=0.1, weight_decay_rule="independent")
    )
    plain, shrunk = train(config, out=tmp_path), train(decayed, out=tmp_path)
    # the decay dominates the update: the embedding's entries of size 1 shrink by up to a tenth a step
    assert shrunk.rows[-2]["update_rms"] != plain.rows[-2]["update_rms"]
    assert shrunk.folder != plain.folder


OPTIONS = {
    "bfloat16 swiglu multi-query": {
        "model": {"dtype": "bfloat16", "activation": "swiglu", "d_ff_multiple": 2.67, "n_kv_head": 1, "remat": True},
        "optimizer": {"first_moment_dtype": "bfloat16"},
    },
    "lion absolute, independent decay": {
        "model": {"zero_query": True, "activation": "squared_relu"},
        "parameterization": {"form": "absolute"},
        "optimizer": {"name": "lion", "learning_rate": 2**-4, "weight_decay": 1e-4, "b2": 0.98},
    },
    "sgd, gains, biases": {
        "model": {"norm_gain": "vector", "use_bias": True, "qk_norm": True, "embedding_norm": True},
        "parameterization": {"name": "tpv9"},
        "optimizer": {"name": "sgd", "learning_rate": 0.5},
    },
    "tied": {"model": {"tie_embeddings": True}, "parameterization": {"name": "tpv8"}},
    "documents, accumulated": {
        "data": {"windows": "document"},
        "optimizer": {"decay": "cosine", "weight_decay": 0.1, "weight_decay_rule": "standard"},
        "accumulate": 2,
        "loss_denominator": "positions",
    },
    "tuned, zero unembedding, no positions": {
        "model": {"rotary_base": None, "zero_residual": True, "attention_scale": "1/sqrt(head_dim)"},
        "parameterization": {"unembedding": "zero", "tune": ["output.multiplier=2", "blocks.mlp.lr=0.5"]},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_options_train(name, corpus, tmp_path):
    values = config_to_dict(small_run(corpus, steps=60, learning_rate=2**-4))
    for key, value in OPTIONS[name].items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    run = train(config_from_dict(RunConfig, values), out=tmp_path)
    first, last = run.rows[0]["loss"], run.validation_loss
    assert run.status == "finished" and last < first - 0.3
