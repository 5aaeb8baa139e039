"""What a notebook shows of trees, checks, reports and searches, and the notebook among the examples."""

import ast
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]


def shown(code, names):
    """What a notebook shows of a cell: its last expression, as HTML if it can."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return None if value is None else value._repr_html_()


class Balanced(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in ("img", "br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_notebook_is_stored_without_outputs():
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_links_of_the_notebook_lead_somewhere():
    for cell in CELLS:
        for link in re.findall(r"\]\((?!http)([^)#]+)", "".join(cell["source"])):
            assert (NOTEBOOK.parent / link.replace("\n", "")).exists(), link


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_promises(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    found = [shown("".join(cell["source"]), names) for cell in CELLS if cell["cell_type"] == "code"]
    shows = [html for html in found if html is not None]
    for html in shows:
        Balanced(html)
    table, check, report, tuned = shows
    assert "mlp.layers[1].weight" in table and "0.125" in table
    assert names["check"].passed and "<img" in check and "Arrays" in check
    assert "<img" in report and "mup: " in report and "sp: " in report
    assert "output.multiplier" in tuned
    assert names["large"].validation_loss < names["tuned"].loss < names["tuned"].default_loss + 0.1
    assert "width 256 with the same numbers" in capsys.readouterr().out
