"""What was tuned, and what that gained, as HTML, for notebooks."""

import html

from equimu._html import html_image, html_table
from equimu.tuning._comparison import Comparison
from equimu.tuning._result import Tuned
from equimu.tuning._write import effect_text
from equimu.tuning._write_comparison import comparison_table, png


def html_tuned(tuned: Tuned) -> str:
    """The best numbers, what each is worth, and the loss.

    Args:
        tuned: what `tune` returned.
    """
    rows = [
        [html.escape(each.name), f"{each.value:.4g}", f"{each.default:.4g}", html.escape(effect_text(each))]
        for each in tuned.effects
    ]
    header = ("number", "best", "default", "loss lost by the default")
    return f"<p>{html.escape(str(tuned))}</p>\n{html_table(header, rows, text=frozenset({0}))}"


def html_comparison(comparison: Comparison) -> str:
    """The sentence, the figure and the table.

    Args:
        comparison: what `compare` returned.
    """
    header, *rows = comparison_table(comparison)
    table = html_table(header, [[html.escape(cell) for cell in row] for row in rows])
    figure = html_image(png(comparison), "png", comparison.sentence)
    return f"<p>{html.escape(comparison.sentence)}</p>\n<figure>{figure}</figure>\n{table}"
