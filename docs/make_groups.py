"""Writes the table of the paper's experiments into `guides/paper.md`, from their presets: `python docs/make_groups.py`."""

import re
from pathlib import Path

from equimu.presets import Group, group, groups

PAGE = Path(__file__).parent / "guides" / "paper.md"
# The table stands on the page between these.
BEGIN, END = "<!-- written by docs/make_groups.py -->\n", "<!-- end of what is written -->\n"
CLAIMS = {True: "yes", False: "no", None: "–"}


def with_table(page: str) -> str:
    """The text of the page, with the table of the presets in the place of its own."""
    rows = [["group", "what it changes", "transfers", "best log2&nbsp;α"], ["---"] * 4]
    rows += [_row(group(name)) for name in groups()]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    return re.sub(f"(?<={BEGIN}).*(?={END})", lambda _: f"\n{table}\n", page, flags=re.DOTALL)


def _row(each: Group) -> list[str]:
    return [f"`{each.name}`", each.text, CLAIMS[each.claim], ",&nbsp;".join(f"−{-best}" for best in each.best)]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
