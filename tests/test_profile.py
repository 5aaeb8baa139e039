"""Traces of some steps, and the share of the devices' peak in the rows."""

import json

import jax
import pytest
from runs import LINES

from equimu import EquimuError, train
from equimu._peaks import PEAKS, add_peak
from equimu.plans.machines import machines
from equimu.runs._rows import Rows
from equimu.tasks import find_task
from equimu.training import Programs, RuntimeConfig

pytestmark = pytest.mark.usefixtures("light_compilation")


def lines(out, *, programs=None, on_row=None, **runtime):
    given = {"steps": 6, "log_every": 2, "validation_batches": 1, "base": {"width": 8}}
    given |= {"runtime": RuntimeConfig(**runtime), "programs": programs, "on_row": on_row}
    return train(find_task(LINES)(), {"width": 8}, out=out, **given)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return lines(tmp_path_factory.mktemp("plain"))


def test_some_steps_are_traced_into_the_folder_of_the_run(plain, tmp_path, monkeypatch):
    calls = []
    start, stop = jax.profiler.start_trace, jax.profiler.stop_trace
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *given: (calls.append("start"), start(*given)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: (calls.append("stop"), stop()))
    run = lines(tmp_path, profile="3:4")
    assert calls == ["start", "stop"]
    assert list((run.folder / "profile").rglob("*.xplane.pb"))
    assert run.folder.name == plain.folder.name and run.validation_loss == plain.validation_loss


def test_a_trace_ends_with_its_run(tmp_path):
    def fail(row):
        if row["step"] == 4:
            raise OSError("power")

    with pytest.raises(OSError, match="power"):
        lines(tmp_path, profile="2:6", on_row=fail)
    jax.profiler.start_trace(str(tmp_path / "another"))  # none goes on
    jax.profiler.stop_trace()


def test_a_trace_beside_another_is_left_out(plain, tmp_path, capfd):
    jax.profiler.start_trace(str(tmp_path / "another"))
    try:
        run = lines(tmp_path, profile="2:3")
    finally:
        jax.profiler.stop_trace()
    assert run.status == "finished"
    (said,) = [line for line in capfd.readouterr().err.splitlines() if "traced" in line]
    assert said.startswith("equimu: steps 2 to 3 are not traced: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("20", "must be FIRST:LAST, such as 20:25, got '20'"),
        ("a:b", "must be FIRST:LAST"),
        ("5:4", "holds no steps, since step 5 is after step 4"),
        ("0:4", "holds no steps, since steps count from 1"),
        ("-1:4", "must be FIRST:LAST"),
    ],
)
def test_ranges_that_hold_no_steps_are_refused(text, words):
    with pytest.raises(EquimuError) as error:
        RuntimeConfig(profile=text)
    assert words in str(error.value)


def test_a_range_beyond_the_run_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(EquimuError, match=r"profile=5:7 goes beyond the run, which has steps=6"):
        lines(tmp_path / "out", profile="5:7")
    assert not (tmp_path / "out").exists()


def test_rows_have_the_share_of_a_known_peak(plain, tmp_path, monkeypatch):
    from equimu import _peaks

    assert not any("mfu" in row for row in plain.rows)
    monkeypatch.setitem(_peaks._PEAKS, jax.devices()[0].device_kind, 1e9)
    run = lines(tmp_path, programs=Programs(most=1))
    # Of 8 rows through 4 → 8 → 1: forward, gradients of both weights, and of what the second one reads.
    flops = 8 * 2 * ((4 * 8 + 8) + (4 * 8 + 8) + 8)
    for row in run.rows[:-1]:
        (speed,) = [value for key, value in row.items() if key.endswith("_per_second")]
        assert row["mfu"] == pytest.approx(flops * speed / 8 / 1e9)
    assert "mfu" not in run.rows[-1]
    # A matter of time, which is not in the checks.
    assert _checks(run) == _checks(plain)


def test_machines_read_the_one_table_and_add_to_it(monkeypatch):
    from equimu import _peaks

    monkeypatch.setattr(_peaks, "_PEAKS", dict(_peaks._PEAKS))
    for machine in machines().values():
        if machine.kind and machine.flops is not None:
            assert PEAKS[machine.kind] == machine.flops
    add_peak("mine", 7.0)
    add_peak("TPU v4", 1.0)
    assert _peaks._PEAKS["mine"] == 7.0 and _peaks._PEAKS["TPU v4"] == 275e12


def _checks(run):
    return [json.loads(line)["check"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_row_with_another_speed_has_the_same_check():
    rows = [
        {"step": 1, "loss": 2.0, "mfu": share, "rows_per_second": speed} for share, speed in ((0.1, 3.0), (0.2, 4.0))
    ]
    assert len({Rows("ab").add(row).split(b'"check"')[1] for row in rows}) == 1
