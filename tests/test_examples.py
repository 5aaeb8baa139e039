"""The worked examples: each trains for a step or two by the command line, and its script reports that μP's best rate stays."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from tiers import long_but

import equimu as mu
from equimu.tasks import find_task

pytestmark = pytest.mark.usefixtures("light_compilation")

EXAMPLES = Path(__file__).parent.parent / "examples"
TASKS = {
    "classifier": "Gratings",
    "encoder_decoder": "Sorting",
    "gru": "NextByte",
    "mixer": "Shapes",
    "vision_transformer": "Shapes",
}
# Of packages that are not dependencies: where they are installed.
THIRD_PARTY = ("equimo",)
# Octaves by which the best learning rate may move with each doubling of the size, in sweeps of a minute.
STAYS = 0.4


@pytest.mark.parametrize("name", long_but(("gru",), list(TASKS)))
def test_an_example_trains(name, tmp_path):
    task = find_task(f"{EXAMPLES / name}.py:{TASKS[name]}")
    small = {"rows": 8} | ({} if name == "gru" else {"examples": 256})
    run = mu.train(task(**small), {"width": 16}, base={"width": 8}, steps=2, validation_batches=1, out=tmp_path)
    assert run.status == "finished" and math.isfinite(run.validation_loss)
    assert run.size["width"] == 16 and run.task == TASKS[name]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path):
    assert len(path.read_text().splitlines()) <= 120


def installed(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; the head of examples/third_party_{package}.py says how to")


def run(folder, *command):
    """The output of a command of Python, which must succeed."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_an_example_says_that_the_rate_stays(name, tmp_path):
    check_that_the_rate_stays(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("package", THIRD_PARTY)
def test_an_untouched_model_of_another_package_is_swept(package, tmp_path):
    installed(package)
    check_that_the_rate_stays(f"third_party_{package}", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("package", THIRD_PARTY)
def test_an_untouched_model_of_another_package_is_trained_checked_and_planned(package, tmp_path):
    installed(package)
    task = f"{EXAMPLES}/third_party_{package}.py:Gratings"
    trained = run(tmp_path, "-m", "equimu", "train", task, "--size.width", "64", "--steps", "20")
    assert float(trained.split("validation loss ")[1].split()[0]) < math.log(8)  # of a guess
    checked = run(tmp_path, "-m", "equimu", "coord-check", task)
    assert "passed: as mup-relative says over width" in checked
    assert "2 devices" in run(tmp_path, "-m", "equimu", "plan", task, "cpu:2", "--size.width", "128")


def check_that_the_rate_stays(name, tmp_path):
    """By the report that an example's script writes."""
    run(tmp_path, EXAMPLES / f"{name}.py")
    ours, standard = json.loads((tmp_path / "runs" / name / "report.json").read_text())["panels"]
    assert abs(ours["law"]["slope"]) <= STAYS, ours["verdict"]["sentence"]
    assert abs(ours["law"]["slope"]) < abs(standard["law"]["slope"]), standard["verdict"]["sentence"]
    assert (tmp_path / "runs" / name / "report.png").stat().st_size > 10_000
