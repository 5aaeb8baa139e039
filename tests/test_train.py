import dataclasses
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import small_run, with_model, with_text

import equimu as mu
from equimu import EquimuError, RuntimeConfig, train
from equimu.runs import config_from_dict, config_to_dict, read_run, read_runs
from equimu.training import Programs, build_tree, program_for

pytestmark = pytest.mark.usefixtures("light_compilation")

TIMES = {"tokens_per_second", "examples_per_second"}


def without_times(rows):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


class Mlp(eqx.Module):
    """From a point to logits of three classes, and the mean square of what is hidden."""

    up: eqx.nn.Linear
    norm: eqx.nn.BatchNorm | None
    dropout: eqx.nn.Dropout
    down: eqx.nn.Linear

    def __init__(self, width, normed, key):
        first, second = jax.random.split(key)
        self.up = eqx.nn.Linear(6, width, key=first)
        self.norm = eqx.nn.BatchNorm(width, "rows", mode="ema") if normed else None
        self.dropout = eqx.nn.Dropout(0.25)
        self.down = eqx.nn.Linear(width, 3, key=second)

    def __call__(self, x, key, state=None):
        x = self.up(x)
        if self.norm is not None:
            x, state = self.norm(x, state)
        x = self.dropout(jax.nn.relu(x), key=key)
        return self.down(x), jnp.mean(x**2), state


@dataclasses.dataclass(frozen=True)
class Dropped(mu.Task):
    """Which of a point's first three coordinates is the largest: with keys, a metric and an auxiliary loss."""

    rows: int = 16
    penalty: float = 0.01

    def make(self, width: int = 16, *, key):
        return Mlp(width, False, key)

    def data(self):
        x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
        return mu.data.arrays(x, x[:, :3].argmax(1), rows=self.rows)

    def loss(self, model, batch, keys):
        return self._losses(*jax.vmap(model)(batch[0], keys), batch[1])

    def _losses(self, logits, squares, state, labels):
        return mu.Losses(
            optax.softmax_cross_entropy_with_integer_labels(logits, labels),
            auxiliary=self.penalty * jnp.mean(squares),
            metrics={"accuracy": jnp.float32(logits.argmax(1) == labels)},
            state=state,
        )


@dataclasses.dataclass(frozen=True)
class Normed(Dropped):
    """The same with a BatchNorm, whose state is not a parameter."""

    def make(self, width: int = 16, *, key):
        return Mlp(width, True, key)

    def loss(self, model, batch, keys, state):
        each = jax.vmap(model, axis_name="rows", in_axes=(0, 0, None), out_axes=(0, 0, None))
        return self._losses(*each(batch[0], keys, state), batch[1])


def of_task(task, **fields):
    optimizer = mu.AdamW(learning_rate=2**-4)
    defaults = dict(optimizer=optimizer, steps=12, log_every=5, validation_batches=None)
    return mu.RunConfig(task=task, **{**defaults, **fields})


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
    jax.clear_caches()  # also compiled again
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
    optimizer = mu.SGD(learning_rate=1e20, clip_norm=None)
    config = dataclasses.replace(config, optimizer=optimizer, steps=20, on_nonfinite="record")
    run = train(config, out=tmp_path)
    assert run.status == "diverged" and run.validation_loss == math.inf
    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
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


def test_train_leaves_nothing_after_bad_input(corpus, tmp_path):
    good = small_run(corpus)
    bad = [
        dataclasses.replace(good, size={"width": 20, "depth": 2}),
        dataclasses.replace(good, base={"width": 64, "depth": 2}),
        with_model(good, tie_embeddings=True),
        with_model(good, attention_backend="pallas_tpu"),
        with_text(good, corpus=str(tmp_path / "nothing.txt")),
        with_text(good, seq=10**8),
    ]
    for config in bad:
        with pytest.raises(EquimuError):
            train(config, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_programs_are_shared_by_runs_that_differ_in_numbers_only(corpus):
    base = small_run(corpus, width=32)

    programs = Programs()

    def program(config):
        return program_for(config, build_tree(config, config.task.text.rows), programs=programs)[0]

    first = program(base)
    optimizer = base.optimizer
    same = [
        small_run(corpus, width=32, name="sp", learning_rate=2**-9, seed=3, steps=99),
        dataclasses.replace(base, parameterization="mup(form=absolute)"),
        dataclasses.replace(base, optimizer=dataclasses.replace(optimizer, warmup=0.5)),
    ]
    assert all(program(config) is first for config in same)
    other = [
        small_run(corpus, width=16),
        dataclasses.replace(base, optimizer=dataclasses.replace(optimizer, weight_decay=0.1)),
        dataclasses.replace(base, optimizer=mu.Lion(learning_rate=optimizer.learning_rate)),
        dataclasses.replace(base, parameterization="tpv(8)"),
        with_model(base, attention_scale="1/sqrt(head_dim)"),
    ]
    assert len({id(program(config)) for config in other} | {id(first)}) == 1 + len(other)


@pytest.mark.long
def test_weight_decay_shrinks_weights(corpus, tmp_path):
    config = small_run(corpus, steps=30)
    decayed = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, weight_decay=0.1, weight_decay_rule="independent")
    )
    plain, shrunk = train(config, out=tmp_path), train(decayed, out=tmp_path)
    # the decay dominates the update: the embedding's entries of size 1 shrink by up to a tenth a step
    assert shrunk.rows[-2]["update_rms"] != plain.rows[-2]["update_rms"]
    assert shrunk.folder != plain.folder


def test_task_with_state_keys_metrics_and_auxiliary_loss_trains_and_resumes_to_the_same_bits(tmp_path):
    config = of_task(Normed(), steps=40)
    whole = train(config, out=tmp_path / "whole")
    *rows, last = whole.rows
    assert whole.task == "Normed" and whole.size == {"width": 16}
    assert whole.identity["config"]["task"] == {"name": "Normed", "module": "test_train", "rows": 16, "penalty": 0.01}
    assert [row["examples"] for row in whole.rows] == [16 * row["step"] for row in whole.rows]
    assert all(0 <= row["metrics"]["accuracy"] <= 1 for row in rows) and "metrics" not in last
    assert last["validation_loss"] < 0.8 < rows[0]["loss"] and last["validation_metrics"]["accuracy"] > 0.6

    class Cut(Exception):
        pass

    def cut(row):
        if row["step"] >= 25:
            raise Cut

    often, seen = RuntimeConfig(checkpoint_every=8), []
    with pytest.raises(Cut):
        train(config, out=tmp_path / "cut", runtime=often, on_row=cut)
    run = train(config, out=tmp_path / "cut", runtime=often, on_row=seen.append)
    assert seen[0]["step"] == 25 and without_times(run.rows) == without_times(whole.rows)
    # Norms are over the rows of a device and micro-batch, here 4 of 16; the running statistics are the mean of theirs.
    parts = dataclasses.replace(config, accumulate=2)
    run = train(parts, out=tmp_path / "mesh", runtime=RuntimeConfig(data=2, tensor=4))
    assert run.validation_loss < 0.8 and run.validation_loss != whole.validation_loss


@pytest.mark.long
def test_random_keys_are_of_rows_wherever_these_are_computed(tmp_path):
    """A run with dropout is the same on other meshes and in micro-batches; with another seed it draws others."""
    config = of_task(Dropped())

    def losses(name, config=config, **mesh):
        run = train(config, out=tmp_path / name, runtime=RuntimeConfig(**mesh))
        return [row.get("loss", row.get("validation_loss")) for row in run.rows]

    alone = losses("alone")
    assert losses("eight", data=8) == pytest.approx(alone, rel=1e-6)
    assert losses("sharded", data=2, fsdp=4) == pytest.approx(alone, rel=1e-6)
    assert losses("parts", dataclasses.replace(config, accumulate=2), data=4, fsdp=2) == pytest.approx(alone, rel=1e-6)
    # The auxiliary loss is differentiated, and no part of what is reported.
    first, *others = losses("penalty", dataclasses.replace(config, task=Dropped(penalty=3.0)))
    assert first == alone[0] and others[0] != alone[1]


OPTIONS = {
    "bfloat16 swiglu multi-query": {
        "model": {"dtype": "bfloat16", "activation": "swiglu", "d_ff_multiple": 2.67, "n_kv_head": 1, "remat": True},
        "optimizer": {"first_moment_dtype": "bfloat16"},
    },
    "lion absolute, independent decay": {
        "model": {"zero_query": True, "activation": "squared_relu"},
        "parameterization": "mup(form=absolute)",
        "optimizer": {"name": "lion", "learning_rate": 2**-4, "weight_decay": 1e-4, "b2": 0.98},
    },
    "sgd, gains, biases": {
        "model": {"norm_gain": "vector", "use_bias": True, "qk_norm": True, "embedding_norm": True},
        "parameterization": "tpv(9)",
        "optimizer": {"name": "sgd", "learning_rate": 0.5},
    },
    "tied": {"model": {"tie_embeddings": True}, "parameterization": "tpv(8)"},
    "documents, accumulated": {
        "text": {"windows": "document"},
        "optimizer": {"schedule": "cosine", "weight_decay": 0.1, "weight_decay_rule": "standard"},
        "accumulate": 2,
        "loss_denominator": "positions",
    },
    "tuned, zero unembedding, no positions": {
        "model": {
            "rotary_base": None,
            "zero_residual": True,
            "attention_scale": "1/sqrt(head_dim)",
            "zero_unembedding": True,
        },
        "parameterization": "mup.tune(output, multiplier=2).tune(blocks.mlp, lr=0.5)",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_options_train(name, corpus, tmp_path):
    values = config_to_dict(small_run(corpus, steps=60, learning_rate=2**-4))
    for key, value in OPTIONS[name].items():
        place = values["task"] if key in values["task"] else values
        whole = isinstance(value, dict) and "name" not in value  # another optimizer has other fields
        place[key] = {**place[key], **value} if whole else value
    run = train(config_from_dict(values), out=tmp_path)
    first, last = run.rows[0]["loss"], run.validation_loss
    assert run.status == "finished" and last < first - 0.3
