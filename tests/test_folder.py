"""Files inside of a folder, JSON that anyone may have written, and places that a user names."""

import json
import os
from pathlib import Path

import pytest
from commands import call
from runs import small_run
from strange import within

from equimu import EquimuError, train
from equimu._json import loads
from equimu.files._folder import check_inside, local_folder, open_inside, read_inside, write_inside

# Files inside of a folder


def test_files_are_read_and_written_inside_of_a_folder_only(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (inside / "folder").symlink_to(outside)
    (inside / "file").symlink_to(outside / "secret")
    (inside / "loop").symlink_to("loop")
    os.mkfifo(inside / "pipe")
    (inside / "file.tmp").symlink_to(outside / "secret")
    for name in (
        "file",
        "folder/secret",
        "../outside/secret",
        "loop",
        "pipe",
        "/etc/passwd",
        "",
        "real",
        "real/../file",
    ):
        with within(1), pytest.raises(OSError):
            read_inside(inside, name)
        with within(1), pytest.raises(OSError):
            os.close(open_inside(inside, name, os.O_WRONLY | os.O_CREAT))
    for name in ("file", "folder", "loop", "pipe"):
        with pytest.raises(OSError):
            check_inside(inside, name)
    with pytest.raises(OSError):
        write_inside(inside, "folder/secret", b"changed")
    write_inside(inside, "file", b"new")  # takes the link's place
    assert (outside / "secret").read_text() == "secret" and sorted(outside.iterdir()) == [outside / "secret"]
    assert read_inside(inside, "file") == b"new" and not (inside / "file").is_symlink()
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_inside(inside, "file", most=2)
    link = tmp_path / "link"
    link.symlink_to(inside)  # the folder itself is where the user said
    assert read_inside(link, "file") == b"new"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '[1, {"a": ' * 150 + "1" + "}]" * 150,
        "1" * 5000,
        "[-" + "1" * 101 + "]",
        b"\xff",
        "{",
    ],
)
def test_json_that_python_chokes_on_is_a_value_error(text):
    with within(5), pytest.raises(ValueError) as error:
        loads(text)
    assert "\n" not in str(error.value)


def test_json_of_every_day_is_read():
    value = {"a": [1, -2.5, None, True, "x"], "state": 2**127, "nested": [[[[{}]]]] * 100}
    assert loads(json.dumps(value)) == loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize("place", ["", "gs://bucket/x", Path("gs://bucket/x"), "s3://b", "http://h/x", "a\0b"])
def test_folder_of_runs_is_local_and_named(place, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EquimuError, match="--out (is empty|must be a local folder|holds a NUL)"):
        train(small_run(corpus), out=place)
    assert list(tmp_path.iterdir()) == []
    assert local_folder("~/x", "x") == Path.home() / "x" and local_folder(".", "x") == Path(".")


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", ""],
        ["report", ".", "--out", ""],
        ["train", "--out", ""],
        ["sweep", "--out", ""],
        ["sweep", "--out", "gs://bucket/x"],
        ["train", "--out", "s3://bucket/x"],
        ["data", ""],
        ["coord-check", "--out", ""],
    ],
)
def test_empty_names_are_not_the_current_folder(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with within(10):
        code, out, err = call(capsys, *arguments)
    assert code == 2 and out == "" and err.count("\n") == 1, err
    assert list(tmp_path.iterdir()) == []
