"""A parameterization as plain JSON types, exactly."""

import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from equimu._errors import EquimuError, nearest, printable
from equimu._values import NotNegative, Real, check, check_keys, checked, is_traced, shown
from equimu.parameterization._law import SYMBOLS, Law
from equimu.parameterization._parameterization import BaseConstants, Parameterization, Row, StartRule
from equimu.parameterization._rule import NUMBERS, ROLES, DecayRule, Family

_FRACTION = re.compile(r"-?[0-9]+(/[0-9]+)?")
_TEXTS: dict[str, Any] = {"name": str, "optimizer": Family, "decay": DecayRule, "start": StartRule}


def parameterization_to_dict(table: Parameterization) -> dict[str, Any]:
    """A table as plain JSON types; `parameterization_from_dict` reads it back exactly.

    Laws are numbers where they are constant, and otherwise `{"coefficient": 2.0, "exponents": {"fan_in": "-1/2"}}`. Factors
    of 1 are left out.

    Args:
        table: the table of laws.

    Raises:
        EquimuError: a number is traced, or none that a table may have.
    """
    check(Parameterization, table=table)
    rows = {role: _row_to_dict(role, table.row(role)) for role in ROLES}
    constants = [_constants_to_dict(base) for base in table.constants]
    texts = {name: getattr(table, name) for name in _TEXTS}
    return {**texts, "rows": rows, "branch": _law_to_dict(table.branch, "branch"), "constants": constants}


def parameterization_from_dict(values: Mapping[str, Any]) -> Parameterization:
    """The table that `parameterization_to_dict` wrote.

    Args:
        values: plain JSON types. What is left out, but for the name and the rows, is as in `Parameterization()`.

    Raises:
        EquimuError: an unknown key or size (with the nearest valid one), a value of the wrong type, no name, or no rows.
    """
    _check_keys("a parameterization", values, (*_TEXTS, "rows", "branch", "constants"))
    if "name" not in values:
        raise EquimuError(f"a parameterization has a name, and this one only {', '.join(values) or 'nothing'}")
    found: dict[str, Any] = {n: checked(n, values[n], hint) for n, hint in _TEXTS.items() if n in values}
    rows = values.get("rows", {})
    _check_keys("rows", rows, ROLES)
    for role, laws in rows.items():
        _check_keys(f"rows.{role}", laws, NUMBERS)
        found[role] = Row(**{n: _law_from_dict(law, f"rows.{role}.{n}") for n, law in laws.items()})
    if "branch" in values:
        found["branch"] = _law_from_dict(values["branch"], "branch")
    constants = tuple(map(_constants_from_dict, checked("constants", values.get("constants", []), list)))
    if "rows" not in values:
        raise EquimuError(
            f"the parameterization {values['name']!r} has no rows of laws; a table of equimu's is written as the call that "
            "makes it, e.g. parameterization = 'mup'"
        )
    return Parameterization(**found, constants=constants)


def _row_to_dict(role: str, row: Row) -> dict[str, Any]:
    laws = {n: _law_to_dict(getattr(row, n), f"{role}.{n}") for n in NUMBERS}
    return {n: law for n, law in laws.items() if n == "init_std" or law != 1}


def _constants_to_dict(base: BaseConstants) -> dict[str, Any]:
    factors = {n: _factor(base.where, n, getattr(base, n)) for n in NUMBERS}
    return {"where": base.where} | {n: factor for n, factor in factors.items() if factor != 1}


def _law_to_dict(law: Law, where: str) -> Any:
    coefficient = _number(where, law.coefficient, float)
    if not law.exponents:
        return coefficient
    return {"coefficient": coefficient, "exponents": {s: str(Fraction(e)) for s, e in law.exponents}}


def _law_from_dict(value: Any, where: str) -> Law:
    if not isinstance(value, Mapping):
        return Law(checked(where, value, float))
    law = typing.cast(Mapping[str, Any], value)
    _check_keys(where, law, ("coefficient", "exponents"))
    exponents = law.get("exponents", {})
    _check_keys(f"{where}.exponents", exponents, SYMBOLS)
    powers = sorted((s, _fraction(e, f"{where}.exponents.{s}")) for s, e in exponents.items())
    coefficient = checked(f"{where}.coefficient", law.get("coefficient", 1.0), float)
    return Law(coefficient, tuple((s, e) for s, e in powers if e != 0))


def _fraction(value: Any, where: str) -> Fraction:
    try:
        if isinstance(value, str) and _FRACTION.fullmatch(value):
            return Fraction(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return Fraction(value)
    except (ValueError, ZeroDivisionError):
        pass
    raise EquimuError(f'{where} must be a fraction such as "-1/2", got {shown(value)}')


def _constants_from_dict(value: Any) -> BaseConstants:
    _check_keys("constants", value, [field.name for field in dataclasses.fields(BaseConstants)])
    if "where" not in value:
        raise EquimuError(f"constants must say where, got {shown(value)}")
    where = checked("where of constants", value["where"], str)
    factors = {n: _factor(where, n, factor) for n, factor in value.items() if n != "where"}
    return BaseConstants(where=where, **factors)


def _factor(where: str, number: str, value: Any) -> Real:
    return _number(f"{number} of {printable(where)}", value, float if number == "multiplier" else NotNegative)


def _number(where: str, value: Any, hint: Any) -> Real:
    if is_traced(value):
        raise EquimuError(f"{where} is traced, so the table cannot be written; write it outside of jit and vmap")
    return checked(where, value, hint)


def _check_keys(where: str, values: Any, valid: Iterable[str]) -> None:
    check_keys(where, values)
    for key in values:
        if key not in valid:
            raise EquimuError(f"{where} has an unknown key {shown(key)}: {nearest(key[:99], valid)}")
