"""The names of parameterizations: what a text may call."""

import inspect
import keyword
from collections.abc import Callable

from equimu._errors import EquimuError, nearest
from equimu._values import check_function, checked
from equimu.parameterization._depth_schemes import completed_p, completep, depth_mup, umup
from equimu.parameterization._parameterization import Parameterization
from equimu.parameterization._schemes import everett, mean_field, mup, ntk, sp, spectral, tpv

_BUILT_IN: dict[str, Callable[..., Parameterization]] = {
    "sp": sp,
    "ntk": ntk,
    "mup": mup,
    "tpv": tpv,
    "everett": everett,
    "mean_field": mean_field,
    "spectral": spectral,
    "depth_mup": depth_mup,
    "completep": completep,
    "completed_p": completed_p,
    "umup": umup,
}
_REGISTERED: dict[str, Callable[..., Parameterization]] = {}


def register_parameterization(name: str, function: Callable[..., Parameterization]) -> None:
    """Gives a function a name by which texts, and so configs and the command line, call it.

    Registering a name again replaces its function.

    Args:
        name: a Python name; `-` is read as `_`.
        function: from its arguments to the `Parameterization`. If it has arguments `optimizer` and `decay`, it is given those
            of the run. Arguments annotated with `Law` take laws, and those annotated with `float` get floats of whole numbers
            too. All are given by name.

    Raises:
        EquimuError: the name is none, or that of a built-in parameterization; or the function has arguments that cannot be
            given by name.

    Example:
        >>> def mine(power: float = 0.5, *, optimizer: Family = "adam") -> Parameterization:
        ...     return Parameterization(name=f"mine-{power:g}", optimizer=optimizer, hidden=Row(lr=width_ratio**-power))
        >>> register_parameterization("mine", mine)
        >>> parameterization_from_text("mine(power=1)")
    """
    plain = checked("the name of a parameterization", name, str).replace("-", "_")
    if not plain.isidentifier() or keyword.iskeyword(plain) or plain.startswith("__"):
        raise EquimuError(f"{name!r} is not a name for a parameterization; write letters, digits and _")
    if plain in _BUILT_IN:
        raise EquimuError(f"{name!r} is a parameterization of equimu's own; choose another name")
    check_function("function", function, "from its arguments to a Parameterization")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        raise EquimuError(f"the function of {name!r} does not tell its arguments; wrap it in one that does") from None
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise EquimuError(f"{parameter.name} of {name!r} cannot be given by name, as a text's arguments are")
    _REGISTERED[plain] = function


def parameterization_names() -> tuple[str, ...]:
    """The names that a text may call: the built-in ones, then the registered ones."""
    return (*_BUILT_IN, *_REGISTERED)


def registered(name: str) -> Callable[..., Parameterization]:
    """The function of a name.

    Raises:
        EquimuError: there is none; tells the nearest valid name.
    """
    found = _BUILT_IN.get(name) or _REGISTERED.get(name)
    if found is None:
        raise EquimuError(f"parameterization {name!r} is unknown: {nearest(name, parameterization_names())}")
    return found
