"""Pages of HTML that are one file: they open without a network, light and dark, wide and narrow. Notebooks show their parts."""

import base64
import html
import importlib.metadata
import platform
from collections.abc import Iterable, Sequence

_LIBRARIES = ("equimu", "jax", "equinox", "optax", "numpy")

# A figure is drawn for a light ground; on a dark one its lightness is turned around, and its hues stay.
_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --ground: #ffffff; --soft: #5d6570; --line: #d8dde3; --tint: #f4f6f8;
  --link: #0b5fa5; --mark: #146c2e; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e3e6ea; --ground: #15181c; --soft: #9aa4af; --line: #343a41; --tint: #1d2126; --link: #7ab8f5;
    --mark: #7fd69a; }
  figure img { filter: invert(0.93) hue-rotate(180deg) brightness(1.3); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1rem 4rem; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.3rem; }
a { color: var(--link); } .soft { color: var(--soft); font-size: 0.9rem; }
code, pre { font: 0.88em/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; background: var(--tint);
  border-radius: 4px; } code { padding: 0.1em 0.3em; } pre { padding: 0.6rem 0.8rem; overflow-x: auto; }
figure { margin: 1rem 0; overflow-x: auto; } figure img { display: block; width: 100%; min-width: 22rem; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th.text, td.text { text-align: left; }
td.wraps { white-space: normal; min-width: 16rem; overflow-wrap: break-word; }
td b { color: var(--mark); } td b::after { content: "*"; }
details { margin: 0.8rem 0; } summary { cursor: pointer; color: var(--soft); }
"""


def html_page(title: str, sections: Iterable[str]) -> str:
    """A page in one file.

    Args:
        title: in plain text.
        sections: of HTML, from top to bottom.

    Returns:
        The page, with the versions of the libraries at its end.
    """
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{html.escape(title)}</h1>\n{body}\n<p class="soft">{html.escape(versions())}</p>\n</body>\n</html>\n'
    )


def html_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text: frozenset[int] = frozenset(),
    wraps: frozenset[int] = frozenset(),
) -> str:
    """A table.

    Args:
        header: of its columns, in plain text.
        rows: of cells, in HTML.
        text: the columns that are not numbers.
        wraps: those of them whose texts may take several lines.

    Returns:
        HTML, within a box that scrolls where the window is narrow.
    """

    def kind(column: int) -> str:
        words = ["text"] * (column in text) + ["wraps"] * (column in wraps)
        return f' class="{" ".join(words)}"' if words else ""

    head = "".join(f'<th scope="col"{kind(n)}>{html.escape(name)}</th>' for n, name in enumerate(header))
    body = "\n".join(f"<tr>{''.join(f'<td{kind(n)}>{cell}</td>' for n, cell in enumerate(row))}</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def html_image(content: bytes, kind: str, words: str) -> str:
    """An image within the page.

    Args:
        content: of the file.
        kind: of the file: `"png"` or `"svg+xml"`.
        words: what it shows, for those who do not see it.
    """
    data = base64.b64encode(content).decode()
    return f'<img src="data:image/{kind};base64,{data}" alt="{html.escape(words)}">'


def versions() -> str:
    """Of Python and of the libraries that the numbers come from."""
    found = [f"Python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
