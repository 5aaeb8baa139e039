"""The public names of the package with their signatures, one a line, as the sources have them.

`python tests/signatures.py` writes them to `tests/signatures.txt`, with which a test compares them.
"""

import ast
import dataclasses
import inspect
import textwrap
from pathlib import Path

import equimu

FILE = Path(__file__).with_suffix(".txt")


def signatures():
    return [_line(name, getattr(equimu, name)) for name in equimu.__all__]


def _line(name, found):
    if inspect.ismodule(found):
        return f"{name}: module"
    if inspect.isclass(found):
        return f"{name}({_fields(found)})"
    if not inspect.isfunction(found):
        return f"{name}: {type(found).__name__}"
    node = _source(inspect.unwrap(found))
    return f"{name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"


def _fields(cls):
    written = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("equimu."):
            for node in _source(base).body:
                if isinstance(node, ast.AnnAssign):
                    written[ast.unparse(node.target)] = ast.unparse(node)
    if not dataclasses.is_dataclass(cls):
        return ", ".join(written[name] for name in getattr(cls, "_fields", ()))  # of a named tuple
    fields = [field for field in dataclasses.fields(cls) if field.init]
    by_position = [written[field.name] for field in fields if not field.kw_only]
    by_name = [written[field.name] for field in fields if field.kw_only]
    return ", ".join([*by_position, *(["*", *by_name] if by_name else [])])


def _source(found):
    return ast.parse(textwrap.dedent(inspect.getsource(found))).body[0]


if __name__ == "__main__":
    FILE.write_text("\n".join(signatures()) + "\n")
