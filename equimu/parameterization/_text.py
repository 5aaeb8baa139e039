"""A parameterization as text: the table that it calls for, and its one spelling."""

from collections.abc import Callable
from typing import Any

from equimu._errors import EquimuError, printable
from equimu._values import shown
from equimu.parameterization._parameterization import Parameterization
from equimu.parameterization._registry import registered
from equimu.parameterization._rule import DecayRule, Family
from equimu.parameterization._text_calls import LONGEST, OF_RUN, calls_of


def parameterization_from_text(
    text: str, *, optimizer: Family | None = None, decay: DecayRule | None = None
) -> Parameterization:
    """The table that a text such as `"mup(form=absolute)"` calls for.

    A text is the name of a parameterization with its arguments as in Python, and after it any of the operations `tune`,
    `replace`, `shift`, `with_depth`, `with_eps`, `with_plain_decay` and `with_start`. Words and paths need no quotes; numbers
    may be computed; where an argument is a law, the sizes in `Dimensions` may stand. Empty brackets of the name may be left
    out, and `-` may stand for `_` in it. Nothing of the text is executed but these functions.

    Args:
        text: for example `"mup"`, `"tpv(9)"`, `"everett(sp, alignment=none)"`, `"completep(alpha=0.5).with_eps(lr)"`,
            `"mup.tune(output, multiplier=4).tune(blocks.mlp, lr=2**-1)"`, `"sp.replace(hidden, lr=1/width_ratio)"`.
        optimizer: the family of update rules, for functions with that argument unless it is written in the text; None for
            their default.
        decay: the rule of weight decay, likewise.

    Returns:
        What the function returns, after the operations.

    Raises:
        EquimuError: the text is not such a call, with the place; a name or an argument is unknown, with the nearest valid
            one; or the function refuses a value.
    """
    first, *operations = calls_of(text)
    arguments = dict(first.arguments)
    for name, value in zip(OF_RUN, (optimizer, decay), strict=True):
        if value is not None and first.takes(name):
            arguments.setdefault(name, value)
    table = _applied(first.name, registered(first.name), arguments)
    for operation in operations:
        table = _applied(operation.name, getattr(table, operation.name), operation.arguments)
    return table


def canonical_text(text: str) -> str:
    """The one spelling of a call: equal calls, and only those, have equal texts. For identities and labels.

    Arguments that are equal to their defaults are left out, but for `optimizer` and `decay`, which a run decides otherwise.
    Arguments that have no default stand in front without their names, the others after them with theirs, in the order of the
    function. Numbers are as short as they can be. For example `"tpv(8, form='absolute')"` is `"tpv(form=absolute)"`.

    Args:
        text: as in `parameterization_from_text`.

    Raises:
        EquimuError: the text is not such a call. Values are not checked: only the functions can.
    """
    found = ".".join(call.text() for call in calls_of(text))
    if len(found) > LONGEST:
        raise EquimuError(f"a parameterization has at most {LONGEST} characters, and this one {len(found)} written out")
    return found


def _applied(name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Parameterization:
    try:
        table = function(**arguments)
    except EquimuError as error:
        raise EquimuError(printable(error)) from error
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        (message, *_) = str(error).splitlines() or [type(error).__name__]
        raise EquimuError(f"{name} cannot be called so: {printable(message)}") from error
    if not isinstance(table, Parameterization):
        raise EquimuError(f"{name} must make a Parameterization, and made {shown(table)}")
    return table
