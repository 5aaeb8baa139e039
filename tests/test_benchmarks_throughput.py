"""What `python -m benchmarks.throughput` measures by default, and how it says it."""

import json
import re

import pytest

from benchmarks.suites.attention import MOST_ROWS, PASSES, Case, backends, usual_cases
from benchmarks.throughput import Config, changes, main
from equimu._errors import EquimuError


def test_the_usual_cases_are_few_and_telling():
    cases = usual_cases()
    assert 30 <= sum(len(PASSES) * len(backends(case)[1]) for case in cases) <= MOST_ROWS
    assert len(cases) == len(set(cases))
    assert len({case.seq for case in cases}) >= 5
    for name in ("head_dim", "dtype", "kv_heads"):
        assert len({getattr(case, name) for case in cases}) == 2


def test_a_short_run_prints_tables_as_wide_as_the_terminal(capsys, tmp_path, monkeypatch, light_compilation):
    monkeypatch.setenv("COLUMNS", "80")
    cases = [Case(seq=seq, head_dim=8, dtype="float32", heads=2, kv_heads=1) for seq in (8, 16)]
    monkeypatch.setattr("benchmarks.throughput.usual_cases", lambda: cases)
    files = {name: tmp_path / name for name in ("rows.json", "rows.md", "rows.png")}
    main(Config(seconds=0.1, json=files["rows.json"], markdown=files["rows.md"], figure=files["rows.png"]))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "the peak is that of the fastest square matrix" in out.replace("\n", " ")
    assert re.search(r"^blockwise: [\d.]+( to [\d.]+)? × jax.nn forward, ", out, flags=re.M)
    rows = json.loads(files["rows.json"].read_text())["rows"]
    assert len(rows) == 2 * len(PASSES) * 2 and all(row["ms"] > 0 and 0 < row["peak_share"] < 1 for row in rows)
    assert files["rows.md"].read_text().count("\n| 8 ") == len(rows) / 2
    assert files["rows.png"].read_bytes().startswith(b"\x89PNG")
    assert len(out.splitlines()) < len(rows) + 20


def test_changes_beyond_the_noise_are_told():
    before = [{"suite": "attention", "case": "8", "backend": name, "ms": 2.0, "spread": 0.02} for name in "abc"]
    now = [{**row, "ms": ms} for row, ms in zip(before, (2.04, 1.0, 2.5), strict=True)]
    assert [line.split(": ")[1] for line in changes(before, now)] == ["2 ms -> 1 ms (-50%)", "2 ms -> 2.5 ms (+25%)"]


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(EquimuError, match="one position at least"):
        main(Config(lengths=(0,)))
    with pytest.raises(EquimuError, match="--figure draws attention"):
        main(Config(suite=("optimizer",), figure=tmp_path / "x.png"))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(EquimuError, match="not a file that --json wrote"):
        main(Config(compare=tmp_path / "other.json"))
