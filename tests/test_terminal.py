"""Tables and progress bars on terminals of any width."""

import io
import re
import sys

import pytest

from equimu._progress import progress
from equimu._terminal import print_rows, table_lines, terminal_width, wrapped

HEADER = ("leaf", "init", "lr", "decay")
ROWS = [("blocks.attention.query.weight", "N(0, 1²)", "0.125", "1"), ("norm.gain", "= 1", "1", "0")]


def test_a_table_is_as_wide_as_it_is_where_nothing_limits_it():
    lines = table_lines(HEADER, ROWS, text=(0, 1))
    assert lines == [
        "leaf                           init         lr  decay",
        "─────────────────────────────  ────────  ─────  ─────",
        "blocks.attention.query.weight  N(0, 1²)  0.125      1",
        "norm.gain                      = 1           1      0",
    ]
    assert lines == table_lines(HEADER, ROWS, text=(0, 1), spare=(1, 3), width=53)


def test_columns_are_left_out_in_their_order_and_named():
    lines = table_lines(HEADER, ROWS, spare=(3, 1), width=52)
    assert "decay" not in lines[0] and "init" in lines[0] and lines[-1] == "(left out at this width: decay)"
    lines = table_lines(HEADER, ROWS, spare=(3, 1), width=40)
    assert lines[0].split() == ["leaf", "lr"] and lines[-1] == "(left out at this width: init, decay)"


@pytest.mark.parametrize("width", [20, 30, 80])
def test_no_line_is_wider_than_the_terminal(width):
    lines = table_lines(HEADER, ROWS, spare=(3, 1), width=width)
    assert max(map(len, lines)) <= width
    assert any(line.startswith("norm.gain") for line in lines)
    if width == 20:
        assert any(line.startswith("…query.weight") for line in lines)


def test_paths_are_shortened_where_a_part_begins():
    rows = [("blocks.attention.query.weight", "1"), ("blocks.attention.value.weight", "1"), ("norm.gain", "1")]
    for width in (18, 22, 24):
        assert [line.split()[0] for line in table_lines((), rows, width=width)] == [
            "…query.weight",
            "…value.weight",
            "norm.gain",
        ]
    # Where that would make two of them the same, they are cut where the width ends.
    assert [line.split()[0] for line in table_lines((), rows, width=15)][:2] == ["…uery.weight", "…alue.weight"]


def test_rows_without_a_header_or_without_rows():
    assert table_lines((), [("total", "1"), ("a", "20")]) == ["total   1", "a      20"]
    assert table_lines((), [("total", "1", "2")], spare=(2,), width=9)[0] == "total  1"
    assert len(table_lines(HEADER, [])) == 2


def test_the_width_is_the_terminal_s_or_that_of_columns(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_width() is None  # the output is captured
    print_rows(HEADER, ROWS, title="a title of many words " * 5)
    assert len(capsys.readouterr().out.splitlines()[0]) > 80
    monkeypatch.setenv("COLUMNS", "40")
    assert terminal_width() == 40 and max(map(len, wrapped("word " * 30).splitlines())) <= 40
    print_rows(HEADER, ROWS, title="a title of many words " * 5, spare=(1, 3))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_of_work_and_keeps_its_numbers_on_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    with progress("sweeping", 1) as bar:
        bar.update(8, "8 cells done before, 4 to train", 12)
        bar.update(9, "width 32, learning rate 0.01562, seed 0: loss 2.4384", 12, 0.75)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sys.stderr.getvalue()).rstrip().splitlines()[-1]
    assert re.fullmatch(r"sweeping ━+╸?╺?━* 9/12 [\d:-]{7} width 32, .*…", last.rpartition("\r")[2]), last
