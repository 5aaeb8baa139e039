"""The documentation: what its pages show runs, its links lead somewhere, and every public name stands in the reference."""

import contextlib
import glob
import io
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import jaxtyping
import pytest
from pages import DOCS, PAGES, ROOT, anchors, blocks, commands, prose
from public_names import public_names, public_packages
from tiers import long_but

import equimu
from equimu.cli import main
from equimu.cli._main import _parse
from equimu.presets import groups

# Files that a reader has whose name stands in a command.
READERS = {
    "my.toml": "steps = 20",
    "sweep.toml": (ROOT / "examples" / "transfer.toml").read_text(),
    "runs/tune/run.json": "{}",
    "llama.json": "{}",
    "my.py": (ROOT / "examples" / "gru.py").read_text(),
}
# Commands that take a blink are run; of the others the flags and the files are looked at.
QUICK = {"show", "verdict", "doctor", "completion", "help", "--version"}
# Pages that are one chain, whose commands are run between their Python.
CHAINS = {"text"}
# Pages that train, compile or search for more than three seconds.
LONG = {
    "any-model",
    "attention",
    "choose",
    "coordinate-check",
    "from-other-codes",
    "own-model",
    "plan",
    "runs",
    "sweeps",
    "text",
    "tune",
}


@pytest.fixture
def as_users_have_it(monkeypatch):
    """Without the checks of annotations that the tests are run with."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(
    "page",
    long_but(
        [page for page in PAGES if page.stem not in LONG], [page for page in PAGES if "```python" in page.read_text()]
    ),
    ids=lambda page: page.stem,
)
@pytest.mark.usefixtures("as_users_have_it")
def test_python_of_a_page_runs_as_it_stands(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, object] = {}
    printed = ""
    for block in blocks(page):
        if block.file:
            Path(block.file).write_text(block.text)
        elif block.language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(block.text, str(page), "exec"), names)
            printed = out.getvalue()
        elif block.language == "sh" and page.stem in CHAINS:
            for words in commands(block):
                _run(words)
        elif block.language == "text" and printed:  # what the block before it prints
            for passage in re.split(r"^\.\.\.$", block.text, flags=re.MULTILINE):
                _check_printed(passage, printed)
        if block.language != "python":
            printed = ""
    for name in {Path(block.file).stem for block in blocks(page) if block.file.endswith(".py")}:
        sys.modules.pop(name, None)


def _run(words):
    """A command, as a shell runs it."""
    words = [each for word in words for each in sorted(glob.glob(word)) or [word]]
    if words[0] == "equimu":
        with pytest.raises(SystemExit) as stop:
            main(words[1:])
        assert stop.value.code == 0, words
    elif words[0] == "python" and "transformers" not in Path(words[1]).read_text():  # which is not of the tests
        subprocess.run([sys.executable, *words[1:]], check=True)


_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def _check_printed(passage, printed):
    """What a page shows was printed, however its lines are broken; measured numbers may differ a little."""
    shown, printed = " ".join(passage.split()), " ".join(printed.split())
    pattern = "([-+]?[0-9.]+)".join(map(re.escape, _NUMBER.split(shown)))
    found = re.search(pattern, printed)
    assert found, (shown, printed)
    for there, here in zip(_NUMBER.findall(shown), found.groups(), strict=True):
        assert float(here) == pytest.approx(float(there), rel=0.05, abs=0.05), (shown, found.group())


@pytest.mark.parametrize("page", [page for page in PAGES if "```sh" in page.read_text()], ids=lambda page: page.stem)
@pytest.mark.usefixtures("as_users_have_it")
def test_commands_of_a_page_are_right(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", "examples")
    for file, text in READERS.items():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text)
    for block in blocks(page):
        if block.file:
            Path(block.file).write_text(block.text)
        elif block.language == "sh":
            for words in commands(block):
                _check(words, capsys)


def _check(words, capsys):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    match words:
        case ["equimu", name, *flags]:
            if name in QUICK and all(Path(each).exists() for each in flags if each.endswith(".csv")):
                with pytest.raises(SystemExit) as stop:
                    main([name, *flags])
                assert stop.value.code == 0, capsys.readouterr().err
            else:
                _parse([name, *flags])
        case ["python", "-m", module, *flags]:
            file = ROOT.joinpath(*module.split("."))
            source = (file / "__main__.py" if file.is_dir() else file.with_suffix(".py")).read_text()
            for flag in (each for each in flags if each.startswith("--")):
                field = flag.removeprefix("--").replace("-", "_")
                assert f'"{flag}"' in source or re.search(rf"^    {field}:", source, re.MULTILINE), (module, flag)
        case ["python", file, *_]:
            assert Path(file).exists() or (ROOT / file).exists(), file
        case ["pip", "install", *what]:
            asked = [name for each in what for name in re.findall(r"\[(.*)\]", each)]
            assert {name for each in asked for name in each.split(",")} <= extras.keys(), what
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
        case _:
            assert words[0] in ("parallel", "sbatch", "git", "cd"), words


def test_every_block_says_what_it_is():
    languages = {"python", "sh", "text", "toml"}
    for page in PAGES:
        text = page.read_text()
        assert {block.language for block in blocks(page)} <= languages, page
        assert 2 * len(blocks(page)) == len(re.findall("^```", text, re.MULTILINE)), page


def test_rule_tables_are_those_of_the_code():
    made = subprocess.run([sys.executable, ROOT / "docs" / "make_rules.py"], capture_output=True, text=True, check=True)
    assert made.stdout == (ROOT / "docs" / "rules.md").read_text()


def test_groups_of_the_paper_are_those_of_the_presets():
    sys.path.append(str(DOCS))
    try:
        from make_groups import PAGE, with_table
    finally:
        sys.path.remove(str(DOCS))
    page = PAGE.read_text()
    assert with_table(page) == page
    assert "`lion_abs`" in page and f"All {len(groups())} groups" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)]+)\)", prose(page)):
        name, _, anchor = link.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


def test_every_page_is_in_the_menu_and_in_llms_txt():
    menu = re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert sorted(menu) == pages
    listed = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): \S", (DOCS / "llms.txt").read_text(), re.MULTILINE)
    assert sorted(listed) == pages


def test_every_public_name_is_in_the_reference_once():
    names = public_names()
    canonical = {alias: name for name, (_, aliases) in names.items() for alias in aliases}
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    listed = re.findall(r"^::: (\S+)", pages, re.MULTILINE)
    assert [name for name in listed if name not in canonical] == []
    times = Counter(canonical[name] for name in listed)
    assert {name: times[name] for name in names if times[name] != 1} == {}
    index = (DOCS / "api" / "index.md").read_text()
    assert [name for name in public_packages() if f"`{name}`" not in index] == []
    assert {f"equimu.{name}" for name in equimu.__all__} <= canonical.keys() | set(public_packages())


def test_every_public_name_is_described_with_its_arguments():
    silent, missing = [], {}
    for name, (what, _) in public_names().items():
        silent += [] if what.documentation else [name]
        missing[name] = {each for each in what.arguments if not re.search(rf"\b{re.escape(each)}\b", what.described)}
    assert silent == []
    assert {name: each for name, each in missing.items() if each} == {}


def test_the_citation_has_the_version_of_the_package():
    cited = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^(title|version): (.*)$", cited, re.MULTILINE) == [
        ("title", "equimu"),
        ("version", equimu.__version__),
    ]


@pytest.mark.long
def test_import_is_light():
    # Seconds of the processor, the best of three, as shares of what jax, equinox and optax take to import: of
    # `import equimu`, and of all its names above those three.
    code = (
        "import sys, time; t = time.process_time(); import equimu; print(time.process_time() - t, 'jax' in sys.modules);"
        "t = time.process_time(); import jax, equinox, optax; print(time.process_time() - t);"
        "t = time.process_time(); [getattr(equimu, name) for name in equimu.__all__ "
        "if name not in ('diagnostics', 'coord_check', 'register_sites')]; print(time.process_time() - t);"
        "print(*(sys.modules.keys() & {'grain', 'tensorstore', 'tyro', 'rich', 'matplotlib', 'tokenizers'}))"
    )
    costs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        alone, foundations, names, heavy = done.stdout.splitlines()
        assert alone.endswith("False") and heavy == ""
        costs.append((float(alone.split()[0]) / float(foundations), float(names) / float(foundations)))
    assert min(alone for alone, _ in costs) <= 0.1 and min(names for _, names in costs) <= 0.7, costs
