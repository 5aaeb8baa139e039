import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text()], ids=lambda p: p.stem)
def test_python_of_a_page_runs(page, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    names = {"eqx": __import__("equinox"), "optax": __import__("optax"), "mu": __import__("equimu")}
    if page.stem == "trees":
        # The page speaks of a layer and a tree that the reader has.
        setup = """
import functools, jax
class MyLayer(eqx.Module):
    weight: jax.Array
    bias: jax.Array
make = functools.partial(mu.nn.Transformer, vocab_size=7, n_layer=2, head_dim=4)
tree = mu.parameterize(make, mu.mup(), base={"d_model": 8}, target={"d_model": 16})
"""
        code = setup + code
    if page.stem in ("sweeps", "tune"):
        text = f"mu.tasks.TextConfig(corpus={corpus!r}, seq=8, rows=2)"
        code = code.replace("mu.LanguageModel()", f"mu.LanguageModel(text={text})")
        code = re.sub(r"\bsteps=(500|20)\b", "steps=2", code)
    exec(compile(code, str(page), "exec"), names)


def test_rule_tables_are_those_of_the_code():
    made = subprocess.run([sys.executable, ROOT / "docs" / "make_rules.py"], capture_output=True, text=True, check=True)
    assert made.stdout == (ROOT / "docs" / "rules.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_import_is_light():
    # Seconds of the processor, the best of five, as shares of what jax, equinox and optax take to import: of
    # `import equimu`, and of all its names above those three.
    code = (
        "import sys, time; t = time.process_time(); import equimu; print(time.process_time() - t, 'jax' in sys.modules);"
        "t = time.process_time(); import jax, equinox, optax; print(time.process_time() - t);"
        "t = time.process_time(); [getattr(equimu, name) for name in equimu.__all__ "
        "if name not in ('diagnostics', 'coord_check', 'register_sites')]; print(time.process_time() - t);"
        "print(*(sys.modules.keys() & {'grain', 'tensorstore', 'tyro', 'rich', 'matplotlib', 'tokenizers'}))"
    )
    costs = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        alone, foundations, names, heavy = done.stdout.splitlines()
        assert alone.endswith("False") and heavy == ""
        costs.append((float(alone.split()[0]) / float(foundations), float(names) / float(foundations)))
    assert min(alone for alone, _ in costs) <= 0.1 and min(names for _, names in costs) <= 0.7, costs
