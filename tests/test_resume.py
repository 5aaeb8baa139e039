"""Runs that are interrupted, damaged or led astray, and go on: to the same bits, or not at all."""

import dataclasses
import errno
import json
import math
import os
import shutil
import signal
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import in_grid, small_run

from equimu import SGD, EquimuError, octaves, sweep, train
from equimu._errors import ExitCode, Interrupted
from equimu.processes import handle_signals
from equimu.runs import StorageError
from equimu.storage import commits
from equimu.sweeps import SweepConfig
from equimu.training import NotFiniteError, RuntimeConfig, TrainState, data_of, update
from equimu.training import _metrics as metrics_module
from equimu.training._loss_record import LossRecord
from equimu.training._metrics import MetricsLog
from equimu.training._step import Outcome, StepMetrics

pytestmark = pytest.mark.usefixtures("light_compilation")

OFTEN = RuntimeConfig(checkpoint_every=4)


class Cut(Exception):
    """Ends a run as a crash would: nothing is saved."""


def cut_at(step):
    def on_row(row):
        if row["step"] >= step:
            raise Cut

    return on_row


def signal_at(step, signum):
    return lambda row: os.kill(os.getpid(), signum) if row["step"] == step else None


def without_times(rows):
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in rows]


def config_of(run):
    """The run's config, with what is not part of its identity as `small_run` has it."""
    return dataclasses.replace(run.config, log_every=5)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """The run that nothing ever happened to."""
    return train(small_run(corpus), out=tmp_path_factory.mktemp("whole"))


@pytest.fixture
def cut(corpus, tmp_path):
    """The folder of the same run, dead after step 10 with checkpoints of steps 4 and 8."""
    with pytest.raises(Cut):
        train(small_run(corpus), out=tmp_path, runtime=OFTEN, on_row=cut_at(10))
    (folder,) = tmp_path.iterdir()
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"step-4", "step-8"}
    return folder


def resumed(whole, out, **kwargs):
    run = train(config_of(whole), out=out, runtime=OFTEN, **kwargs)
    assert without_times(run.rows) == without_times(whole.rows)
    return run


def test_resumed_run_equals_the_one_that_was_never_interrupted(whole, cut):
    seen = []
    run = resumed(whole, cut.parent, on_row=seen.append)
    assert [row["step"] for row in seen] == [10, 12, 12]  # not from the beginning
    assert {p.name for p in run.folder.iterdir()} == {
        "config.json",
        "rules.json",
        "metrics.jsonl",
        "done",
        "checkpoints",
    }


def test_rows_are_never_there_twice_nor_half(whole, cut):
    with open(cut / "metrics.jsonl", "a") as file:
        file.write('{"step": 11, "loss": 1.0}\n{"step": 12, "validation_loss": 1.0}\n{"step": 1')
    resumed(whole, cut.parent)


def test_damaged_newest_checkpoint_is_told_and_set_aside(whole, cut, capsys):
    (cut / "checkpoints" / "step-8" / "manifest.json").write_bytes(b"{")
    seen = []
    resumed(whole, cut.parent, on_row=seen.append)
    assert seen[0]["step"] == 5
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "step-8.broken" in err
    assert (cut / "checkpoints" / "step-8.broken").is_dir()


def test_run_with_only_damaged_checkpoints_does_not_start_over(whole, cut):
    for manifest in (cut / "checkpoints").glob("*/manifest.json"):
        manifest.unlink()
    before = (cut / "metrics.jsonl").read_bytes()
    with pytest.raises(EquimuError, match="no checkpoint in .* is valid"):
        train(config_of(whole), out=cut.parent, runtime=OFTEN)
    assert (cut / "metrics.jsonl").read_bytes() == before and not (cut / "lock").exists()


def test_checkpoint_of_another_run_is_refused_unless_named(whole, cut, tmp_path_factory):
    other = dataclasses.replace(config_of(whole), seed=1)
    elsewhere = tmp_path_factory.mktemp("other")
    with pytest.raises(Cut):
        train(other, out=elsewhere, runtime=OFTEN, on_row=cut_at(1))
    (folder,) = elsewhere.iterdir()
    shutil.copytree(cut / "checkpoints", folder / "checkpoints")
    with pytest.raises(EquimuError, match="seed"):
        train(other, out=elsewhere, runtime=OFTEN)
    shutil.rmtree(folder / "checkpoints")
    named = dataclasses.replace(other, restore_from=str(cut / "checkpoints" / "step-4"))
    run = train(named, out=elsewhere, runtime=OFTEN)
    assert run.folder != folder and [row["step"] for row in run.rows] == [5, 10, 12, 12]
    assert json.loads((run.folder / "config.json").read_text())["from"] == {"run": cut.name, "step": 4}


def test_run_begun_from_a_named_checkpoint_goes_on_with_its_bits(whole, cut, tmp_path_factory):
    for place in (cut, cut / "checkpoints" / "step-8"):
        config = dataclasses.replace(config_of(whole), restore_from=str(place))
        run = train(config, out=tmp_path_factory.mktemp("begun"))
        assert without_times(run.rows) == without_times(whole.rows)[3 - 1 :]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "is not there; give the folder of a saved run"),
        ("{cut}/checkpoints/step-5", "has step-4, step-8"),
        ("{whole}", "holds no checkpoint"),
        ("{whole}/config.json", "is inside of a run; give the run, {whole}"),
    ],
)
def test_restore_from_what_is_not_a_checkpoint(place, words, whole, cut, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    config = dataclasses.replace(config_of(whole), restore_from=place.format(cut=cut, whole=whole.folder))
    with pytest.raises(EquimuError, match=words.format(whole=whole.folder)):
        train(config, out=out)
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"size": {"width": 32}},
            "saved with --size.width 16, and this run has --size.width 32; give --size.width 16$",
        ),
        ({"optimizer": SGD(learning_rate=0.1)}, "; give --optimizer.name adamw$"),
    ],
)
def test_restore_from_other_arrays_names_the_flags(fields, words, whole, cut, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    config = dataclasses.replace(config_of(whole), restore_from=str(cut), **fields)
    with pytest.raises(EquimuError, match=words):
        train(config, out=out)
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, ExitCode.TERMINATED), (signal.SIGINT, ExitCode.INTERRUPTED)]
)
def test_signal_finishes_the_step_and_saves(signum, code, whole, tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=r"after step 6 of 12; the last checkpoint is of step 6") as stop:
        train(config_of(whole), out=tmp_path, on_row=signal_at(5, signum))
    assert stop.value.exit_code == code
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    (folder,) = tmp_path.iterdir()
    assert {p.name for p in folder.iterdir()} == {"config.json", "rules.json", "metrics.jsonl", "checkpoints"}
    seen = []
    resumed(whole, tmp_path, on_row=seen.append)
    assert seen[0]["step"] == 10


def test_signal_in_the_validation_saves_the_last_step(whole, tmp_path):
    with pytest.raises(Interrupted, match="in the validation; the last checkpoint is of step 12"):
        train(config_of(whole), out=tmp_path, on_row=signal_at(12, signal.SIGTERM))
    seen = []
    resumed(whole, tmp_path, on_row=seen.append)
    assert len(seen) == 1 and "validation_loss" in seen[0]


def test_second_signal_ends_at_once(capsys):
    with handle_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    with handle_signals():
        os.kill(os.getpid(), signal.SIGINT)
    assert capsys.readouterr().err == ""  # a library is silent


def test_threads_hear_what_the_main_thread_hears_and_install_nothing():
    before = signal.getsignal(signal.SIGTERM)
    heard = []

    def listen():
        with handle_signals() as stop:
            heard.append((stop, signal.getsignal(signal.SIGTERM)))

    def in_thread():
        thread = threading.Thread(target=listen)
        thread.start()
        thread.join()

    in_thread()
    assert heard[0][1] == before and heard[0][0].signum == 0
    with handle_signals() as stop:
        in_thread()
        assert heard[1][0] is stop


def test_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with handle_signals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signum == 0
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signum == signal.SIGTERM and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.long
def test_sweep_told_to_end_goes_on_with_the_cells_that_were_under_way(corpus, tmp_path):
    run = in_grid(small_run(corpus, steps=300))
    config = SweepConfig(run=run, over={"width": (16,)}, panels=("mup",), fit={"learning_rate": octaves(-7, -4)})

    def end(run, done, total):
        if done == 1:  # a second signal ends the process at once, and two cells may end together
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as stop:
        sweep(config, out=tmp_path / "cut", workers=2, on_cell=end)
    assert stop.value.exit_code == ExitCode.TERMINATED
    finished = list((tmp_path / "cut").glob("*/done"))
    saved = list((tmp_path / "cut").glob("*/checkpoints/step-*"))
    assert 1 <= len(finished) <= 3 and len(saved) >= 1 and not list((tmp_path / "cut").glob("*/lock"))
    runs = sweep(config, out=tmp_path / "cut", workers=2)
    expected = sweep(config, out=tmp_path / "whole", workers=2)
    assert [without_times(r.rows) for r in runs] == [without_times(r.rows) for r in expected]


def test_short_run_has_no_checkpoints_unless_asked(whole, tmp_path):
    assert not (whole.folder / "checkpoints").exists()
    run = train(config_of(whole), out=tmp_path, runtime=RuntimeConfig(save_final=True))
    assert [p.name for p in (run.folder / "checkpoints").iterdir()] == ["step-12"]


def test_checkpoints_by_time_and_which_are_kept(whole, tmp_path):
    always = RuntimeConfig(checkpoint_seconds=1e-9, keep=3, keep_every=5)
    run = resumed(whole, tmp_path / "a") and train(config_of(whole), out=tmp_path / "b", runtime=always)
    assert without_times(run.rows) == without_times(whole.rows)
    names = {p.name for p in (run.folder / "checkpoints").iterdir()}
    assert names == {"step-5", "step-10", "step-11", "step-12"}


# Numbers


def diverging(config, policy):
    """SGD with a rate that no curvature permits."""
    optimizer = SGD(learning_rate=1e20, clip_norm=None)
    return dataclasses.replace(config, optimizer=optimizer, on_nonfinite=policy, steps=20)


def test_run_is_left_at_steps_and_goes_on_to_the_same_bits(whole, tmp_path):
    seen = []

    def left(until):
        seen.clear()
        return train(config_of(whole), out=tmp_path, until=until, on_row=lambda row: seen.append(row["step"]))

    run = left(5)
    assert run.status == "paused" and math.isnan(run.validation_loss)
    assert without_times(run.rows) == without_times(row for row in whole.rows if row["step"] <= 5)
    assert left(5).rows == run.rows and not seen  # it is read, and not trained again
    assert left(7).rows == run.rows and not seen  # no step of those has a row
    assert left(11).rows[-1]["step"] == 10 and seen == [10]
    assert left(5).rows == run.rows and not seen  # it is beyond that step
    assert without_times(left(10**6).rows) == without_times(whole.rows)
    assert left(5).status == "finished"


def test_run_beyond_the_step_it_is_to_be_left_at_is_left_where_it_is(whole, cut):
    run = train(config_of(whole), out=cut.parent, until=3)
    assert run.status == "paused" and [row["step"] for row in run.rows] == [1]
    assert without_times(resumed(whole, cut.parent).rows) == without_times(whole.rows)


def test_run_that_began_anew_after_it_was_left_is_trained_to_that_step_again(whole, tmp_path):
    folder = train(config_of(whole), out=tmp_path, until=7).folder
    shutil.rmtree(folder / "checkpoints")
    (folder / "metrics.jsonl").write_bytes(b"")
    run = train(config_of(whole), out=tmp_path, until=7)
    assert [row["step"] for row in run.rows] == [1, 5]


def test_number_that_is_none_stops_the_run_with_the_last_good_checkpoint(whole, tmp_path):
    runtime = RuntimeConfig(checkpoint_every=1, keep=100)
    with pytest.raises(NotFiniteError, match=r"of step \d+ is not finite; .*lower the learning rate") as stop:
        train(diverging(config_of(whole), "stop"), out=tmp_path, runtime=runtime)
    assert stop.value.exit_code == ExitCode.NOT_FINITE and "\n" not in str(stop.value)
    (folder,) = tmp_path.iterdir()
    assert not (folder / "done").exists() and not (folder / "lock").exists()
    # what is saved holds no number that is none
    import tensorstore as ts

    for path in (folder / "checkpoints").glob("step-*/*/zarr.json"):
        array = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path.parent}/"}}).result()
        assert np.isfinite(array.read().result()).all(), path


def test_recorded_divergence_ends_after_the_very_step(whole, tmp_path):
    # rows are logged at steps 1, 5, 10, ...; the loss is not finite long before 5
    run = train(dataclasses.replace(diverging(config_of(whole), "record"), log_every=19), out=tmp_path)
    *_, last = run.rows
    assert run.status == "diverged" and run.validation_loss == math.inf
    assert last["loss"] is None and 1 < last["step"] < 19


@pytest.mark.long
def test_skipped_updates_are_counted_and_change_nothing(whole, tmp_path):
    run = train(diverging(config_of(whole), "skip"), out=tmp_path)
    skipped = [row["skipped"] for row in run.rows if "skipped" in row]
    assert skipped == sorted(skipped) and 15 <= skipped[-1] < 20
    # a run in which nothing is skipped has the bits of one that would not skip
    harmless = dataclasses.replace(config_of(whole), on_nonfinite="skip")
    run = train(harmless, out=tmp_path)
    assert [{**row, "skipped": 0} if "loss" in row else row for row in without_times(whole.rows)] == without_times(
        run.rows
    )


def test_update_with_a_gradient_that_is_no_number_is_dropped():
    optimizer = optax.adam(0.1)
    params = {"a": jnp.arange(3.0), "b": jnp.ones(2)}
    state = TrainState(params, optimizer.init(params), jnp.int32(3))
    good = jax.tree.map(jnp.ones_like, params)
    for loss, grads, dropped in [
        (1.0, good, False),
        (jnp.inf, good, True),
        (1.0, {**good, "b": jnp.array([0.0, jnp.nan])}, True),
        (1.0, {**good, "a": jnp.array([0.0, -jnp.inf, 0.0])}, True),
    ]:
        new, metrics = update(state, Outcome(jnp.float32(loss), grads, {}, None), optimizer, skip_nonfinite=True)
        assert eqx.tree_equal(new, state) is not True if not dropped else eqx.tree_equal(new, state)
        assert int(metrics.updates) == int(new.step) == (3 if dropped else 4)
        assert update(state, Outcome(jnp.float32(loss), good, {}, None), optimizer)[1].updates is None


def test_a_loss_is_looked_at_one_step_later_at_most(whole, monkeypatch):
    monkeypatch.setattr(metrics_module, "_LOOK_SECONDS", 0.0)
    rows = []
    log = MetricsLog(
        dataclasses.replace(config_of(whole), on_nonfinite="stop"),
        data_of(config_of(whole).task),
        None,
        LossRecord(),
        0,
        rows.append,
        lambda: "-",
    )

    def add(step, loss):
        return log.add(step, StepMetrics(*map(jnp.float32, (loss, 1, 1))), logs=False, at_once=False)

    assert add(1, 2.0) and add(2, jnp.nan)
    with pytest.raises(NotFiniteError, match="loss of step 2"):
        add(3, 2.0)
    assert [row["step"] for row in rows] == [2]


def test_spikes_are_told_and_noise_is_not():
    rng = np.random.default_rng(0)
    losses = 3 * np.exp(-np.arange(400) / 100) + 1 + 0.05 * rng.normal(size=400)
    quiet, loud = LossRecord(), LossRecord()
    for step, loss in enumerate(losses):
        quiet.see(float(loss))
        loud.see(float(loss) + 2.0 * (step in (150, 151, 300)))
    assert quiet.spikes == 0
    assert loud.log_spikes() == {"spikes": 3} and loud.log_spikes() == {}
    loud.see(math.nan)
    assert math.isfinite(loud.mean) and loud.steps == 400


# Trouble with the folder


def test_full_disk_while_saving_stops_with_the_last_good_checkpoint(whole, tmp_path, monkeypatch):
    write = commits.write

    def full(path, content):
        if "step-8" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    monkeypatch.setattr(commits, "write", full)
    with pytest.raises(StorageError, match="No space left on device") as error:
        train(config_of(whole), out=tmp_path, runtime=OFTEN)
    assert error.value.exit_code == ExitCode.STORAGE and "\n" not in str(error.value)
    (folder,) = tmp_path.iterdir()
    assert {p.name for p in folder.iterdir()} == {"config.json", "rules.json", "metrics.jsonl", "checkpoints"}
    monkeypatch.undo()
    seen = []
    resumed(whole, tmp_path, on_row=seen.append)
    assert seen[0]["step"] == 5


def test_vanished_folder_stops_the_run(whole, tmp_path):
    def vanish(row):
        if row["step"] == 5:
            (folder,) = tmp_path.iterdir()
            shutil.rmtree(folder)

    with pytest.raises(StorageError, match=r"stopped at step 10: cannot write .*No such file") as error:
        train(config_of(whole), out=tmp_path, on_row=vanish)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"data": 0},
        {"checkpoint_every": 0},
        {"keep": 0},
        {"keep_every": -1},
        {"checkpoint_seconds": 0.0},
        {"heartbeat_seconds": math.nan},
        {"coordinator": "localhost:1234"},
        {"coordinator": "localhost", "processes": 2, "process_id": 0},
        {"process_id": 2, "processes": 2, "coordinator": "localhost:1234"},
        {"process_id": -1, "processes": 2, "coordinator": "localhost:1234"},
    ],
)
def test_runtime_config_errors(fields):
    with pytest.raises(EquimuError, match=next(iter(fields)).split("_")[0]):
        RuntimeConfig(**fields)


def test_runtime_does_not_change_which_run_it_is(whole):
    seen = []
    again = train(config_of(whole), out=whole.folder.parent, runtime=RuntimeConfig(data=2, keep=7), on_row=seen.append)
    assert again == whole and seen == []
