"""A comparison on disk: a page, a figure and data."""

import io
import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equimu._interval import CONFIDENCE
from equimu.files import local_folder, write_files
from equimu.reports import markdown as report_markdown
from equimu.tuning._comparison import Comparison, Trained
from equimu.tuning._write import markdown as tuned_markdown
from equimu.tuning._write import to_json as tuned_json

_TITLE_WIDTH = 74
# Told apart by colour, marker and dashes each.
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0b5fa5", "marker": "o", "ls": "-", "lw": 2.4, "zorder": 3},
    {"color": "#d1690c", "marker": "s", "ls": "--", "lw": 1.6},
    {"color": "0.35", "marker": "^", "ls": ":", "lw": 1.6},
)


def write_comparison(comparison: Comparison, folder: str | Path) -> tuple[Path, Path, Path]:
    """Writes a comparison as a page, a figure and data.

    Args:
        comparison: what `compare` returned.
        folder: where to; made if it does not exist.

    Returns:
        The paths of `compare.md`, `compare.png` and `compare.json`.

    Raises:
        EquimuError: they cannot be written.
    """
    contents = {
        "compare.md": comparison_markdown(comparison).encode(),
        "compare.png": png(comparison),
        "compare.json": (json.dumps(to_json(comparison), indent=1, allow_nan=False) + "\n").encode(),
    }
    page, figure, data = write_files(local_folder(folder, "the folder of the comparison"), contents)
    return page, figure, data


def methods(comparison: Comparison) -> tuple[tuple[str, Sequence[Trained]], ...]:
    """The three ways to train large models, by name."""
    first = f"{comparison.along} {comparison.carried[0].size}"
    return (
        (f"{comparison.table} tuned at {first}, carried", comparison.carried),
        (f"{comparison.against} tuned at {first}, carried", comparison.other_carried),
        (f"{comparison.against} retuned at each {comparison.along}", comparison.retuned),
    )


def comparison_table(comparison: Comparison) -> list[list[str]]:
    """A heading and one row per size: the loss of each way to train.

    Args:
        comparison: what `compare` found.
    """
    named = methods(comparison)
    rows = [[comparison.along, *(name for name, _ in named)]]
    for each in zip(*(trained for _, trained in named), strict=True):
        rows.append([str(each[0].size), *map(_loss, each)])
    return rows


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as a page."""
    heading, *rows = comparison_table(comparison)
    lines = [
        "# Tuned small, trained large",
        "",
        comparison.sentence,
        "",
        f"![Validation loss over {comparison.along}](compare.png)",
        "",
        f"Validation loss, mean of {len(comparison.carried[0].losses)} seeds ± half of a {CONFIDENCE:.0%} interval. The rate "
        f"of {comparison.against} is the best of its grid by these same seeds, which flatters it a little.",
        "",
        f"| {' | '.join(heading)} |",
        f"|{'---:|' * len(heading)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "## The search",
        "",
        tuned_markdown(comparison.tuned),
        f"## {comparison.against} over {comparison.along}",
        "",
        report_markdown(comparison.report),
    ]
    return "\n".join(lines)


def png(comparison: Comparison) -> bytes:
    """Draws the loss of each way to train over the sizes, as a PNG file."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"text.usetex": False}):
        figure = Figure(figsize=(7.2, 4.5), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        ax: Any = figure.subplots()
        sizes = [each.size for each in comparison.carried]
        for (name, trained), style in zip(methods(comparison), _STYLES, strict=True):
            known = [each for each in trained if math.isfinite(each.loss)]
            x, y = [each.size for each in known], [each.loss for each in known]
            bars = [each.plus_minus or 0.0 for each in known]
            ax.errorbar(x, y, yerr=bars, capsize=3, elinewidth=1, ms=6, label=name, **style)
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.minorticks_off()
        ax.set_xlabel(comparison.along)
        ax.set_ylabel("validation loss")
        ax.grid(alpha=0.25, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=10)
        ax.set_title("\n".join(textwrap.wrap(comparison.sentence, _TITLE_WIDTH)), fontsize=10, loc="left")
        content = io.BytesIO()
        figure.savefig(content, format="png")
        return content.getvalue()


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data; losses that are not finite are None."""
    return {
        "along": comparison.along,
        "against": comparison.against,
        "sentence": comparison.sentence,
        "share": comparison.share,
        "carried": [_plain(each) for each in comparison.carried],
        "grid": [_plain(each) for each in comparison.grid],
        "tuned": tuned_json(comparison.tuned),
        "runs": [run.folder.name for run in comparison.runs],
    }


def _plain(each: Trained) -> dict[str, Any]:
    losses = [loss if math.isfinite(loss) else None for loss in each.losses]
    return {"size": each.size, "learning_rate": each.learning_rate, "losses": losses, "flops": each.flops}


def _loss(each: Trained) -> str:
    return "diverged" if each.plus_minus is None else f"{each.loss:.3f} ± {each.plus_minus:.3f}"
