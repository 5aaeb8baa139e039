"""Reports as tables, pages, figures and data, and what cannot be one."""

import base64
import dataclasses
import importlib.metadata
import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from json_schemas import check_schema
from synthetic_sweeps import lopsided, sweep

from equimu._errors import EquimuError
from equimu.reports import markdown, print_table, print_verdicts, report, write_report


@pytest.fixture(scope="module")
def mixed():
    """Two parameterizations, one of which diverges, and a third of which nothing finished."""
    return report(
        sweep(lopsided, seeds=2, noise=0.01)
        + sweep(lopsided, name="sp", slope=-0.8, seeds=2, noise=0.01, wall=1.5)
        + sweep(name="lost", wall=-99, widths=(32,))
    )


def test_markdown_marks_the_best_and_tells_divergence(mixed):
    text = markdown(mixed)
    table = next(part for part in text.split("## ") if part.startswith("sp: drifts"))
    row = next(line for line in table.splitlines() if line.startswith("| 256 "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells.count("div.") == 5
    assert sum(cell.startswith("**") for cell in cells) == 1
    header = next(line for line in table.splitlines() if line.startswith("| width")).strip("|").split("|")
    assert float(header[[cell.startswith("**") for cell in cells].index(True)]) in (-8, -7)


def test_every_markdown_row_has_as_many_cells_as_its_header(mixed):
    for part in markdown(mixed).split("## ")[1:]:
        assert len({line.count("|") for line in part.splitlines() if line.startswith("|")}) == 1


def test_table_prints_to_the_terminal(mixed, capsys):
    print_table(mixed)
    print_verdicts(mixed)
    out = capsys.readouterr().out
    assert "mup: transfers" in out
    assert "sp: drifts by" in out
    assert "lost: undecided: every learning rate diverged (width 32)" in out
    assert "…" not in out


class Reader(HTMLParser):
    """What a page asks for from elsewhere, and whether its elements are closed in the order that they are opened in."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_one_file_that_asks_for_nothing_else(mixed, tmp_path):
    text = write_report(mixed, tmp_path)[0].read_text(encoding="utf-8")
    page = Reader(text)
    (image,) = page.addresses
    start = "data:image/svg+xml;base64,"
    assert image.startswith(start) and "url(" not in text and "@import" not in text
    figure = ElementTree.fromstring(base64.b64decode(image.removeprefix(start)))
    drawn = " ".join("".join(each.itertext()) for each in figure.iter("{http://www.w3.org/2000/svg}text"))
    # Texts of the figure are texts, and every panel is judged in the page by the same words.
    assert "width 256" in drawn and all(panel.name in drawn for panel in mixed.panels)
    told = " ".join(page.texts)
    assert all(panel.verdict.sentence in told for panel in mixed.panels)
    assert f"equimu {importlib.metadata.version('equimu')}" in told


def test_names_of_strangers_stay_texts(tmp_path):
    cells = [dataclasses.replace(cell, panel="<script>alert(1)</script>") for cell in sweep(widths=(128, 256))]
    text = write_report(report(cells), tmp_path)[0].read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text
    Reader(text)


def test_lines_are_told_apart_without_colours(mixed):
    from equimu.reports import _figure

    axes = _figure._figure(mixed).axes[0]
    styles = [(line.get_marker(), line.get_linestyle()) for line in axes.lines if line.get_linewidth() == 1.6]
    assert len(set(styles)) == len(styles) == len(mixed.panels[0].curves)


def test_report_writes_page_figure_and_data(mixed, tmp_path):
    html, page, figure, data = write_report(mixed, tmp_path / "a" / "b")
    names = [path.name for path in (html, page, figure, data)]
    assert names == ["report.html", "report.md", "report.png", "report.json"]
    assert "![Loss against learning rate](report.png)" in page.read_text(encoding="utf-8")
    head = figure.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(head[16:20], "big") > 1000

    def never(token):
        raise AssertionError(f"{token} is not JSON")

    panels = json.loads(data.read_text(encoding="utf-8"), parse_constant=never)["panels"]
    check_schema("report", data.read_text(encoding="utf-8"))
    assert [panel["verdict"]["kind"] for panel in panels] == ["transfers", "drifts", "undecided"]
    assert panels[1]["sizes"][3]["runs"][-1] == {
        "at": -1.0,
        "mean_loss": None,
        "losses": {"0": None, "1": None},
        "diverged": 2,
    }
    assert panels[0]["law"]["slope"] == pytest.approx(mixed.panels[0].law.slope)


@pytest.mark.parametrize(
    "cells",
    [
        sweep(rates=(-5,)),
        sweep(widths=(64,)),
        sweep(wall=-99),
        sweep(wall=0.5),
        sum((sweep(name=f"p{i}", widths=(128, 2048)) for i in range(7)), []),
    ],
    ids=["one rate", "one width", "all diverged", "walled", "seven panels"],
)
def test_odd_reports_are_drawn_too(cells, tmp_path):
    for path in write_report(report(cells), tmp_path):
        assert path.stat().st_size > 0


def test_plotting_and_tables_are_imported_only_when_used():
    code = (
        "import sys, equimu.reports; "
        "assert not {'matplotlib', 'rich'} & set(sys.modules); "
        "from equimu.reports import *; import tempfile; "
        "cells = [Cell(panel='a', size=8, value=0.1, seed=0, loss=1.0)]; "
        "write_report(report(cells), tempfile.mkdtemp()); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_runs_is_an_error():
    with pytest.raises(EquimuError, match="no finished runs"):
        report([])


def test_run_given_twice_is_an_error():
    cells = sweep()
    again = dataclasses.replace(cells[3], value=cells[3].value * (1 + 1e-9))
    with pytest.raises(EquimuError, match="two runs are given for mup, width 32, log2 LR -6, seed 0"):
        report([*cells, again])


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_learning_rate_without_logarithm_is_an_error(rate):
    with pytest.raises(EquimuError, match="positive"):
        report([dataclasses.replace(sweep()[0], value=rate)])


def fits_on_a_screen(thing):
    lines = repr(thing).splitlines()
    assert str(thing) == repr(thing)
    return len(lines) <= 40 and max(len(line) for line in lines) <= 80


def test_reports_fit_on_a_screen():
    small = report(sweep(seeds=2, noise=0.01))
    assert fits_on_a_screen(small)
    assert "mup: transfers" in repr(small)
    large = report([c for i in range(50) for c in sweep(name=f"panel {i}", seeds=1, rates=(-6, -5, -4), noise=0.1)])
    assert fits_on_a_screen(large)
    for part in (small.panels[0], small.panels[0].curves[0], small.panels[0].fit, small.panels[0].fit.valleys):
        assert len(repr(part)) < 500
