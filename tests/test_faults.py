"""A short version of each part of the campaign; the long one is `python -m benchmarks.faults`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def campaign(tmp_path, part, count, seed):
    """The results of a part, all of which must have passed. In a process of its own: it forks."""
    found = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.faults", "--part", part, "--count", str(count), "--seed", str(seed)]
    ended = subprocess.run(
        [*command, "--json", str(found), "--folder", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(found.read_text())


def test_damage_is_found_or_harmless(tmp_path):
    results = campaign(tmp_path, "corrupt", 24, 5)
    assert [result["count"] for result in results] == [12, 12]


@pytest.mark.slow
def test_checkpoints_are_restored_on_other_meshes(tmp_path):
    assert len(campaign(tmp_path, "mesh", 2, 6)) == 5


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_bits(tmp_path):
    results = campaign(tmp_path, "kill", 4, 7)
    assert [result["count"] for result in results[:3]] == [1, 1, 2]


@pytest.mark.slow
def test_stopped_runs_go_on_to_the_same_bits(tmp_path):
    assert campaign(tmp_path, "stop", 1, 8)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes a superuser")
def test_a_full_disk_stops_a_run(tmp_path):
    assert campaign(tmp_path, "disk", 1, 9)


@pytest.mark.slow
def test_malformed_inputs_are_told_in_one_line(tmp_path):
    assert campaign(tmp_path, "malformed", 8, 10)[0]["count"] == 8
