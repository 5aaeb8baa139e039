"""Loggers: what they are sent, when it ends, and that none of them can harm a run."""

import dataclasses
import math
import os
import signal
import struct
import sys

import pytest
from runs import in_grid, lines_run

from equimu import EquimuError, register_logger, sweep, train
from equimu._errors import Interrupted
from equimu.runs import logger_names
from equimu.sweeps import SweepConfig
from equimu.training import RuntimeConfig

pytestmark = pytest.mark.usefixtures("light_compilation")


class Recorder:
    """Keeps what it is sent, and changes it afterwards."""

    made: list["Recorder"] = []

    def __init__(self):
        self.made.append(self)
        self.rows, self.ends = [], []

    def begin(self, identity, folder, step, /):
        self.begun = (dict(identity), folder, step)
        identity.clear()

    def row(self, row, /):
        self.rows.append(dict(row))
        row.clear()

    def end(self, status, /):
        self.ends.append(status)


class Broken(Recorder):
    """Raises at its second row."""

    def row(self, row, /):
        super().row(row)
        if len(self.rows) == 2:
            raise ConnectionError("the server\nis gone")


@pytest.fixture(autouse=True)
def registered():
    register_logger("recorder", Recorder)
    register_logger("broken", Broken)
    Recorder.made.clear()


def recorded():
    return RuntimeConfig(loggers=("recorder",), checkpoint_every=4)


def test_a_logger_is_sent_the_rows_of_the_run(tmp_path):
    run = train(lines_run(), out=tmp_path, runtime=recorded())
    (logger,) = Recorder.made
    assert logger.begun == (run.identity, run.folder, 0)
    assert logger.rows == list(run.rows)
    assert logger.ends == ["finished"]
    train(lines_run(), out=tmp_path, runtime=recorded())  # done before: nothing is sent
    assert len(Recorder.made) == 1


def test_loggers_are_no_part_of_what_a_run_is(tmp_path):
    with_logger = train(lines_run(), out=tmp_path / "a", runtime=recorded())
    without = train(lines_run(), out=tmp_path / "b")
    assert with_logger.folder.name == without.folder.name
    assert with_logger.validation_loss == without.validation_loss


def test_a_logger_that_raises_is_left_out_and_the_run_goes_on(tmp_path, capfd):
    runtime = RuntimeConfig(loggers=("broken", "recorder"))
    run = train(lines_run(), out=tmp_path, runtime=runtime)
    broken, recorder = Recorder.made
    assert len(broken.rows) == 2 and broken.ends == []
    assert recorder.rows == list(run.rows) and recorder.ends == ["finished"]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "logger" in line]
    assert line == "equimu: the logger broken failed (ConnectionError: the server is gone); the run goes on without it"


def test_a_run_that_goes_on_has_a_new_logger(tmp_path):
    def stop(row):
        if row["step"] == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    config = lines_run()
    with pytest.raises(Interrupted):
        train(config, out=tmp_path, runtime=recorded(), on_row=stop)
    run = train(config, out=tmp_path, runtime=recorded())
    first, second = Recorder.made
    assert (first.ends, second.ends) == (["interrupted"], ["finished"])
    assert second.begun[2] == 11  # the signal is seen a step later
    assert [row["step"] for row in second.rows] == [12, 12]
    assert [*first.rows, *second.rows] == list(run.rows)


def test_rows_after_the_checkpoint_are_sent_anew(tmp_path):
    def crash(row):
        if row["step"] == 10:
            raise OSError("power")

    config = lines_run()
    with pytest.raises(OSError, match="power"):
        train(config, out=tmp_path, runtime=recorded(), on_row=crash)
    train(config, out=tmp_path, runtime=recorded())
    first, second = Recorder.made
    assert first.ends == ["failed"]
    assert [row["step"] for row in first.rows] == [1, 5]
    assert second.begun[2] == 8 and [row["step"] for row in second.rows] == [10, 12, 12]


def test_a_diverged_run_ends_as_such(tmp_path):
    config = lines_run(learning_rate=1e30, name="sp", clip_norm=None)
    diverging = dataclasses.replace(config, on_nonfinite="record")
    run = train(diverging, out=tmp_path, runtime=recorded())
    assert run.status == "diverged"
    (logger,) = Recorder.made
    assert logger.ends == ["diverged"]
    assert not math.isfinite(logger.rows[-1]["loss"])  # as it is, where the file has null


@pytest.mark.long
def test_each_cell_of_a_sweep_has_its_logger(tmp_path):
    grid = SweepConfig(
        run=in_grid(lines_run(steps=3)),
        over={"width": (8, 16)},
        panels=("mup",),
        fit={"learning_rate": (2**-6, 2**-5)},
        seeds=(0,),
    )
    runs = sweep(grid, out=tmp_path, runtime=recorded())
    sent = {logger.begun[1].name: logger.rows for logger in Recorder.made}
    assert sent == {run.folder.name: list(run.rows) for run in runs}


def test_mistakes_are_found_before_the_run_begins(tmp_path):
    with pytest.raises(EquimuError, match=r"runtime\.loggers 'recordr' is unknown: did you mean 'recorder'"):
        RuntimeConfig(loggers=("recordr",))
    with pytest.raises(EquimuError, match=r"runtime\.loggers names recorder 2 times; name it once"):
        RuntimeConfig(loggers=("recorder", "tensorboard", "recorder"))
    with pytest.raises(EquimuError, match="'tensorboard' is a logger of equimu's own"):
        register_logger("tensorboard", Recorder)
    register_logger("strict", lambda: 1 / 0)
    with pytest.raises(EquimuError, match=r"the logger strict cannot be made \(ZeroDivisionError: division by zero\)"):
        train(lines_run(), out=tmp_path / "out", runtime=RuntimeConfig(loggers=("strict",)))
    assert not (tmp_path / "out").exists()
    assert {"tensorboard", "recorder", "broken", "strict"} <= set(logger_names())


def events(folder):
    """The events in TensorBoard's files: records of a length, its check, the content and its check."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            yield event_pb2.Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]


def test_tensorboard_has_the_numbers_of_the_rows(tmp_path):
    pytest.importorskip("tensorboardX", reason="pip install 'equimu[tensorboard]'")
    run = train(lines_run(), out=tmp_path, runtime=RuntimeConfig(loggers=("tensorboard",)))
    scalars = {
        (value.tag, event.step): value.simple_value
        for event in events(run.folder / "tensorboard")
        for value in event.summary.value
    }
    losses = {row["step"]: row["loss"] for row in run.rows if "loss" in row}
    assert {step: x for (tag, step), x in scalars.items() if tag == "loss"} == pytest.approx(losses)
    assert scalars["validation_loss", 12] == pytest.approx(run.validation_loss)
    leaf, measures = next(iter(run.rows[0]["leaves"].items()))
    name, value = next((name, value) for name, value in measures.items() if value is not None)
    assert scalars[f"leaves/{leaf}/{name}", 1] == pytest.approx(value)


@pytest.mark.parametrize(
    ("loggers", "words"),
    [
        (
            ("tensorboard",),
            r"tensorboard needs tensorboardX, which is not installed: pip install 'equimu\[tensorboard\]'",
        ),
        (
            ("wandb", "recorder", "mlflow"),
            r"wandb and mlflow need .* are not installed: pip install 'equimu\[wandb,mlflow\]'",
        ),
    ],
)
def test_without_packages_one_pip_command_is_told(tmp_path, monkeypatch, loggers, words):
    for package in ("tensorboardX", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EquimuError, match=words):
        train(lines_run(), out=tmp_path / "out", runtime=RuntimeConfig(loggers=loggers))
    assert not (tmp_path / "out").exists()
