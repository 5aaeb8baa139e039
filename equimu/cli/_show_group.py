"""`equimu show GROUP`: what groups of experiments of the paper are."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from equimu._errors import EquimuError, nearest
from equimu._terminal import table_lines, terminal_width
from equimu.cli._words import instead
from equimu.presets import Group, group, group_meant, groups, groups_of, means_all
from equimu.runs import config_to_dict, flat
from equimu.sweeps import SweepConfig, cells

_FIRST = "baseline"
_CLAIMS = {True: "transfers", False: "does not", None: "–"}
_COLUMNS = 80  # where there is no terminal


def shown_groups(words: Sequence[str]) -> tuple[str, ...]:
    """The names of the groups that are to be shown.

    Raises:
        EquimuError: a word is none of them.
    """
    for word in words:
        if not means_all([word]) and group_meant(word) is None:
            raise EquimuError(
                f"{word[:99]!r} is neither a task, as my.py:NextByte is, nor a group of the paper: "
                f"{instead(word, 'show') or nearest(word, groups())}"
            )
    return groups_of(words)


def print_groups(words: Sequence[str], scale: str) -> None:
    """Prints a line of each group, where words ask for all; else what each changes, and what the paper says of it."""
    width = terminal_width() or _COLUMNS
    if means_all(words):
        print("\n".join(_list(width)))
        return
    for index, name in enumerate(groups_of(words)):
        print("\n".join([*([""] if index else []), *_lines(group(name), scale, width)]))


def groups_to_json(names: Sequence[str], scale: str) -> str:
    """The same as data."""
    return json.dumps({"scale": scale, "groups": {name: _data(group(name), scale) for name in names}}, indent=1)


def _list(width: int) -> list[str]:
    rows = [(name, _CLAIMS[group(name).claim], group(name).text) for name in groups()]
    room = (
        width - max(len(line) for line in table_lines(("group", "the rate", ""), [(*row[:2], "") for row in rows])) - 2
    )
    rows = [(*row[:2], textwrap.shorten(row[2], max(room, 20), placeholder=" …")) for row in rows]
    lines = table_lines(("group", "the rate", "what it changes"), rows, text=(0, 1, 2))
    return [
        *lines,
        "",
        *textwrap.wrap(
            "The rate: what the paper says of the best learning rate as the width grows. equimu show GROUP tells all of a "
            "group; equimu reproduce GROUP runs it; --config paper:GROUP gives it to other commands.",
            width,
        ),
    ]


def _lines(mine: Group, scale: str, width: int) -> list[str]:
    values, before = _differences(mine, scale)
    longest = max(map(len, values), default=0)
    lines = [*textwrap.wrap(f"{mine.name}: {mine.text}", width), *textwrap.wrap(mine.says, width)]
    for path, value in values.items():
        was = f"  (baseline: {_text(before[path])})" if path in before else ""
        lines += textwrap.wrap(
            f"  {path:{longest}}  {_text(value)}{was}",
            width,
            subsequent_indent=" " * (longest + 4),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return [*lines, f"equimu reproduce {mine.name} --scale {scale}"]


def _data(mine: Group, scale: str) -> dict[str, Any]:
    values, before = _differences(mine, scale)
    return {
        "text": mine.text,
        "claim": mine.claim,
        "paper_best": list(mine.best),
        "values": values,
        "baseline": before,
    }


def _differences(mine: Group, scale: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a group has that the baseline has not, and what the baseline has there; of the baseline, all and nothing."""
    own, first = _values(mine.sweep(scale)), _values(group(_FIRST).sweep(scale))
    if mine.name == _FIRST:
        return own, {}
    values = {path: value for path, value in own.items() if value != first.get(path)}
    return values, {path: first.get(path) for path in values}


def _values(config: SweepConfig) -> dict[str, Any]:
    """What a sweep is, by paths."""
    run = dict(flat(config_to_dict(next(cells(config)))))
    for path in ("parameterization", "size.width", "optimizer.learning_rate", "seed"):  # the sweep's
        del run[path]
    known = {path: value for path, value in run.items() if value is not None}
    widths, rates = (list(next(iter(axis.values()))) for axis in (config.over, config.fit))
    return {"table": config.panels[0], "widths": widths, "learning rates": rates, **known}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{each:.4g}" if isinstance(each, float) else str(each) for each in value)  # pyright: ignore
    return "none" if value is None else str(value)
