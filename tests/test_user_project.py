"""A small project of a user: strictly typed, found by the command line, and run through the public registries."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiers import long_but

PROJECT = Path(__file__).parent / "user_project"
# Optax has no stubs, and types of jax.numpy are partly unknown: neither is about this library.
STRICT = {
    "include": ["."],
    "typeCheckingMode": "strict",
    "reportMissingTypeStubs": False,
    "reportUnknownMemberType": False,
}


@pytest.fixture
def project(tmp_path):
    return Path(shutil.copytree(PROJECT, tmp_path / "lab", ignore=shutil.ignore_patterns("__pycache__")))


def run(project, *command):
    root = str(PROJECT.parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=project, env=environment, capture_output=True, text=True
    )


@pytest.mark.long
def test_it_is_strictly_typed(project):
    (project / "pyrightconfig.json").write_text(json.dumps({**STRICT, "extraPaths": [str(PROJECT.parents[1])]}))
    done = run(project, "pyright", "--pythonpath", sys.executable, "--outputjson")
    summary = json.loads(done.stdout)
    assert summary["summary"]["filesAnalyzed"] == 2
    errors = {(Path(found["file"]).name, found["range"]["start"]["line"]) for found in summary["generalDiagnostics"]}
    lines = (project / "exchanged.py").read_text().splitlines()
    assert errors == {("exchanged.py", number) for number, line in enumerate(lines) if line.endswith("# error")}
    assert "ignore" not in (project / "my_lab.py").read_text()


COMMANDS = [
    "show my_lab.py:Quadrants --parameterization mine(power=0.5)",
    "train my_lab.py:Quadrants --steps 4 --smoothing 0.1 --parameterization mine --size.width 32 "
    "--optimizer.name nadam --optimizer.b2 0.9",
]
LONG = [
    "sweep my_lab.py:Quadrants --over.width 8 16 --panels mine sp --seeds 1 --run.steps 4 "
    "--fit.learning-rate 2**-6 2**-5 2**-4",
    "coord-check my_lab.py:Quadrants --sizes 64 128 256 --seeds 3",
    "plan my_lab.py:Quadrants cluster:2 --json",
    "train my_lab.py:Decoder --steps 2 --size.width 16 --size.depth 1 --text.corpus my_lab.py --text.seq 16 "
    "--model.attention-backend plain --runtime.loggers last-loss",
    "plan my_lab.py:Decoder cluster:2 --size.width 16 --size.depth 1 --text.corpus my_lab.py --text.seq 16 "
    "--model.attention-backend plain",
]


@pytest.mark.parametrize(
    "command",
    long_but(COMMANDS, [*COMMANDS, *LONG]),
    ids=lambda command: command.split()[0],
)
def test_the_command_line_takes_it(project, command):
    done = run(project, "equimu", *command.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout
