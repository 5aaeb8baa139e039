"""Numbers and laws in the text of a call: what they are computed to, and how they are written."""

import ast
import math
import re
from fractions import Fraction
from typing import Any

from equimu._values import Real
from equimu.parameterization._law import Law
from equimu.parameterization._text_source import Source

_LARGEST_POWER = 100  # of a size in a law
_FINEST_POWER = 10**6  # its denominator, as in `Law`


def combined(op: ast.operator, left: Real | Law, right: Real | Law, node: ast.AST, source: Source) -> Real | Law:
    try:
        if isinstance(left, Law) or isinstance(right, Law):
            found = _combined_law(op, left, right)
        else:
            found = _combined_number(op, left, right)
    except (ZeroDivisionError, OverflowError):
        raise source.refusal("holds a number that is too large, or a division by 0", node) from None
    if found is None:
        raise source.refusal("holds what is not a number, and no product of powers of sizes", node)
    if not isinstance(found, Law):
        return plain(found, node, source)
    plain(found.coefficient, node, source)
    if any(abs(e) > _LARGEST_POWER or e.denominator > _FINEST_POWER for _, e in found.exponents):
        message = f"powers go to {_LARGEST_POWER}, in parts of {_FINEST_POWER} at the finest"
        raise source.refusal(f"holds a law with a power that is none ({message})", node)
    return found


def _combined_number(op: ast.operator, left: Real, right: Real) -> Real | None:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow():
            about = float(left) ** float(right)  # overflows at once, where a power of integers would take for ever
            return left**right if isinstance(left, int) and isinstance(right, int) and right >= 0 else about
        case _:
            return None


def _combined_law(op: ast.operator, left: Real | Law, right: Real | Law) -> Law | None:
    match op:
        case ast.Mult():
            return left * right  # pyright: ignore[reportReturnType]  # one of the two is a law
        case ast.Div():
            return left / right  # pyright: ignore[reportReturnType]
        case ast.Pow() if isinstance(left, Law) and not isinstance(right, Law):
            return left**right
        case _:
            return None


def plain(value: Any, node: ast.AST, source: Source) -> Real:
    """A number of the real line that a float can hold; an int if it is whole."""
    try:
        if not isinstance(value, complex) and math.isfinite(float(value)):
            return int(value) if value == int(value) else value
    except OverflowError:
        pass
    raise source.refusal("holds a number that is not real, or too large", node)


def number_text(value: Real) -> str:
    texts = [str(value)] if isinstance(value, int) else []
    if float(value) == value:
        texts.append(re.sub(r"e([+-])0*", lambda m: "e" + m[1].strip("+"), repr(value + 0.0).removesuffix(".0")))
    return min(texts, key=len)


def law_text(law: Law) -> str:
    factors = [s if e == 1 else f"{s}**{_power_text(e)}" for s, e in law.exponents if e != -1]
    if law.coefficient != 1 or not factors:
        factors.insert(0, number_text(law.coefficient))
    return "*".join(factors) + "".join(f"/{s}" for s, e in law.exponents if e == -1)


def _power_text(power: Fraction) -> str:
    decimal = number_text(float(power))
    return decimal if Fraction(decimal) == power else f"({power})"
