"""What was reproduced of the paper, as a page in HTML and in Markdown, and as data."""

import collections
import html
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equimu._html import html_page, html_table
from equimu.files import local_folder, write_files
from equimu.presets._paper import groups, scale_text
from equimu.presets._reproduce import Reproduced
from equimu.reports import html_report, markdown, write_report

_TITLE = "A Large-Scale Exploration of μ-Transfer"
_CLAIMS = {True: "transfers", False: "does not", None: ""}
_SIGNS = {"agrees": "✓", "disagrees": "✗", "undecided": "?", "no claim": "–"}
_CRITERION = (
    "α is the learning rate as the paper counts it. The paper says that it transfers where the best α of its grid is the same "
    "at all widths: that is the column “best log2 α”, of the paper's grid. The verdict here is on the slope of the fitted "
    "optimum, in octaves per doubling of the width, with its uncertainty over seeds."
)


def write_reproduction(
    found: Sequence[Reproduced], scale: str, folder: str | Path, *, flags: Sequence[str] = ()
) -> tuple[Path, Path, Path]:
    """Writes pages that have the paper's claims beside what was found, and a report for each group.

    Args:
        found: what `reproduce` returned.
        scale: of the runs.
        folder: where to; made if it does not exist.
        flags: with which `equimu reproduce` runs the same; by default the scale alone.

    Returns:
        The paths of `paper.html`, which is one file, `paper.md` and `paper.json`.

    Raises:
        EquimuError: they cannot be written.
    """
    root = local_folder(folder, "the folder of the page")
    for each in found:
        write_report(each.report, root / each.group.name)
    data = {each.group.name: _data(each) for each in found}
    contents = {
        "paper.html": _html(found, scale, flags or ["--scale", scale]).encode(),
        "paper.md": _markdown(found, scale, flags or ["--scale", scale]).encode(),
        "paper.json": (json.dumps({"scale": scale, "groups": data}, indent=1, allow_nan=False) + "\n").encode(),
    }
    html_path, page_path, data_path = write_files(root, contents)
    return html_path, page_path, data_path


def summary(found: Sequence[Reproduced]) -> str:
    """How many groups agree with the paper.

    Args:
        found: the groups.
    """
    counts = collections.Counter(each.agreement for each in found)
    texts = [f"agreeing with the paper {counts['agrees']}", f"disagreeing {counts['disagrees']}"]
    texts += [f"undecided {counts['undecided']}"]
    if counts["no claim"]:
        texts += [f"without a claim of the paper {counts['no claim']}"]
    return f"{len(found)} {'group' if len(found) == 1 else 'groups'}: {', '.join(texts)}"


def criterion_summary(found: Sequence[Reproduced]) -> str:
    """How many of the paper's claims hold by its own criterion."""
    claimed = [each for each in found if each.group.claim is not None and each.same_best is not None]
    same = sum(each.same_best == each.group.claim for each in claimed)
    return f"by the paper's own criterion {same} of {len(claimed)} claims hold"


def summary_rows(found: Sequence[Reproduced]) -> list[list[str]]:
    """A heading and a row per group, as texts.

    Args:
        found: the groups.
    """
    rows = [["group", "best log2 α", "paper's", "slope", "verdict", "paper", "agreement"]]
    for each in found:
        law = each.panel.law
        slope = "" if law is None else f"{law.slope:+.2f}" + (f" ± {law.plus_minus:.2f}" if law.plus_minus else "")
        kind = "drifts harmlessly" if each.panel.verdict.harmless else each.panel.verdict.kind
        theirs = " ".join(map(str, each.group.best))
        rows.append([each.group.name, each.best_text, theirs, slope, kind, _CLAIMS[each.group.claim], each.agreement])
    return rows


def _html(found: Sequence[Reproduced], scale: str, flags: Sequence[str]) -> str:
    heading, *rows = summary_rows(found)
    names = [each.group.name for each in found]
    table = [
        [f'<a href="#{row[0]}">{row[0]}</a>', *map(html.escape, row[1:-1]), f"{_SIGNS[row[-1]]} {row[-1]}"]
        for row in rows
    ]
    sections = [
        f"<p>Groups of experiments of arXiv 2404.05728 at the scale <code>{html.escape(scale)}</code>: "
        f"{html.escape(scale_text(scale, names))}. <b>{html.escape(summary(found))}</b>; "
        f"{html.escape(criterion_summary(found))}.</p>",
        f"<pre>{html.escape(reproduce_command(names, flags))}</pre>",
        f"<p>{html.escape(_CRITERION)}</p>",
        html_table(heading, table, text=frozenset(range(len(heading)))),
    ]
    reasons = _reasons(found)
    if reasons:
        sections += [
            "<h2>Why not</h2>",
            html_table(
                ["group", "agreement", "reason"],
                [[f'<a href="#{name}">{name}</a>', kind, html.escape(text)] for name, kind, text in reasons],
                text=frozenset({0, 1, 2}),
                wraps=frozenset({2}),
            ),
        ]
    for each in found:
        sections += [f'<h2 id="{each.group.name}">{each.group.name}</h2>', f"<p>{html.escape(_told(each))}</p>"]
        sections += [f"<pre>{html.escape(reproduce_command([each.group.name], flags))}</pre>", html_report(each.report)]
        runs = " ".join(f"<code>{run.folder.name}</code>" for run in each.runs)
        sections += [f"<details><summary>{len(each.runs)} runs</summary><p>{runs}</p></details>"]
    return html_page(_TITLE, sections)


def _markdown(found: Sequence[Reproduced], scale: str, flags: Sequence[str]) -> str:
    heading, *rows = ([text.replace("|", "\\|") for text in row] for row in summary_rows(found))
    names = [each.group.name for each in found]
    lines = [
        f"# {_TITLE}",
        "",
        f"Groups of experiments of arXiv 2404.05728 at the scale `{scale}`: {scale_text(scale, names)}. {summary(found)}; "
        f"{criterion_summary(found)}.",
        "",
        f"`{reproduce_command(names, flags)}`",
        "",
        _CRITERION,
        "",
        f"| {' | '.join(heading)} |",
        f"|{'---|' * len(heading)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    reasons = _reasons(found)
    if reasons:
        lines += ["", "## Why not", "", *(f"- {name} ({kind}): {text}" for name, kind, text in reasons)]
    for each in found:
        lines += [
            "",
            f"## {each.group.name}",
            "",
            _told(each),
            "",
            f"`{reproduce_command([each.group.name], flags)}`",
            "",
        ]
        lines += [f"![Loss against learning rate]({each.group.name}/report.png)", "", markdown(each.report).rstrip()]
    return "\n".join(lines) + "\n"


def _reasons(found: Sequence[Reproduced]) -> list[tuple[str, str, str]]:
    """The groups that do not agree with what the paper says, with the reason."""
    return [(each.group.name, each.agreement, each.reason) for each in found if each.reason is not None]


def _told(each: Reproduced) -> str:
    says = each.group.says
    return f"{each.group.text}. {says[0].upper()}{says[1:]}. Here: {each.panel.verdict.sentence}."


def reproduce_command(names: Sequence[str], flags: Sequence[str]) -> str:
    """The command that runs groups.

    Args:
        names: of the groups.
        flags: and what follows them.
    """
    every = set(names) == set(groups())
    return shlex.join(["equimu", "reproduce", *(["all"] if every else names), *flags])


def _data(each: Reproduced) -> dict[str, Any]:
    return {
        "claim": each.group.claim,
        "paper_best": list(each.group.best),
        "best": list(each.best),
        "same_best": each.same_best,
        "verdict": each.panel.verdict.kind,
        "harmless": each.panel.verdict.harmless,
        "agreement": each.agreement,
        "reason": each.reason,
        "runs": [run.folder.name for run in each.runs],
    }
