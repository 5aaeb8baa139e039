"""The worked examples: each trains for a step or two by the command line, and its script reports that μP's best rate stays."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

import equimu as mu
from equimu.tasks import find_task

EXAMPLES = Path(__file__).parent.parent / "examples"
TASKS = {
    "classifier": "Gratings",
    "encoder_decoder": "Sorting",
    "gru": "NextByte",
    "mixer": "Shapes",
    "vision_transformer": "Shapes",
}
# Those that sweep within a minute.
SWEPT = ("classifier", "encoder_decoder", "gru")
# Octaves by which the best learning rate may move with each doubling of the size, in sweeps of a minute.
STAYS = 0.4


@pytest.mark.parametrize("name", TASKS)
def test_an_example_trains(name, tmp_path):
    task = find_task(f"{EXAMPLES / name}.py:{TASKS[name]}")
    small = {"rows": 8} | ({} if name == "gru" else {"examples": 256})
    run = mu.train(task(**small), {"width": 16}, base={"width": 8}, steps=2, validation_batches=1, out=tmp_path)
    assert run.status == "finished" and math.isfinite(run.validation_loss)
    assert run.size["width"] == 16 and run.task == TASKS[name]


@pytest.mark.parametrize("name", TASKS)
def test_an_example_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 120


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEPT)
def test_an_example_says_that_the_rate_stays(name, tmp_path):
    script = EXAMPLES / f"{name}.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    ours, standard = json.loads((tmp_path / "runs" / name / "report.json").read_text())["panels"]
    assert abs(ours["law"]["slope"]) <= STAYS, ours["verdict"]["sentence"]
    assert abs(ours["law"]["slope"]) < abs(standard["law"]["slope"]), standard["verdict"]["sentence"]
    assert (tmp_path / "runs" / name / "report.png").stat().st_size > 10_000
