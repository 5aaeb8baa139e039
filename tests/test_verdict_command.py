"""Verdicts on sweeps of other trainers: formats, guesses, what counts, and what cannot be judged."""

import json
import os
import subprocess
import sys

import commands
import foreign_sweeps as foreign
import pytest

from equimu._errors import EquimuError
from equimu.reports import read_table, report
from equimu.tables import read_rows
from equimu.tables._tensorboard import named

TRANSFERS, DRIFTS = 0.0, -1.0


def call(capsys, *arguments):
    return commands.call(capsys, "verdict", *arguments)


def rows_of(sweep=None):
    return [
        {"width": width, "lr": rate, "seed": seed, "loss": loss}
        for width, rate, seed, loss in (sweep or foreign.runs(seeds=1))
    ]


def verdict_of(place, **columns):
    (panel,) = report(read_table(place, **columns)).panels
    return panel.verdict.kind, None if panel.law is None else panel.law.slope


FORMATS = {
    "wandb.csv": foreign.wandb_export,
    "mlflow.csv": foreign.mlflow_export,
    "mlruns": foreign.mlflow_folder,
    "wandb": foreign.wandb_folder,
    "tensorboard": foreign.tensorboard_folder,
    "steps.jsonl": lambda path, sweep: foreign.write_lines(path, list(foreign.steps_of(sweep))),
    "list.json": lambda path, sweep: path.write_text(json.dumps(rows_of(sweep))) and path,
    "plain.tsv": lambda path, sweep: (
        path.write_text("\ufeffwidth\tlr\tseed\tloss\r\n" + "".join("\t".join(map(str, run)) + "\r\n" for run in sweep))
        and path
    ),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("slope", "kind"), [(TRANSFERS, "transfers"), (DRIFTS, "drifts")])
def test_the_verdict_is_the_one_that_the_sweep_was_made_with(name, slope, kind, tmp_path):
    place = FORMATS[name](tmp_path / name, foreign.runs(slope, at=-7.0))
    found, law = verdict_of(place)
    assert found == kind and law == pytest.approx(slope, abs=0.05)
    runs = read_table(place)
    assert (len(runs.cells), runs.left_out) == (4 * 9 * 3, ())
    assert [(c.along, c.fitted, c.scale) for c in runs][0] == ("width", "learning_rate", "log2")


@pytest.mark.parametrize("write", [foreign.wandb_export, foreign.mlflow_export])
def test_too_much_noise_is_undecided(write, tmp_path):
    kind, _ = verdict_of(write(tmp_path / "noisy.csv", foreign.runs(noise=0.3, widths=(64, 128), seeds=1)))
    assert kind == "undecided"


def test_the_command_prints_and_writes_what_report_does(capsys, tmp_path):
    table = foreign.wandb_export(tmp_path / "sweep.csv", foreign.runs(DRIFTS))
    code, out, err = call(capsys, table)
    first, *_ = out.splitlines()
    assert (code, err) == (0, "")
    assert (
        first
        == "108 runs: width from n_embd, learning_rate from lr, loss from val/loss, seed from seed, step from _step"
    )
    assert "sweep: drifts by -" in out
    assert sorted(os.listdir(tmp_path / "sweep-report")) == ["report.html", "report.json", "report.md", "report.png"]
    code, again, _ = call(capsys, table, "--out", tmp_path / "elsewhere")
    assert code == 0 and "elsewhere/report.md" in again


def test_no_jax_is_imported_for_a_thousand_runs(tmp_path):
    sweep = foreign.runs(widths=(64, 128, 256, 512, 1024), octaves=range(-14, -4), seeds=20)
    table = foreign.mlflow_export(tmp_path / "sweep.csv", sweep)
    code = (
        "import sys; from equimu.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: print(stop.code, 'jax' in sys.modules)"
    )
    for arguments in (["verdict", str(table)], ["verdict", str(tmp_path / "none.csv")], ["--help"]):
        # Some 1.5 s on an idle core; the bound is for a machine that is busy with other tests.
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=20)
        assert done.stdout.splitlines()[-1] == f"{2 if 'none' in arguments[-1] else 0} False", done.stderr
        assert "1000 runs" in done.stdout or arguments[-1] != str(table)


def test_columns_are_found_by_their_usual_names(tmp_path):
    rows = [
        {"model.dim": w, "model.n_layer": 4, "optim.lr": lr, "train/lr": 0, "train/loss": 1.0, "eval/loss": loss}
        for w, lr, _, loss in foreign.runs(seeds=1)
    ]
    runs = read_table(foreign.write_csv(tmp_path / "a.csv", rows))
    assert repr(runs.columns) == "width from model.dim, learning_rate from optim.lr, loss from eval/loss"
    # the depth differs, the width does not
    rows = [{"d_model": 64, "n_layer": w, "lr": lr, "loss": loss} for w, lr, _, loss in foreign.runs(seeds=1)]
    assert read_table(foreign.write_csv(tmp_path / "b.csv", rows)).cells[0].along == "depth"


def test_columns_that_are_named_go_before_guesses(capsys, tmp_path):
    rows = [row | {"wd": row["lr"], "lr": 0.1, "final": row["loss"], "loss": 0.0} for row in rows_of()]
    table = foreign.write_csv(tmp_path / "a.csv", rows)
    code, out, _ = call(capsys, table, "--fit", "wd", "--loss", "final")
    assert code == 0 and "wd from wd, loss from final" in out and "Does the best wd transfer over width?" in out
    cells = read_table(table, fit="wd", loss="final", scale="linear").cells
    assert {cell.scale for cell in cells} == {"linear"}


def test_panels_are_compared(tmp_path):
    rows = [row | {"use_mup": True} for row in rows_of()]
    rows += [row | {"use_mup": False} for row in rows_of(foreign.runs(DRIFTS, seeds=1))]
    made = report(read_table(foreign.write_csv(tmp_path / "a.csv", rows)))
    assert [panel.name for panel in made.panels] == ["use_mup=True", "use_mup=False"]
    assert made.panels[1].law.slope == pytest.approx(-1, abs=0.1)


def test_which_rows_count(tmp_path):
    rows = [row | {"State": "finished"} for row in rows_of()]
    rows[0] |= {"State": "running", "loss": ""}
    rows[1] |= {"State": "crashed"}
    rows[2] |= {"State": "crashed", "loss": ""}
    rows[3] |= {"State": "finished", "loss": "NaN"}
    rows[4] |= {"loss": "Infinity"}
    rows[5] |= {"lr": ""}
    runs = read_table(foreign.write_csv(tmp_path / "a.csv", rows))
    assert runs.left_out == (
        "1 row of runs that are running",
        "1 row of runs that crashed with a finite loss",
        "1 row without lr",
    )
    assert len(runs.cells) == len(rows) - 3
    assert [cell.diverged for cell in runs.cells[:4]] == [True, True, True, False]


def test_the_last_step_with_a_loss_counts(tmp_path):
    rows = [
        row | {"run": i, "step": step, "loss": row["loss"] + 9 - step}
        for i, row in enumerate(rows_of())
        for step in (9, 1)
    ]
    cells = read_table(foreign.write_csv(tmp_path / "a.csv", rows)).cells
    assert [cell.loss for cell in cells] == pytest.approx([row["loss"] for row in rows_of()])
    rows[0]["loss"] = "nan"
    assert read_table(foreign.write_csv(tmp_path / "a.csv", rows)).cells[0].diverged


def changed(**values):
    def change(rows):
        rows[7] |= values
        return rows

    return change


MISTAKES = {
    "one width": (lambda rows: rows[:9], "width is 64 in all runs"),
    "text as a loss": (changed(loss="good"), "line 9: loss is 'good', which is no number"),
    "text as a rate": (changed(lr="high"), "line 9: lr is 'high', which is no finite number"),
    "an infinite width": (changed(width="inf"), "line 9: width is 'inf', which is no finite number"),
    "half a seed": (changed(seed=0.5), "line 9: seed is 0.5, and a seed is a whole number"),
    "a cell twice": (lambda rows: [*rows, rows[3]], "line 5 and line 38 are both of width 64, lr "),
    "a cell by two runs": (
        lambda rows: [row | {"run_id": i} for i, row in enumerate([*rows, rows[3]])],
        "line 5 and line 38 are both of width 64, lr 0.0009765625, seed 0; leave one out, or name the column",
    ),
    "seeds without a column": (
        lambda rows: [{key: row[key] for key in ("width", "lr", "loss")} for row in rows for _ in range(2)],
        "line 2 and line 3 are both of width 64, lr 0.0001220703125; leave one out, or name the column that tells them "
        "apart with --seed or --step or --panel",
    ),
    "no loss": (lambda rows: [{"width": r["width"], "lr": r["lr"], "x": 1} for r in rows], "which column is the loss?"),
    "no rate": (lambda rows: [{"width": r["width"], "loss": 1} for r in rows], "which column is what was swept?"),
    "two losses": (
        lambda rows: [{"width": r["width"], "lr": r["lr"], "a/val_loss": 1, "b/val_loss": 1} for r in rows],
        "columns a/val_loss and b/val_loss could both be the loss; say which with --loss",
    ),
    "nothing finished": (lambda rows: [row | {"state": "running"} for row in rows], "no finished run is left"),
    "a rate of nothing": (changed(lr=-1), "learning_rate -1, which has no logarithm"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(name, capsys, tmp_path):
    change, words = MISTAKES[name]
    table = foreign.write_csv(tmp_path / "a.csv", change(rows_of()))
    code, out, err = call(capsys, table)
    assert code == 2 and words in err and err.count("\n") == 1 and err.startswith("equimu: ")
    assert os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no rows"),
        ("width,lr,loss\n", "holds no rows"),
        ("width,lr,loss\n1,2\n", "line 2, has 2 fields and the first line 3"),
        ("width,lr,lr\n1,2,3\n", "two columns 'lr'"),
        ('width,lr,loss\n1,"2,3\n', "is not CSV"),
        ("\xff", "not text in UTF-8"),
        ('{"width": 1\n', "is not JSON Lines"),
        ("[1, 2]", "item 1, holds no object"),
        ("[]", "holds no object"),
    ],
)
def test_what_is_no_table(content, words, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(EquimuError, match=words) as error:
        read_table(path)
    assert "\n" not in str(error.value)


def test_what_is_no_folder_of_runs(tmp_path, monkeypatch):
    with pytest.raises(EquimuError, match="cannot read .*none"):
        read_table(tmp_path / "none")
    with pytest.raises(EquimuError, match="holds no runs of Weights & Biases, MLflow or TensorBoard"):
        read_table(tmp_path)
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"\x03" + bytes(11) + b"\xff" * 3 + bytes(4))
    with pytest.raises(EquimuError, match="is not an event file of TensorBoard"):
        read_table(tmp_path)
    for name in ("tensorboardX", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith("tensorboardX.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(EquimuError, match="need tensorboardX or tensorboard"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["width=64,lr=0.001,seed=1", "width64_lr0.001_seed1", "width_64/lr_1e-3/seed_1", "a-width=64_lr=1e-3_seed=1"],
)
def test_folders_are_named_by_hyperparameters(name):
    found = named(name)
    assert [float(found[key]) for key in ("width", "lr", "seed") if key in found][-2:] == [0.001, 1]


def test_hyperparameters_of_tensorboard(tmp_path):
    from tensorboardX import SummaryWriter

    for width in (64, 128):
        writer = SummaryWriter(str(tmp_path / f"r{width}"))
        writer.add_hparams({"width": width, "lr": 0.5, "act": "relu"}, {"hparam/loss": 1.5}, name="h")
        writer.close()
    named = ("hparams.width", "hparams.lr", "hparams.act", "hparam/loss")
    rows = [[row.values.get(name) for name in named] for row in read_rows(tmp_path)]
    assert sorted(row for row in rows if row[-1]) == [[64.0, 0.5, "relu", 1.5], [128.0, 0.5, "relu", 1.5]]
    runs = read_table(tmp_path)
    assert sorted(cell.size for cell in runs) == [64, 128]
    # the folders that hold those of add_hparams hold no hyperparameters themselves
    assert runs.left_out == ("2 rows without hparams.width",)


def test_runs_that_are_not_over_are_left_out_of_folders(tmp_path):
    folder = foreign.mlflow_folder(tmp_path / "mlruns", foreign.runs(seeds=1))
    first, second, *_ = sorted(folder.glob("123/*/meta.yaml"))
    first.write_text("lifecycle_stage: active\nstatus: 1\n")
    second.write_text("lifecycle_stage: deleted\nstatus: 3\n")
    runs = read_table(folder)
    assert runs.left_out == ("1 row of runs that are running",) and len(runs.cells) == 34
    folder = foreign.wandb_folder(tmp_path / "wandb", foreign.runs(seeds=1))
    first, second, *_ = sorted(folder.glob("*/files/wandb-summary.json"))
    first.unlink()
    assert len(read_table(folder).cells) == 35
    second.write_text("[1]")
    with pytest.raises(EquimuError, match="is not a JSON summary"):
        read_table(folder)
