"""The transfer benchmark, cut down: every parameterization of its tables trains, and each part makes its table."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("light_compilation")


@pytest.mark.slow
def test_transfer_benchmark_makes_its_three_tables(tmp_path):
    page = tmp_path / "table.md"
    command = [sys.executable, "-m", "benchmarks.transfer", "--quick", "--out", tmp_path / "runs", "--markdown", page]
    root = Path(__file__).parent.parent
    environment = {**os.environ, "EQUIMU_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    text = page.read_text()
    for title in ("## Over width", "## Over depth", "## Over batch and length (completed_p)"):
        assert title in text
    for name in (
        "sp",
        "mup",
        "tpv",
        "mup(form=absolute)",
        "umup",
        "spectral(form=relative) (muon)",
        "depth_mup",
        "completep",
    ):
        assert f"| {name} |" in text
    assert "| 4 × batch | with |" in text and "| 4 × batch | without |" in text
