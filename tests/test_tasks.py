"""Tasks by name, as flags and as part of what a run is; and what is said of tasks that are none."""

import json
import subprocess
import sys

import pytest
from commands import call

from equimu import EquimuError, LanguageModel, RunConfig, train
from equimu.runs import config_from_dict, config_to_dict
from equimu.runs._config import identity_of_run
from equimu.tasks import find_task, task_from_dict, task_to_dict, where_of

pytestmark = pytest.mark.usefixtures("light_compilation")

HEAD = """
import dataclasses
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import equimu as mu
"""
GOOD = (
    HEAD
    + """
@dataclasses.dataclass(frozen=True)
class Doubled(mu.Task):
    rows: int = 4
    power: float = 2.0
    chatty: bool = mu.execution(False)

    def make(self, width: int = 8, depth: int = 1, *, key):
        return eqx.nn.MLP(3, 1, width, depth, key=key)

    def data(self):
        x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
        return mu.data.arrays(x, 2 * x[:, :1], rows=self.rows)

    def loss(self, model, batch):
        x, y = batch
        return jnp.abs(jax.vmap(model)(x) - y)[:, 0] ** self.power
"""
)
# name -> what is put in place of what, and the words of the message of `equimu train`
BROKEN = {
    "no key": ("depth: int = 1, *, key):", "depth: int = 1):", "make takes sizes by name and a key"),
    "no size": ("width: int = 8, depth: int = 1, *, key", "*, key", "make has no size"),
    "sizes that are swallowed": (
        "width: int = 8, depth: int = 1, *, key",
        "*, key, **sizes",
        "make takes sizes by name",
    ),
    "a loss of one argument": ("loss(self, model, batch)", "loss(self, model)", "loss takes a model and a batch"),
    "a loss of other names": ("loss(self, model, batch)", "loss(self, model, batch, rng)", "got (model, batch, rng)"),
    "a scalar loss": ("** self.power", "** self.power).mean()", "gives a scalar; give one loss for each row"),
    "a loss of words": ("return jnp.abs", "return 'low'\n        return jnp.abs", "an array of floats"),
    "a class that is not frozen": ("(frozen=True)", "", "must be a frozen dataclass"),
    "a class that is not a dataclass": ("@dataclasses.dataclass(frozen=True)\n", "", "must be a frozen dataclass"),
    "a file that raises": ("@dataclasses", "raise ValueError('not\\ntoday')\n@dataclasses", "ValueError: not"),
    "a file with a mistake": ("class Doubled", "clas Doubled", "SyntaxError"),
    "a file that imports nothing": ("import numpy", "import nompy", "No module named 'nompy'"),
}


@pytest.fixture
def my(tmp_path):
    """A file with a task."""
    file = tmp_path / "my.py"
    file.write_text(GOOD)
    return file


# By name


def test_a_task_is_found_in_a_file_and_by_where_it_is(my):
    found = find_task(f"{my}:Doubled")
    assert found.__name__ == "Doubled" and dict(found().sizes) == {"width": 8, "depth": 1}
    assert find_task(where_of(found)) is found
    assert find_task("LanguageModel") is LanguageModel and where_of(LanguageModel) == "LanguageModel"


def test_files_of_one_name_are_two_modules(my, tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "my.py"
    other.write_text(GOOD.replace("power: float = 2.0", "power: float = 3.0"))
    assert (find_task(f"{my}:Doubled")().power, find_task(f"{other}:Doubled")().power) == (2.0, 3.0)


def test_a_task_is_found_in_a_module_and_imports_what_is_beside_its_file(tmp_path, monkeypatch):
    (tmp_path / "lab_of_tasks").mkdir()
    (tmp_path / "lab_of_tasks" / "__init__.py").write_text("")
    (tmp_path / "lab_of_tasks" / "mine.py").write_text(GOOD)
    (tmp_path / "user.py").write_text(
        "from lab_of_tasks.mine import *\n@dataclasses.dataclass(frozen=True)\nclass Mine(Doubled): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_task("lab_of_tasks.mine:Doubled").__name__ == "Doubled"
    monkeypatch.undo()
    assert find_task(f"{tmp_path}/user.py:Mine").__name__ == "Mine"
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("Doubled", "'Doubled' names no task; write my.py:NextByte"),
        ("my.py:", "names no task"),
        ("my.py:a b", "names no task"),
        ("{}/nothing.py:Doubled", "there is no file"),
        ("{}/my.py:Dubled", "did you mean 'Doubled'"),
        ("{}/my.py:jnp", "has no task 'jnp'"),
        ("{}/empty.py:Doubled", "it has none"),
        (
            "no_such_module:Doubled",
            "there is no module no_such_module; for a file write its path, e.g. ./no_such_module.py",
        ),
        ("json:JSONDecoder", "json has no task 'JSONDecoder'"),
    ],
)
def test_a_task_that_is_not_there(where, words, my, tmp_path):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(EquimuError) as error:
        find_task(where.format(tmp_path))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_class_that_another_process_cannot_import(my):
    class Local(LanguageModel):
        pass

    with pytest.raises(EquimuError, match="Local is not at the top level of a file"):
        where_of(Local)


@pytest.mark.parametrize("name", BROKEN)
def test_a_task_that_is_none_is_one_line(name, capsys, my, tmp_path):
    old, new, words = BROKEN[name]
    assert old in GOOD
    text = GOOD.replace(old, new)
    if name == "a scalar loss":
        text = text.replace("return jnp.abs", "return (jnp.abs")
    my.write_text(text)
    code, out, err = call(capsys, "train", f"{my}:Doubled", "--steps", "1", "--out", tmp_path / "runs")
    assert (code, out) == (2, "") and err.startswith("equimu: ") and err.count("\n") == 1
    assert words in err and "Traceback" not in err
    assert not list((tmp_path / "runs").glob("*/done"))


def test_a_task_in_a_place_of_its_own_is_checked_too():
    class Loose(LanguageModel):
        pass

    with pytest.raises(EquimuError, match="Loose must be a frozen dataclass"):
        RunConfig(task=Loose())


# As flags, configs and identities


def test_fields_and_sizes_of_a_task_are_flags(my, capsys):
    code, out, _ = call(capsys, "train", f"{my}:Doubled", "--help")
    assert code == 0
    for flag in ("--rows", "--power", "--chatty", "--size.width", "--size.depth", "--base.width"):
        assert flag in out
    assert "--text.rows" not in out and "--model.head-dim" not in out
    code, out, _ = call(capsys, "sweep", f"{my}:Doubled", "--help")
    assert code == 0
    for flag in ("--over.width", "--over.depth", "--base.width", "--run.rows", "--run.power"):
        assert flag in out


def test_fields_of_a_task_are_what_a_run_is(my):
    doubled = find_task(f"{my}:Doubled")
    plain = identity_of_run(RunConfig(task=doubled()))
    assert plain["task"] == {"name": "Doubled", "module": my.stem, "rows": 4, "power": 2.0} and plain["size"] == {
        "width": 8,
        "depth": 1,
    }
    assert identity_of_run(RunConfig(task=doubled(power=3.0))) != plain
    assert identity_of_run(RunConfig(task=doubled(chatty=True))) == plain
    whole = json.loads(json.dumps(config_to_dict(RunConfig(task=doubled(chatty=True), size={"width": 16}))))
    assert config_from_dict(whole, doubled) == RunConfig(task=doubled(chatty=True), size={"width": 16})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rowz": 3}, "unknown key 'task.rowz': did you mean 'rows'"),
        ({"rows": "3"}, "task.rows must be int, got '3'"),
        ({"rows": True}, "task.rows must be int, got True"),
        ({"power": []}, "task.power must be float"),
        ({"name": 3}, "task.name must be the name of a task"),
        ({"name": "nothing"}, "'nothing' names no task"),
    ],
)
def test_values_of_a_task_are_checked(values, words, my):
    cls = None if "name" in values else find_task(f"{my}:Doubled")
    with pytest.raises(EquimuError) as error:
        task_from_dict(values, cls)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_task_as_json_and_back(my):
    doubled = find_task(f"{my}:Doubled")
    values = task_to_dict(doubled(rows=2), whole=True)
    assert values == {"name": "Doubled", "module": my.stem, "rows": 2, "power": 2.0, "chatty": False}
    assert task_from_dict(values, doubled) == doubled(rows=2)
    assert task_from_dict({**values, "name": f"{my}:Doubled"}) == doubled(rows=2)


@pytest.mark.parametrize("size", [{"widht": 8}, {"width": 0}, {"width": 2.5}])
def test_sizes_are_checked(size, my):
    doubled = find_task(f"{my}:Doubled")
    with pytest.raises(EquimuError, match=r"width"):
        config_from_dict({"size": size}, doubled)


def test_a_size_and_a_field_without_default_must_be_given(my, capsys):
    my.write_text(GOOD.replace("width: int = 8, depth: int = 1", "width: int").replace(", depth, key", ", 1, key"))
    doubled = find_task(f"{my}:Doubled")
    with pytest.raises(EquimuError, match=r"Doubled needs size.width"):
        RunConfig(task=doubled())
    code, _, err = call(capsys, "show", f"{my}:Doubled")
    assert code == 2 and "--size.width" in err and err.count("\n") == 1
    assert call(capsys, "show", f"{my}:Doubled", "--size.width", "16")[0] == 0


def test_a_field_without_default_must_be_given(my, capsys):
    my.write_text(GOOD.replace("rows: int = 4", "rows: int"))
    code, _, err = call(capsys, "show", f"{my}:Doubled")
    assert code == 2 and "--rows" in err and err.count("\n") == 1
    assert call(capsys, "show", f"{my}:Doubled", "--rows", "2")[0] == 0


# Runs


def test_a_config_file_names_a_task_and_flags_go_over_it(my, capsys, tmp_path):
    config = tmp_path / "my.toml"
    config.write_text(
        f"""
        steps = 3
        size = {{ width = 16 }}
        [task]
        name = "{my}:Doubled"
        rows = 2
        """
    )
    message = ("--validation-batches", "1", "--out", tmp_path / "runs")
    code, out, err = call(capsys, "train", "--config", config, "--power", "1.0", *message)
    assert code == 0, err
    written = json.loads((tmp_path / "runs" / out.split("/")[-1].strip() / "config.json").read_text())["config"]
    assert written["task"] == {"name": "Doubled", "module": my.stem, "rows": 2, "power": 1.0}
    assert written["size"] == {"width": 16, "depth": 1} and written["steps"] == 3
    # the same with the task on the command line
    flags = ("--rows", "2", "--power", "1.0", "--size.width", "16", "--steps", "3")
    assert call(capsys, "train", f"{my}:Doubled", *flags, *message)[1] == out.replace("\n", " (already done)\n", 1)


def test_a_config_file_with_a_typo_in_a_task(my, capsys, tmp_path):
    config = tmp_path / "my.json"
    config.write_text(json.dumps({"task": {"name": f"{my}:Doubled", "powr": 2}}))
    code, out, err = call(capsys, "train", "--config", config, "--out", tmp_path / "runs")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "did you mean 'power'" in err


@pytest.mark.long
def test_another_source_is_said_when_a_run_goes_on(my, tmp_path):
    program = f"""
import equimu as mu
from equimu.tasks import find_task
from equimu._errors import Interrupted
import os, signal, sys
def stop(row):
    if sys.argv[1] == "stop" and row["step"] == 2:
        os.kill(os.getpid(), signal.SIGTERM)
try:
    doubled = find_task({f"{my}:Doubled"!r})
    mu.train(doubled(), steps=4, log_every=1, validation_batches=1, out={str(tmp_path / "runs")!r}, on_row=stop)
except Interrupted:
    sys.exit(7)
"""

    def run(what):
        return subprocess.run([sys.executable, "-c", program, what], capture_output=True, text=True)

    begun = run("stop")
    assert begun.returncode == 7, begun.stderr
    assert "source" not in begun.stderr
    my.write_text(GOOD + "# a thought\n")
    gone_on = run("go on")
    assert gone_on.returncode == 0, gone_on.stderr
    (line,) = [line for line in gone_on.stderr.splitlines() if line.startswith("equimu: ")]
    assert "the source file of Doubled has changed" in line
    assert "source file" not in run("again").stderr  # it is done, with this file
    my.write_text(GOOD + "# a second thought\n")
    assert "the source file of Doubled has changed" in run("again").stderr


def test_tasks_of_one_name_in_two_files_are_two_runs(my):
    other = my.with_name("other.py")
    other.write_text(GOOD.replace("jnp.abs", "2 * jnp.abs"))
    first, second = (identity_of_run(RunConfig(task=find_task(f"{file}:Doubled")())) for file in (my, other))
    assert first != second


def test_fields_by_which_configs_call_the_class_are_refused(my, capsys):
    my.write_text(GOOD.replace("chatty", "name"))
    code, _, err = call(capsys, "train", f"{my}:Doubled", "--steps", "1")
    assert code == 2 and "Doubled has a field 'name'" in err


def test_a_run_of_another_process_is_read_without_its_task(my, tmp_path):
    doubled = find_task(f"{my}:Doubled")
    run = train(doubled(), {"width": 16}, steps=2, validation_batches=1, out=tmp_path / "runs")
    assert (run.task, dict(run.size), run.parameterization) == ("Doubled", {"width": 16, "depth": 1}, "mup")
    with pytest.raises(EquimuError, match="'Doubled' names no task"):
        _ = run.config
