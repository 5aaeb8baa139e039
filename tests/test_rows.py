"""Rows of a run that were damaged, lost or exchanged: taken from the checkpoint or told, never silent."""

import hashlib
import json
import os
import shutil

import pytest
from runs import lines_run

from equimu import EquimuError, train
from equimu.reports import read_cells
from equimu.runs import _rows as rows_module
from equimu.runs import read_run, read_runs
from equimu.training import RuntimeConfig

pytestmark = pytest.mark.usefixtures("light_compilation")

OFTEN = RuntimeConfig(checkpoint_every=4)


class Cut(Exception):
    """Ends a run as a crash would."""


def without_times(rows):
    return [{key: value for key, value in row.items() if key != "examples_per_second"} for row in rows]


def cut_run(config, out):
    """The folder of a run that died after step 10, with checkpoints of steps 4 and 8 and rows of steps 1, 5 and 10."""

    def on_row(row):
        if row["step"] >= 10:
            raise Cut

    with pytest.raises(Cut):
        train(config, out=out, runtime=OFTEN, on_row=on_row)
    (folder,) = out.iterdir()
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(lines_run(), out=tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def cut_once(tmp_path_factory):
    return cut_run(lines_run(), tmp_path_factory.mktemp("cut"))


@pytest.fixture(scope="module")
def cut_without_rows(tmp_path_factory):
    """The same, of which no checkpoint holds the rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_KEPT_BYTES", 0)
        return cut_run(lines_run(), tmp_path_factory.mktemp("cut"))


@pytest.fixture
def cut(cut_once, tmp_path):
    return shutil.copytree(cut_once, tmp_path / cut_once.name)


@pytest.fixture
def done(whole, tmp_path):
    return shutil.copytree(whole.folder, tmp_path / whole.folder.name)


def edit(change):
    def damage(path):
        path.write_bytes(change(path.read_bytes()))

    return damage


def flip(content):
    """Another digit in the loss of the first row."""
    at = content.index(b'"loss": ') + 12
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def lines(change):
    return edit(lambda content: b"".join(change(content.splitlines(keepends=True))))


def flip_speed(content):
    at = content.index(b'"examples_per_second": ') + 24
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE = {
    "a digit": edit(flip),
    "a digit of a speed": edit(flip_speed),
    "no UTF-8": edit(lambda content: b"\xff" + content[1:]),
    "cut off": edit(lambda content: content[:30]),
    "empty": edit(lambda content: b""),
    "a row taken out": lines(lambda rows: rows[1:]),
    "a row twice": lines(lambda rows: [rows[0], *rows]),
    "rows in another order": lines(lambda rows: [rows[1], rows[0], *rows[2:]]),
    "a check taken out": edit(lambda content: content.replace(b'"check"', b'"cheek"')),
    "nested": edit(lambda content: b"[" * 100_000 + content),
    "a number of many digits": edit(lambda content: content.replace(b'"step": 1,', b'"step": ' + b"1" * 5000 + b",")),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
SPECIAL = {
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link": lambda path: (path.rename(path.parent.parent / "elsewhere"), path.symlink_to("../elsewhere")),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("/nowhere/at/all")),
}


@pytest.mark.parametrize("what", [name for name in DAMAGE if name != "a folder"])
def test_lost_rows_are_taken_from_the_checkpoint(what, whole, cut, capsys):
    DAMAGE[what](cut / "metrics.jsonl")
    seen = []
    run = train(lines_run(), out=cut.parent, runtime=OFTEN, on_row=seen.append)
    assert seen[0]["step"] == 10  # it went on from step 8
    assert without_times(run.rows) == without_times(whole.rows)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "are damaged" in err and "taken from the checkpoint" in err


@pytest.mark.parametrize("what", DAMAGE)
def test_lost_rows_that_no_checkpoint_holds_are_told(what, whole, cut_without_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "_KEPT_BYTES", 0)
    folder = shutil.copytree(cut_without_rows, tmp_path / cut_without_rows.name)
    DAMAGE[what](folder / "metrics.jsonl")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(EquimuError, match="are lost .*bring metrics.jsonl back, move checkpoints away") as error:
        train(lines_run(), out=tmp_path, runtime=OFTEN)
    assert "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    # as told
    shutil.rmtree(folder / "checkpoints")
    if what != "a folder":
        assert without_times(train(lines_run(), out=tmp_path).rows) == without_times(whole.rows)


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "config.json", "rules.json", "source", "done", "lock", "checkpoints"]
)
@pytest.mark.parametrize("what", SPECIAL)
def test_no_file_of_a_run_is_reached_through_a_link_or_is_a_pipe(what, name, whole, cut):
    path = cut / name
    if not path.exists():
        path.write_text("{}")
    if path.is_dir() and what != "a link":
        shutil.rmtree(path)
        path.write_text("")
    SPECIAL[what](path)
    elsewhere = {p: p.stat().st_mtime_ns for p in cut.parent.rglob("elsewhere*")}
    with pytest.raises(EquimuError, match=f"cannot take .*{name}: (a symbolic link|not a regular file)"):
        train(lines_run(), out=cut.parent, runtime=OFTEN)
    assert {p: p.stat().st_mtime_ns for p in cut.parent.rglob("elsewhere*")} == elsewhere


@pytest.mark.parametrize("what", DAMAGE | SPECIAL)
def test_damaged_rows_are_not_reported(what, done):
    assert len(list(read_runs(done.parent))) == 1
    (DAMAGE | SPECIAL)[what](done / "metrics.jsonl")
    with pytest.raises(EquimuError, match="is not a readable run") as error:
        read_cells(done.parent)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "done",
            lambda text: text.replace("finished", "finishec"),
            "neither 'finished' nor 'diverged'|not what this run",
        ),
        ("done", lambda text: text.replace("finished", "diverged"), "not what this run wrote"),
        ("done", lambda text: '{"status": "finished"}', "row 1"),
        ("done", lambda text: '{"status": "ended"}', "row 1"),
        ("done", lambda text: "[1]", "not a readable run"),
        ("done", lambda text: "{}", "'status' is missing"),
        ("done", lambda text: text.replace('"sha256": "', '"sha256": "0'), "not what this run wrote"),
        ("config.json", lambda text: text.replace('"seed": 0', '"seed": 1'), "whose folder has that name"),
        ("config.json", lambda text: text.replace('"steps": 12', '"steps": ' + "9" * 5000), "integer of 5000 digits"),
        ("config.json", lambda text: "[" * 100_000, "nested"),
    ],
)
def test_other_files_of_a_run_that_were_changed(name, change, words, done):
    path = done / name
    assert change(path.read_text()) != path.read_text()
    path.write_text(change(path.read_text()))
    with pytest.raises(EquimuError, match=words):
        read_run(done)


def test_files_of_two_runs_that_were_exchanged(done):
    other = train(lines_run(seed=1), out=done.parent)
    mine, others = done / "metrics.jsonl", other.folder / "metrics.jsonl"
    content = mine.read_bytes()
    mine.write_bytes(others.read_bytes())
    with pytest.raises(EquimuError, match="row 1 of metrics.jsonl is not what this run wrote"):
        read_run(done)
    (done / "done").write_bytes((other.folder / "done").read_bytes())
    with pytest.raises(EquimuError, match="row 1 of metrics.jsonl is not what this run wrote"):
        read_run(done)
    mine.write_bytes(content)
    with pytest.raises(EquimuError, match="done is not what this run wrote"):
        read_run(done)


def test_folder_of_another_name_is_told_its_own(done):
    moved = done.rename(done.with_name("renamed"))
    with pytest.raises(EquimuError, match=f"that of {done.name}"):
        read_run(moved)


def test_link_among_runs_is_told(whole, tmp_path):
    (tmp_path / "linked").symlink_to(whole.folder)
    with pytest.raises(EquimuError, match="linked is a symbolic link, which is not followed"):
        list(read_runs(tmp_path))


def test_checks_are_those_of_the_format(whole):
    """Rebuilt here from the description alone: of the run's name, the rows before, and the row less its speed."""
    check = whole.folder.name
    for line in (whole.folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        message = row.pop("check")
        row.pop("examples_per_second", None)
        check = hashlib.sha256(json.dumps([check, row]).encode()).hexdigest()[:16]
        assert message == check
    assert all("check" not in row for row in whole.rows)


def test_runs_of_equal_bits_have_equal_checks(whole, tmp_path):
    again = train(lines_run(), out=tmp_path, runtime=OFTEN)

    def rows(run):
        return without_times(map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines()))

    assert rows(again) == rows(whole) and all("check" in row for row in rows(again))


def as_before(folder):
    """The folder as versions wrote it whose rows had no checks."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["check"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if (folder / "done").exists():
        (folder / "done").write_text('{"status": "finished"}')
    for path in folder.glob("checkpoints/*/manifest.json"):
        found = json.loads(path.read_text())
        del found["checksum"], found["manifest"]["rows"]
        text = json.dumps(found, sort_keys=True)
        path.write_text(json.dumps({**found, "checksum": hashlib.sha256(text.encode()).hexdigest()}))


def test_run_of_a_version_without_checks_is_read(whole, done):
    as_before(done)
    assert without_times(read_run(done).rows) == without_times(whole.rows)


def test_run_of_a_version_without_checks_goes_on(whole, cut, capsys):
    as_before(cut)
    with open(cut / "metrics.jsonl", "a") as file:
        file.write('{"step": 1')
    run = train(lines_run(), out=cut.parent, runtime=OFTEN)
    assert without_times(run.rows) == without_times(whole.rows) and capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), edit(lambda content: b"{" + content)])
def test_rows_without_checks_that_are_lost_are_told(damage, whole, cut):
    as_before(cut)
    damage(cut / "metrics.jsonl")
    with pytest.raises(EquimuError, match="are lost"):
        train(lines_run(), out=cut.parent, runtime=OFTEN)


def test_runs_that_have_not_ended_are_told(done, cut_once, capsys):
    (done / "done").unlink()
    assert list(read_runs(done.parent)) == []
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "1 of the runs in" in err and "not ended" in err
