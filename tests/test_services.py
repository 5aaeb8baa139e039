"""Loggers for services: each row once, also of runs that were killed, and no step that waits for a server."""

import json
import os
import sys
import threading
import time
import types

import pytest
from runs import LINES

from equimu import EquimuError, register_logger, train
from equimu.runs import _background
from equimu.runs._background import Background, Service
from equimu.runs._mlflow import MLflow
from equimu.runs._trackio import Trackio
from equimu.runs._wandb import WeightsAndBiases
from equimu.tasks import find_task
from equimu.training import RuntimeConfig

pytestmark = pytest.mark.usefixtures("light_compilation")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(_background, "_BETWEEN_SECONDS", 0.01)


def lines(out, logger, *, steps=6, seed=0, on_row=None):
    runtime = RuntimeConfig(loggers=(logger,), checkpoint_every=2)
    given = {"steps": steps, "seed": seed, "log_every": 1, "validation_batches": 1, "base": {"width": 8}}
    return train(find_task(LINES)(), {"width": 8}, out=out, runtime=runtime, on_row=on_row, **given)


def killed_at(step):
    def kill(row):
        if row["step"] == step:
            raise OSError("power")

    return kill


class Recorder(Service):
    """Keeps what it is sent; knows of its last step what it is told to."""

    name = "recorder"

    def __init__(self, known=None):
        self.known, self.rows, self.ends = known, [], []

    def begin(self, identity, folder):
        self.identity = identity
        return self.known

    def send(self, rows):
        self.rows += rows

    def end(self, status):
        self.ends.append(status)


def row(step, **more):
    return {"step": step, "loss": 1 / step, **more}


@pytest.fixture
def folder(tmp_path):
    """Of a run whose rows of steps 1 to 4 were written."""
    made = tmp_path / "sweep" / "0123456789abcdef"
    made.mkdir(parents=True)
    content = "".join(json.dumps({**row(step), "check": "ab"}) + "\n" for step in range(1, 5))
    (made / "metrics.jsonl").write_text(content)
    return made


def followed(folder, service, step, *rows, status="finished"):
    logger = Background(service)
    logger.begin({"config": {"seed": 0}}, folder, step)
    for each in rows:
        logger.row(each)
    logger.end(status)
    return [(each["step"], "validation_loss" in each) for each in service.rows]


def test_a_run_that_goes_on_sends_what_the_service_lacks(folder):
    # Killed after step 6, of which the service has 2; the run goes on after step 4.
    rows = [row(5), row(6), {"step": 6, "validation_loss": 0.5}]
    sent = followed(folder, Recorder(known=2), 4, *rows)
    assert sent == [(3, False), (4, False), (5, False), (6, False), (6, True)]
    # Now the service says nothing, and the folder knows: nothing is sent again.
    assert followed(folder, Recorder(), 4, *rows) == []
    # A service that lost its rows is sent them anew.
    assert followed(folder, Recorder(known=5), 4, *rows) == [(6, False), (6, True)]


def test_it_is_sent_rows_as_they_are_without_checks(folder):
    service = Recorder()
    followed(folder, service, 1, row(2, leaves={"a": {"rms": 1.0}}), status="paused")
    assert service.rows == [row(1), row(2, leaves={"a": {"rms": 1.0}})]
    assert service.ends == ["paused"] and service.identity == {"config": {"seed": 0}}


def test_no_step_waits_for_a_service_that_hangs(tmp_path, monkeypatch, capfd):
    hanging = threading.Event()

    class Hanging(Recorder):
        def begin(self, identity, folder):
            hanging.wait(20)
            return super().begin(identity, folder)

    register_logger("hanging", lambda: Background(Hanging()))
    monkeypatch.setattr(_background, "_END_SECONDS", 0.1)
    rows, begun = [], time.monotonic()
    run = lines(tmp_path, "hanging", on_row=rows.append)
    hanging.set()
    assert run.status == "finished" and len(rows) == 7 and time.monotonic() - begun < 20
    said = [line for line in capfd.readouterr().err.splitlines() if "logger" in line]
    assert len(said) == 1 and "the logger hanging failed (EquimuError: it has not taken the last rows" in said[0]


def test_a_service_that_fails_is_told_once_and_left_out(tmp_path, capfd):
    class Unreachable(Recorder):
        def send(self, rows):
            raise ConnectionError("no route to host")

    register_logger("unreachable", lambda: Background(Unreachable()))
    assert lines(tmp_path, "unreachable").status == "finished"
    said = [line for line in capfd.readouterr().err.splitlines() if "logger" in line]
    assert said == [
        "equimu: the logger unreachable failed (ConnectionError: no route to host); the run goes on without it"
    ]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_without_the_package_the_pip_command_is_told(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EquimuError, match=rf"pip install 'equimu\[{name}\]'"):
        lines(tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


class WandbRun:
    def __init__(self):
        self.logged, self.summary = [], {}

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.code = exit_code


def test_what_wandb_is_given(folder, monkeypatch):
    begun, run = [], WandbRun()
    module = types.SimpleNamespace(Settings=dict, init=lambda **given: begun.append(given) or run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    logger = Background(WeightsAndBiases())
    logger.begin({"config": {"seed": 3}}, folder, 0)
    logger.row({"step": 1, "loss": 2.0, "metrics": {"accuracy": 0.5}})
    logger.end("finished")
    (given,) = begun
    assert given["id"] == folder.name and given["resume"] == "allow" and given["group"] == "sweep"
    assert given["config"] == {"config": {"seed": 3}} and given["project"] == "equimu" and given["dir"] == str(folder)
    assert run.logged == [(1, {"loss": 2.0, "metrics/accuracy": 0.5})]
    assert run.summary == {"status": "finished"} and run.code == 0


class Mlflow(types.SimpleNamespace):
    """A stand-in for the package, which keeps its runs."""

    MlflowException = KeyError

    def __init__(self):
        self.runs, self.experiments, self.ended = {}, {}, []

    def get_tracking_uri(self):
        return "sqlite:///here.db"

    def MlflowClient(self):
        return self

    def get_experiment_by_name(self, name):
        return types.SimpleNamespace(experiment_id=name) if name in self.experiments else None

    def create_experiment(self, name):
        self.experiments[name] = True
        return name

    def create_run(self, experiment, run_name, tags):
        self.runs[f"run{len(self.runs)}"] = {"experiment": experiment, "metrics": [], "params": {}, "tags": tags}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=f"run{len(self.runs) - 1}"))

    def get_run(self, run):
        return types.SimpleNamespace(info=types.SimpleNamespace(lifecycle_stage="active"), of=self.runs[run])

    def get_metric_history(self, run, name):
        return [types.SimpleNamespace(step=each[3]) for each in self.runs[run]["metrics"] if each[0] == name]

    def log_batch(self, run, metrics=(), params=()):
        assert len(metrics) <= 1000 and len(params) <= 100
        self.runs[run]["metrics"] += metrics
        self.runs[run]["params"] |= dict(params)

    def update_run(self, run, status):
        self.runs[run]["status"] = status

    def set_tag(self, run, key, value):
        self.runs[run]["tags"][key] = value

    def set_terminated(self, run, status):
        self.runs[run]["status"] = status


def test_what_mlflow_is_given_and_that_a_run_goes_on_there(folder, monkeypatch):
    module = Mlflow()
    entities = types.SimpleNamespace(Metric=lambda *given: given, Param=lambda *given: given)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for step, rows, status in ((0, [row(1), row(2)], "interrupted"), (1, [row(2), row(3)], "finished")):
        logger = Background(MLflow())
        logger.begin({"config": {"size": {"width": 8}}, "data": "ab"}, folder, step)
        for each in rows:
            logger.row(each | {"leaves": {"layers[0].weight": {"rms": 1.0}}})
        logger.end(status)
    ((run, kept),) = module.runs.items()
    assert json.loads((folder / "mlflow" / "run.json").read_text())["run_id"] == run
    assert kept["experiment"] == "sweep" and kept["tags"] == {"equimu.run": folder.name, "equimu.status": "finished"}
    assert kept["params"] == {"config.size.width": "8", "data": "ab"} and kept["status"] == "FINISHED"
    assert [(name, step) for name, _, _, step in kept["metrics"] if name == "loss"] == [("loss", i) for i in (1, 2, 3)]
    assert kept["metrics"][1][0] == "leaves/layers_0_.weight/rms"


def test_what_trackio_is_given(folder, monkeypatch, capsys):
    begun, logged = [], []
    run = types.SimpleNamespace(
        _initial_last_step=2, log=lambda values, step: logged.append((step, values)), finish=lambda: module.said()
    )
    module = types.ModuleType("trackio")
    exec("def said(): print('* Run finished.')", vars(module))
    module.init = lambda **given: begun.append(given) or run
    for name in ("trackio", "trackio.run", "trackio.utils"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("TRACKIO_PROJECT", raising=False)
    logger = Background(Trackio())
    logger.begin({"config": {}}, folder, 3)
    logger.row(row(4))
    logger.end("finished")
    assert begun[0]["name"] == folder.name and begun[0]["group"] == "sweep" and begun[0]["resume"] == "allow"
    assert logged == [(3, {"loss": 1 / 3}), (4, {"loss": 1 / 4})] and capsys.readouterr().out == ""


def test_trackio_has_each_row_once_after_a_crash(tmp_path, monkeypatch, capsys):
    pytest.importorskip("trackio", reason="pip install 'equimu[trackio]'")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    storage = pytest.importorskip("trackio.sqlite_storage")
    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    (tmp_path / "trackio").mkdir()
    with pytest.raises(OSError, match="power"):
        lines(tmp_path / "sweep", "trackio", on_row=killed_at(6))
    run = lines(tmp_path / "sweep", "trackio")
    found = storage.SQLiteStorage.get_logs("equimu", run.folder.name)
    losses = [(each["step"], each["loss"]) for each in found if "loss" in each]
    assert losses == [(each["step"], pytest.approx(each["loss"])) for each in run.rows if "loss" in each]
    assert [each["validation_loss"] for each in found if "validation_loss" in each] == [run.validation_loss]
    assert capsys.readouterr().out == ""


def leveldb_log(content, start=7, block=2**15):
    """The records of a log of LevelDB's: in blocks, each record in parts of a check, a length, and which part it is."""
    whole, place = b"", start
    while place - start < len(content):
        if block - place % block < 7:  # what is left of a block has no place for the head of a part
            place += block - place % block
            continue
        head = content[place - start : place - start + 7]
        length, kind = int.from_bytes(head[4:6], "little"), head[6] if len(head) == 7 else 0
        whole += content[place - start + 7 : place - start + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def history(folder):
    """The rows in W&B's own files of a run, in the order in which they were begun."""
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        for data in leveldb_log(path.read_bytes()[7:]):
            record = records.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.mark.slow
def test_wandb_has_each_row_once_after_a_crash(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install 'equimu[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(OSError, match="power"):
        lines(tmp_path / "sweep", "wandb", on_row=killed_at(6))
    run = lines(tmp_path / "sweep", "wandb")
    found = list(history(run.folder))
    losses = [(each["_step"], each["loss"]) for each in found if "loss" in each]
    assert losses == [(each["step"], pytest.approx(each["loss"])) for each in run.rows if "loss" in each]
    assert found[-1]["validation_loss"] == pytest.approx(run.validation_loss)


@pytest.mark.slow
def test_wandb_that_cannot_be_reached_keeps_no_run_waiting(tmp_path, monkeypatch, capfd):
    wandb = pytest.importorskip("wandb", reason="pip install 'equimu[wandb]'")
    from equimu.runs import _wandb

    monkeypatch.setattr(_wandb, "_CONNECT_SECONDS", 3.0)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb.teardown()  # it keeps what it read of the environment
    rows = []
    run = lines(tmp_path, "wandb", on_row=lambda row: rows.append(time.monotonic()))
    assert run.status == "finished" and rows[-1] - rows[0] < 3
    said = [line for line in capfd.readouterr().err.splitlines() if "the logger" in line]
    assert len(said) == 1 and "the logger wandb failed (CommError" in said[0]


@pytest.mark.slow
def test_mlflow_has_each_row_once_after_a_crash(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install 'equimu[mlflow]'")
    pytest.importorskip("alembic", reason="pip install 'equimu[mlflow]'")
    uri = f"sqlite:///{tmp_path}/here.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(OSError, match="power"):
        lines(tmp_path / "sweep", "mlflow", on_row=killed_at(6))
    run = lines(tmp_path / "sweep", "mlflow")
    client = mlflow.MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("sweep").experiment_id])
    losses = [(each.step, each.value) for each in client.get_metric_history(found.info.run_id, "loss")]
    assert losses == [(each["step"], pytest.approx(each["loss"])) for each in run.rows if "loss" in each]
    assert found.data.metrics["validation_loss"] == pytest.approx(run.validation_loss)
    assert found.info.status == "FINISHED" and found.data.params["config.size.width"] == "8"
    assert os.path.exists(tmp_path / "here.db")
