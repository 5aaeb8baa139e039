"""The numbers of a report as text: for the terminal, and as Markdown."""

import numpy as np

from equimu._terminal import print_rows, wrapped
from equimu._values import Real
from equimu.reports._block import Block, plain, plus_minus
from equimu.reports._cells import Curve
from equimu.reports._fit import Optimum
from equimu.reports._law_table import law_blocks
from equimu.reports._leaf_findings import Leaves
from equimu.reports._regret import Regret
from equimu.reports._report import Panel, Report
from equimu.reports._useful import useful_text

_NOTE = (
    "Mean validation loss over seeds by {title}; the best of each size is marked. "
    "± is half of a 90% interval. Slope: {unit} that the fitted optimum moves per doubling of size; scatter: "
    "{unit} that the optima lie off that law. Regret: loss at the {carried} carried over from the smallest size, less the "
    "size's own best, with its 90% interval; per doubling: how it grows. Above best: loss at the optimum, less that of the "
    "best panel at the same size. Exponent: {unit} that the optimum moves per doubling of one size, the others staying. "
    "Of each leaf: root mean square of its update over that of its weight, how that grows (octaves per doubling), "
    "the share of its entries whose update epsilon decides, and the time in which weight decay alone would "
    "shrink it by a factor of e, over the length of the run (lowest to highest over the sizes)."
)

_RULE = {True: "---", False: "---:"}


def print_table(report: Report) -> None:
    """Prints the report's tables to the terminal; `print_verdicts` is for what they come to.

    Args:
        report: what `report` returned.
    """
    for block in blocks(report):
        rows = [[f"{text}*" if mark else text for text, mark in row] for row in block.rows]
        print_rows(block.header, rows, title=block.short or block.title, text=block.labels, spare=block.spare)


def print_verdicts(report: Report) -> None:
    """Prints the verdict of each panel to the terminal.

    Args:
        report: what `report` returned.
    """
    for panel in report.panels:
        print(wrapped(f"{panel.name}: {panel.verdict.sentence}"))


def markdown(report: Report) -> str:
    """The report's tables as Markdown.

    Args:
        report: what `report` returned.

    Returns:
        A summary and two tables per panel.
    """
    lines: list[str] = [note(report), ""]
    for block in blocks(report):
        lines += [
            f"## {block.title}",
            "",
            _line(block.header),
            _line([_RULE[column in block.labels] for column in range(len(block.header))]),
        ]
        lines += [_line([f"**{text}**" if mark else text for text, mark in row]) for row in block.rows]
        lines.append("")
    return "\n".join(lines)


def note(report: Report) -> str:
    """What the words of the tables mean."""
    axis = report.fitted
    return _NOTE.format(title=axis.title, unit=axis.unit, carried=axis.carried)


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def blocks(report: Report) -> tuple[Block, ...]:
    """The report's tables: a summary, the laws over several sizes, then two or three per panel.

    Args:
        report: what `report` returned.

    Returns:
        The tables, not yet laid out.
    """
    several = len(report.panels) > 1
    tables = [_summary(report), *(block for law in report.laws for block in law_blocks(law))]
    for panel in report.panels:
        tables += [_losses(panel), _optima(panel, several)]
        tables += [] if panel.leaves is None else [_leaves(panel, panel.leaves)]
    return tuple(tables)


def _summary(report: Report) -> Block:
    rows: list[tuple[tuple[str, bool], ...]] = []
    for panel in report.panels:
        law = panel.law
        texts = (
            panel.name,
            panel.verdict.kind,
            "" if law is None else plus_minus(law.slope, law.plus_minus, 2, sign=True),
            "" if law is None or law.scatter is None else f"{law.scatter:.2f}",
            _regret(panel.regrets[-1]) if panel.regrets else "",
            "" if panel.regret_growth is None else plus_minus(panel.regret_growth, None, 3, sign=True),
        )
        rows.append(plain(*texts))
    header = ("panel", "verdict", "slope", "scatter", "regret at largest", "per doubling")
    return Block(
        title=f"Does the best {report.fitted.words} transfer over {report.along}?",
        header=header,
        rows=tuple(rows),
        spare=(3, 5, 4),
    )


def _losses(panel: Panel) -> Block:
    points = sorted({float(point) for curve in panel.curves for point in curve.grid})
    rows: list[tuple[tuple[str, bool], ...]] = []
    for curve, optimum in zip(panel.curves, panel.fit.optima, strict=True):
        losses = tuple((_loss(curve, point), point == optimum.best_point) for point in points)
        loss = "" if optimum.loss is None else f"{optimum.loss:.3f}"
        rows.append((*plain(f"{curve.size:g}"), *losses, *plain(optimum_text(optimum, curve), loss)))
    best = [points.index(optimum.best_point) for optimum in panel.fit.optima if optimum.best_point in points]
    # The loss at the optimum is in the next table too; then go the points that are farthest from any that is best.
    apart = sorted(range(len(points)), key=lambda at: -min((abs(at - other) for other in best), default=0))
    return Block(
        title=f"{panel.name}: {panel.verdict.sentence}",
        short=f"{panel.name}: validation loss, the best of each {panel.curves[0].along} marked",
        header=(panel.curves[0].along, *(panel.curves[0].fitted.text(point) for point in points), "optimum", "loss"),
        rows=tuple(rows),
        spare=(len(points) + 2, *(at + 1 for at in apart)),
    )


def _optima(panel: Panel, several: bool) -> Block:
    rows: list[tuple[tuple[str, bool], ...]] = []
    costs = ("", *(_regret(regret) for regret in panel.regrets))
    for optimum, cost, above in zip(panel.fit.optima, costs, panel.above_best, strict=True):
        loss = "" if optimum.loss is None else plus_minus(optimum.loss, optimum.loss_plus_minus, 3)
        last = ("" if above is None else plus_minus(above, None, 3, sign=True),) if several else ()
        rows.append(plain(f"{optimum.size:g}", loss, cost, *last))
    axis = panel.curves[0].fitted
    value = f"no {axis.carried}"
    if panel.carried is not None:
        value = f"{axis.label} {axis.shown(panel.carried):.{axis.digits}f}"
    along = panel.curves[0].along
    cost = "" if panel.useful is None else f"; {useful_text(panel.useful, along, axis.carried)}"
    return Block(
        title=f"{panel.name}: carrying {value} over from {along} {panel.curves[0].size:g}{cost}",
        header=(along, "loss at the optimum", "regret", *(("above best",) if several else ())),
        rows=tuple(rows),
        spare=(3,) if several else (),
    )


def _leaves(panel: Panel, leaves: Leaves) -> Block:
    """Update over weight at each size; the columns on epsilon and decay only where some leaf has them."""
    shares = any(value is not None for row in leaves.rows for value in row.epsilon_share)
    decays = any(value is not None for row in leaves.rows for value in row.decay)
    rows: list[tuple[tuple[str, bool], ...]] = []
    for row in leaves.rows:
        texts = [row.path, *("" if ratio is None else f"{ratio:.1e}" for ratio in row.ratios)]
        texts.append("" if row.growth is None else plus_minus(row.growth, None, 2, sign=True))
        texts += ["–".join(_ends(row.epsilon_share, "{:.0%}"))] if shares else []
        texts += ["–".join(_ends(row.decay, "{:.2g}"))] if decays else []
        rows.append(plain(*texts))
    along, axis = panel.curves[0].along, panel.curves[0].fitted
    sizes = range(1, len(leaves.sizes) + 1)
    more = range(len(sizes) + 2, len(sizes) + 2 + shares + decays)
    return Block(
        title=f"{panel.name}: update over weight in mid-run, at {axis.label} {axis.text(leaves.point)}",
        header=(
            "leaf",
            *(f"{along} {size:g}" for size in leaves.sizes),
            "per doubling",
            *(("epsilon decides",) if shares else ()),
            *(("decay time / run",) if decays else ()),
        ),
        rows=tuple(rows),
        spare=(*more, *sizes[1:-1], *sizes[:1]),
    )


def _ends(values: tuple[Real | None, ...], form: str) -> list[str]:
    """The lowest and the highest of the values that are known, once if they read alike."""
    known = [value for value in values if value is not None]
    return list(dict.fromkeys(form.format(end) for end in (min(known), max(known)))) if known else []


def _loss(curve: Curve, point: Real) -> str:
    at = np.flatnonzero(curve.grid == point)
    if not len(at):
        return ""
    column, diverged = curve.losses[:, at[0]], int(curve.diverged[at[0]])
    finished = column[np.isfinite(column)]
    if diverged:
        return f"div. {diverged}/{diverged + len(finished)}" if len(finished) else "div."
    return f"{finished.mean():.3f}"


def optimum_text(optimum: Optimum, curve: Curve) -> str:
    """The optimum of a size, or what is known of it."""
    axis = curve.fitted
    if optimum.point is not None:
        wall = " (beside a divergence)" if optimum.status == "walled" else ""
        half = None if optimum.plus_minus is None else axis.shown(optimum.plus_minus)
        return plus_minus(axis.shown(optimum.point), half, axis.digits) + wall
    if optimum.status != "edge" or optimum.best_point is None or len(curve.grid) == 1:
        return "not known"
    side = "≤" if optimum.best_point == curve.grid[0] else "≥"
    return f"{side} {axis.text(optimum.best_point)} (edge)"


def _regret(regret: Regret) -> str:
    if regret.value is None:
        return "diverges" if regret.status == "diverged" else "not known"
    text = plus_minus(regret.value, None, 3, sign=True)
    if regret.low is not None and regret.high is not None:
        text += f" ({regret.low + 0.0:.3f} to {regret.high:.3f})"
    return f"at least {text}" if regret.status == "at least" else text
