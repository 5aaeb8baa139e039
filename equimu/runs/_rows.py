"""The rows of a run as lines of text, each with a check of itself, of the rows before it and of which run it is.

A row's speed and its share of the devices' peak are a matter of time and not in its check, so runs of equal bits have equal
checks. The file as a whole, byte by byte, is known to the run's checkpoints and, when the run has ended, to `done`.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from equimu._json import loads

_SPEED, _UTILIZATION = "_per_second", "mfu"
_CHECK = "check"
# A checkpoint holds the text of the rows up to this size, so that they can be had from there.
_KEPT_BYTES = 2**20


class Rows:
    """The rows that a run has written so far.

    Args:
        run: the hash that names the run.
    """

    def __init__(self, run: str):
        self._check = run
        self._digest = hashlib.sha256()
        self._size = 0
        self._text: list[bytes] | None = []

    def add(self, row: Mapping[str, Any]) -> bytes:
        """The line of the next row. Numbers that are not finite become null."""
        clean = _clean(row)
        self._check = _check(self._check, clean)
        line = json.dumps({**clean, _CHECK: self._check}).encode() + b"\n"
        self._digest.update(line)
        self._size += len(line)
        if self._text is not None:
            self._text.append(line)
            if self._size > _KEPT_BYTES:
                self._text = None
        return line

    @property
    def sha256(self) -> str:
        """Of all lines."""
        return self._digest.hexdigest()

    @property
    def mark(self) -> dict[str, Any]:
        """What tells these rows from others, in plain JSON types, with their text where it is short."""
        text = None if self._text is None else b"".join(self._text).decode()
        return {"bytes": self._size, "sha256": self.sha256, "text": text}


def read_rows(content: bytes, run: str, *, checked: bool) -> list[dict[str, Any]]:
    """The rows of a file, without their checks.

    Args:
        content: of the file.
        run: the hash that names the run.
        checked: whether they must have checks; rows of older versions have none.

    Raises:
        ValueError: a row is not what this run wrote.
    """
    rows: list[dict[str, Any]] = []
    check = run
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            row = loads(line)
        except ValueError as error:
            raise ValueError(f"row {number} of metrics.jsonl is unreadable: {error}") from None
        if not _is_row(row):
            raise ValueError(f"row {number} of metrics.jsonl is not a row")
        found = row.pop(_CHECK, None)
        check = _check(check, row)
        if found != (check if checked else None):
            raise ValueError(f"row {number} of metrics.jsonl is not what this run wrote there")
        rows.append(row)
    if not content.endswith(b"\n") and content:
        raise ValueError(f"row {len(rows) + 1} of metrics.jsonl is cut off")
    return rows


def is_mark(mark: Any) -> bool:
    """Whether it is what `Rows.mark` makes."""
    if not isinstance(mark, dict) or set(mark) != {"bytes", "sha256", "text"}:
        return False
    size, text = mark["bytes"], mark["text"]
    return isinstance(size, int) and 0 <= size < 2**63 and (text is None or isinstance(text, str))


def taken_up(content: bytes, mark: Mapping[str, Any]) -> bytes | None:
    """The lines that a mark was made of, where a file begins with them."""
    begin = content[: mark["bytes"]]
    return begin if hashlib.sha256(begin).hexdigest() == mark["sha256"] else None


def seal(run: str, status: str, sha256: str) -> str:
    """A check of how a run ended, and with which rows."""
    return hashlib.sha256(json.dumps([run, status, sha256]).encode()).hexdigest()[:16]


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        items: Mapping[str, Any] = value
        return {key: _clean(each) for key, each in items.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(before: str, row: Mapping[str, Any]) -> str:
    timeless = {key: value for key, value in row.items() if not key.endswith(_SPEED) and key != _UTILIZATION}
    return hashlib.sha256(json.dumps([before, timeless]).encode()).hexdigest()[:16]


def _is_row(row: Any) -> bool:
    """Whether it is of the shape that others rely on. A stranger's file may have checks that are right."""
    if not isinstance(row, dict) or not isinstance(row.get("step"), int) or not 0 <= row["step"] < 2**63:
        return False
    parts = ("leaves", "metrics", "validation_metrics")
    numbers = [value for key, value in row.items() if key not in (*parts, _CHECK)]
    for name in ("metrics", "validation_metrics"):
        if not isinstance(row.get(name, {}), dict):
            return False
        numbers += row.get(name, {}).values()
    leaves = row.get("leaves", {})
    if not isinstance(leaves, dict) or not all(isinstance(leaf, dict) for leaf in leaves.values()):
        return False
    numbers += [value for leaf in leaves.values() for value in leaf.values()]
    return all(value is None or (isinstance(value, int | float) and math.isfinite(value)) for value in numbers)
