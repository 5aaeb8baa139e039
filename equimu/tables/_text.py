"""Tables in one file: CSV, JSON Lines, or a JSON list."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError
from equimu._json import loads
from equimu.tables._row import Row


def csv_rows(path: Path, text: str) -> list[Row]:
    """The rows of a table whose first line names the columns, with commas, tabs or semicolons between them."""
    head = text.partition("\n")[0]
    between = max(",", "\t", ";", key=head.count)
    reader = csv.reader(io.StringIO(text), delimiter=between, strict=True)
    rows: list[Row] = []
    try:
        names = [name.strip() for name in next(reader, [])]
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice is not None:
            raise EquimuError(f"{path} has two columns {twice!r}; rename one of them")
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            where = f"line {reader.line_num}"
            if len(fields) != len(names):
                raise EquimuError(
                    f"{path}, {where}, has {len(fields)} fields and the first line {len(names)}; make them one"
                )
            rows.append(Row(where=where, values=dict(zip(names, fields, strict=True))))
    except csv.Error as error:
        raise EquimuError(f"{path}, line {reader.line_num}, is not CSV: {error}") from None
    if not rows:
        raise EquimuError(
            f"{path} holds no rows; give a table whose first line names its columns, and a row for each run"
        )
    return rows


def json_rows(path: Path, text: str) -> list[Row]:
    """The objects of a JSON list, or one on each line. What is nested is named by its path, as in `config.lr`."""
    try:
        if text.lstrip().startswith("["):
            objects = [(f"item {number}", each) for number, each in enumerate(loads(text), 1)]
        else:
            lines = enumerate(text.splitlines(), 1)
            objects = [(f"line {number}", _object(number, line)) for number, line in lines if line.strip()]
    except ValueError as error:
        raise EquimuError(f"{path} is not JSON Lines, nor a JSON list: {error}; give one object for each row") from None
    wrong = next((where for where, each in objects if not isinstance(each, Mapping)), None)
    if wrong is not None or not objects:
        raise EquimuError(
            f'{path}, {wrong or "as a whole"}, holds no object; give one for each row: {{"lr": 0.01, ...}}'
        )
    return [Row(where=where, values=dict(flattened(each))) for where, each in objects]


def flattened(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested objects by their paths, with dots between; lists are left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{within}{name}.")
        elif not isinstance(value, list):
            yield within + name, value


def _object(number: int, line: str) -> Any:
    try:
        return loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
