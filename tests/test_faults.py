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
    (record,) = json.loads(found.read_text())
    return record["results"]


def counts(results):
    return [result["count"] for result in results]


def test_damage_is_found_or_harmless(tmp_path):
    assert counts(campaign(tmp_path, "corrupt", 24, 5)) == [12, 12]


@pytest.mark.slow
def test_damage_to_the_folder_of_a_run_is_never_silent(tmp_path):
    assert counts(campaign(tmp_path, "rows", 24, 9)) == [12, 12]


@pytest.mark.slow
def test_strangers_are_told_in_one_line(tmp_path):
    assert counts(campaign(tmp_path, "strangers", 20, 10)) == [20]


@pytest.mark.slow
def test_killed_starts_start_again(tmp_path):
    assert counts(campaign(tmp_path, "start", 8, 11)) == [2, 2, 2, 2]


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_bits(tmp_path):
    found = counts(campaign(tmp_path, "kill", 16, 1))
    by_subject = [found[i : i + 4] for i in range(0, len(found), 4)]
    assert [kills for *kills, _ in by_subject] == [[2, 2, 4], [1, 1, 2], [1, 1, 2]]
    assert all(runs >= 1 for *_, runs in by_subject)


@pytest.mark.slow
def test_other_meshes_have_the_same_arrays_and_batches(tmp_path):
    results = counts(campaign(tmp_path, "mesh", 2, 2))
    assert results[:5] == [2] * 5 and min(results[5:]) >= 50


@pytest.mark.slow
def test_runs_are_stopped_on_one_process_and_on_two(tmp_path):
    assert counts(campaign(tmp_path, "stop", 1, 3)) == [1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes a superuser")
def test_full_disk_is_one_line_and_the_run_goes_on(tmp_path):
    assert counts(campaign(tmp_path, "disk", 1, 4)) == [1]


def test_wrong_arguments_are_told_in_one_line():
    """Without the type checker that refuses them first in the other tests."""
    parts = ("dot", "decode", "register", "axes", "SweepConfig", "ModelConfig", "RunConfig", "Loader")
    command = [sys.executable, "-m", "benchmarks.campaign._calls", *parts]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    *_, last = ended.stdout.splitlines()
    assert ended.returncode == 0 and int(last.split()[0]) >= 200, ended.stdout + ended.stderr


@pytest.mark.slow
def test_malformed_inputs_are_one_line_each(tmp_path):
    assert counts(campaign(tmp_path, "malformed", 15, 6)) == [15, 15, 15]


@pytest.mark.slow
def test_memory_is_flat_and_nothing_is_left_over(tmp_path):
    assert counts(campaign(tmp_path, "soak", 1, 7)) == [1]


def test_a_claim_that_does_not_hold_fails(tmp_path):
    """The exit code is what the tests above rely on. Here no file is compared with the checksum that the manifest has of it."""
    broken = f"""
import pathlib
import sys
import benchmarks.faults as faults
import equimu.storage._checkpoints as checkpoints
checkpoints.verify_files = lambda *args: None
sys.exit(faults.status(faults.Config(part=("corrupt",), count=200, folder=pathlib.Path({str(tmp_path)!r}))))
"""
    ended = subprocess.run([sys.executable, "-c", broken], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 1 and "read as if nothing had happened" in ended.stdout, ended.stdout + ended.stderr
