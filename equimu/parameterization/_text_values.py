"""The values in the text of a call: words, numbers and laws, from Python's syntax tree and back. Nothing is executed."""

import ast
from typing import Any, TypeAlias

from equimu._errors import EquimuError, nearest
from equimu._values import Real
from equimu.parameterization._law import SYMBOLS, Law, symbol
from equimu.parameterization._text_arithmetic import combined, law_text, number_text, plain
from equimu.parameterization._text_source import Source

Value: TypeAlias = str | Real | None | Law

_DEEPEST = 30  # values inside values


def value_of(node: ast.expr, source: Source, *, laws: bool, depth: int = 0) -> Value:
    """The value that an argument is written as.

    Args:
        node: the argument.
        source: the text that it is in.
        laws: whether the names of sizes are laws, or words as all others.
        depth: how many values it is inside of.

    Raises:
        EquimuError: it is none.
    """
    if depth > _DEEPEST:
        raise source.refusal("has values too deep inside others")
    if isinstance(node, ast.Constant):
        return _constant(node, source)
    if laws and isinstance(node, ast.Name) and node.id in SYMBOLS:
        return symbol(node.id)
    word = _word(node, source, depth)
    if word is not None:
        return word
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        factor = -1 if isinstance(node.op, ast.USub) else 1
        return combined(ast.Mult(), factor, _operand(node.operand, source, laws, depth), node, source)
    if isinstance(node, ast.BinOp):
        left, right = (_operand(side, source, laws, depth) for side in (node.left, node.right))
        return combined(node.op, left, right, node, source)
    raise source.refusal("holds what is not a word, number or law", node)


def value_text(value: Any, *, laws: bool) -> str:
    """A value as `value_of` reads it, in its one spelling."""
    if isinstance(value, bool | None):
        return str(value)
    if isinstance(value, Law):
        return law_text(value)
    if not isinstance(value, str):
        return number_text(value)
    try:
        source = Source(value)
        return value if value_of(source.parse(), source, laws=laws) == value else repr(value)
    except EquimuError:
        return repr(value)


def _constant(node: ast.Constant, source: Source) -> Value:
    value = node.value
    if isinstance(value, bool | None):
        return value
    if isinstance(value, str):
        if not value.isprintable():
            raise source.refusal("holds a text with characters that cannot be printed", node)
        return value
    if isinstance(value, int | float):
        return plain(value, node, source)
    raise source.refusal("holds what is not a word, number or law", node)


def _word(node: ast.expr, source: Source, depth: int) -> str | None:
    """A name, a path (`blocks[0].mlp`) or names with hyphens as one word; None if it is something else."""
    end = ""
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute):
            _refuse_dunder(node.attr, node, source)
            end = f".{node.attr}{end}"
        else:
            key = value_of(node.slice, source, laws=False, depth=depth + 1)
            if not isinstance(key, int | str) or isinstance(key, bool):
                raise source.refusal("has a path with a key that is not a number or text", node)
            end = f"[{key!r}]{end}"
        node = node.value
    if isinstance(node, ast.Name):
        _refuse_dunder(node.id, node, source)
        return node.id + end
    if end:
        raise source.refusal("has a path that does not begin with a name", node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and depth < _DEEPEST:
        left, right = (_word(side, source, depth + 1) for side in (node.left, node.right))
        return None if left is None or right is None else f"{left}-{right}"
    return None


def _refuse_dunder(name: str, node: ast.AST, source: Source) -> None:
    if name.startswith("__"):
        raise source.refusal(f"holds {name[:40]!r}, which no word begins like", node)


def _operand(node: ast.expr, source: Source, laws: bool, depth: int) -> Real | Law:
    value = value_of(node, source, laws=laws, depth=depth + 1)
    if isinstance(value, bool | str | None):
        if laws and isinstance(node, ast.Name):
            raise EquimuError(f"{node.id!r} is not a size of a leaf: {nearest(node.id, SYMBOLS)}")
        what = "a number or a size of a leaf" if laws else "a number"
        raise source.refusal(f"computes with what is not {what}", node)
    return value
