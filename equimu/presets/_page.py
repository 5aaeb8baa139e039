"""What was reproduced of the paper, as a page with a report for each group."""

import collections
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equimu.files import local_folder, write_files
from equimu.presets._paper import scale_text
from equimu.presets._reproduce import Reproduced
from equimu.reports import markdown, write_report

_CLAIMS = {True: "transfers", False: "does not", None: ""}


def write_reproduction(found: Sequence[Reproduced], scale: str, folder: str | Path) -> tuple[Path, Path]:
    """Writes a page that has the paper's claims beside what was found, and a report for each group.

    Args:
        found: what `reproduce` returned.
        scale: of the runs.
        folder: where to; made if it does not exist.

    Returns:
        The paths of `paper.md` and `paper.json`.

    Raises:
        EquimuError: they cannot be written.
    """
    root = local_folder(folder, "the folder of the page")
    for each in found:
        write_report(each.report, root / each.group.name)
    data = {each.group.name: _data(each) for each in found}
    contents = {
        "paper.md": page(found, scale).encode(),
        "paper.json": (json.dumps({"scale": scale, "groups": data}, indent=1, allow_nan=False) + "\n").encode(),
    }
    page_path, data_path = write_files(root, contents)
    return page_path, data_path


def summary(found: Sequence[Reproduced]) -> str:
    """How many groups agree with the paper."""
    counts = collections.Counter(each.agreement for each in found)
    texts = [f"agreeing with the paper {counts['agrees']}", f"disagreeing {counts['disagrees']}"]
    texts += [f"undecided {counts['undecided']}"]
    if counts["no claim"]:
        texts += [f"without a claim of the paper {counts['no claim']}"]
    return f"{len(found)} {'group' if len(found) == 1 else 'groups'}: {', '.join(texts)}"


def summary_rows(found: Sequence[Reproduced]) -> list[list[str]]:
    """A heading and a row per group, as texts."""
    rows = [["group", "best log2 α", "paper's", "slope", "verdict", "paper", ""]]
    for each in found:
        law = each.panel.law
        slope = "" if law is None else f"{law.slope:+.2f}" + (f" ± {law.plus_minus:.2f}" if law.plus_minus else "")
        kind = "drifts harmlessly" if each.panel.verdict.harmless else each.panel.verdict.kind
        best = " ".join("div." if point is None else f"{point:g}" for point in each.best)
        theirs = " ".join(map(str, each.group.best))
        rows.append([each.group.name, best, theirs, slope, kind, _CLAIMS[each.group.claim], each.agreement])
    return rows


def page(found: Sequence[Reproduced], scale: str) -> str:
    """The page in Markdown."""
    heading, *rows = ([text.replace("|", "\\|") for text in row] for row in summary_rows(found))
    lines = [
        "# A Large-Scale Exploration of μ-Transfer",
        "",
        f"Groups of experiments of arXiv 2404.05728 at the scale `{scale}`: {scale_text(scale)}. {summary(found)}.",
        "",
        "α is the learning rate as the paper counts it. Its criterion is that the best α of the grid is the same at all",
        "widths; the verdict here is on the slope of the fitted optimum, with its uncertainty over seeds.",
        "",
        f"| {' | '.join(heading)} |",
        f"|{'---|' * len(heading)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    for each in found:
        lines += ["", f"## {each.group.name}", "", f"{each.group.text.capitalize()}."]
        claim = _CLAIMS[each.group.claim]
        lines += ["", f"The paper: {claim or 'says nothing'}. Here: {each.panel.verdict.sentence}.", ""]
        command = f"equimu reproduce {each.group.name} --scale {scale}"
        lines += [f"`{command}`", "", f"![Loss against learning rate]({each.group.name}/report.png)", ""]
        lines += [markdown(each.report).rstrip()]
    return "\n".join(lines) + "\n"


def _data(each: Reproduced) -> dict[str, Any]:
    return {
        "claim": each.group.claim,
        "paper_best": list(each.group.best),
        "best": list(each.best),
        "verdict": each.panel.verdict.kind,
        "harmless": each.panel.verdict.harmless,
        "agreement": each.agreement,
        "runs": [run.folder.name for run in each.runs],
    }
