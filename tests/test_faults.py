"""A short version of each part of the campaign; the long one is `python -m benchmarks.faults`."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
