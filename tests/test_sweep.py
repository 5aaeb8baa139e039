import json
import os
import signal

import pytest
from runs import in_grid, lines_run, small_run

from equimu import EquimuError, SweepConfig, octaves, sweep
from equimu._errors import Interrupted
from equimu.reports import cells_of, read_cells, report, write_report
from equimu.sweeps import cells
from equimu.training import train

pytestmark = pytest.mark.usefixtures("light_compilation")


def small_sweep(run=None, **grid):
    run = in_grid(lines_run() if run is None else run)
    grid = {"over": {"width": (8, 16)}, "fit": {"learning_rate": octaves(-7, -3, 2)}, "seeds": 1, **grid}
    return SweepConfig(run=run, **grid)


def test_sweep_runs_every_cell_with_one_program_per_width(tmp_path, made):
    found = []
    config = small_sweep()
    begun = []
    calls = {
        "on_cell": lambda run, done, total: found.append((done, total)),
        "on_begin": lambda left, total: begun.append((set(left), total)),
    }
    runs = sweep(config, out=tmp_path, **calls)
    assert begun == [({run.folder.name for run in runs}, 12)]
    assert len(runs) == 12 and sorted(found) == [(n, 12) for n in range(1, 13)]
    assert [programs.made for programs in made] == [2]
    assert len({run.folder for run in runs}) == 12
    sweep(config, out=tmp_path, on_begin=calls["on_begin"])
    assert begun[1:] == [(set(), 12)]
    # What is printed fits on a screen, of sweeps of any size; a run on a line.
    for thing in (runs, type(runs)(9 * runs)):
        lines = repr(thing).splitlines()
        assert str(thing) == repr(thing) and len(lines) <= 40 and max(map(len, lines)) <= 80
        assert lines[0] == f"{len(thing)} runs, 0 diverged" and "mup, width 8, " in lines[1]
    assert len(repr(runs[0])) <= 80 and str(runs[0]) == repr(runs[0])


def test_a_sweep_is_of_three_seeds_unless_told():
    assert SweepConfig().seeds == (0, 1, 2)


def test_sweep_goes_on_where_it_was_interrupted(tmp_path):
    config = small_sweep(over={"width": (8,)})

    def stop(run, done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(config, out=tmp_path / "cut", on_cell=stop)
    finished = {path.parent: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("*/done")}
    assert 4 <= len(finished) < 6
    runs = sweep(config, out=tmp_path / "cut")
    assert all((folder / "done").stat().st_mtime_ns == time for folder, time in finished.items())
    whole = sweep(config, out=tmp_path / "whole")
    assert [run.validation_loss for run in runs] == [run.validation_loss for run in whole]


def test_a_cell_is_the_run_that_train_would_do(tmp_path):
    config = small_sweep(over={"width": (8,)}, panels=("mup",))
    first, *_ = sweep(config, out=tmp_path / "sweep")
    alone = train(next(iter(cells(config))), out=tmp_path / "alone")
    assert alone.validation_loss == first.validation_loss
    assert alone.folder.name == first.folder.name


def test_sweep_checks_every_cell_before_the_first(corpus, tmp_path):
    with pytest.raises(EquimuError, match="12 is not a multiple of head_dim 8"):
        sweep(small_sweep(small_run(corpus), over={"width": (8, 12)}), out=tmp_path / "out")
    with pytest.raises(EquimuError, match="larger than the target"):
        sweep(small_sweep(small_run(corpus), base={"width": 16}), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_interrupted_sweep_says_how_far_it_came(tmp_path):
    def stop(run, done, total):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"stopped with [1-9] of \d+ cells done; the same command goes on"):
        sweep(small_sweep(), out=tmp_path, workers=1, on_cell=stop)


def test_report_of_run_folders(tmp_path):
    runs = sweep(small_sweep(), out=tmp_path / "runs")
    found = read_cells(tmp_path / "runs")
    assert found == sorted(cells_of(runs), key=lambda c: (c.panel, c.size, c.value))
    assert repr(report(str(tmp_path / "runs"))) == repr(report(found))
    assert small_sweep().cell_text(runs[0]) == "mup, width 8, learning_rate 0.007812, seed 0"
    with pytest.raises(EquimuError, match="holds no runs, but folders of them: name one of runs"):
        read_cells(tmp_path)
    with pytest.raises(EquimuError, match="fit optimizer.b2 is 0.95 in all runs; fit what differs: .*learning_rate"):
        read_cells(tmp_path / "runs", fit="b2")
    _, page, figure, data = write_report(report(found), tmp_path / "report")
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "mup" in page.read_text() and json.loads(data.read_text())
    # runs that differ in more than a sweep varies do not belong in one figure
    train(lines_run(width=8 * 4, steps=3), out=tmp_path / "runs")
    with pytest.raises(EquimuError, match="more than one sweep"):
        read_cells(tmp_path / "runs")
