"""Every annotation of the package is checked at each call: by beartype, and where it has shapes, through jaxtyping.

What jaxtyping does at a call to hold the shapes of its arguments together costs more than the checks themselves, so what
has no shapes in its annotations is left to beartype alone. `test_typed_surface.py` has jaxtyping's own hook for all.
"""

import functools
import inspect
import typing

import beartype
import jaxtyping
from jaxtyping import _decorator

_jaxtyped = _decorator.jaxtyped
# The error that jaxtyping raises: a TypeError, as Python's own would be.
_beartype = beartype.beartype(conf=beartype.BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def check_annotations(package: str) -> None:
    """Has every function and dataclass of a package checked that is imported from now on."""
    _decorator.jaxtyped = _checked
    jaxtyping.install_import_hook(package, "beartype.beartype").__enter__()


def _checked(function: typing.Any, *, typechecker: typing.Any) -> typing.Any:
    if not inspect.isfunction(function) or _has_shapes(function):
        return _jaxtyped(function, typechecker=typechecker)
    held = _beartype(function)

    @functools.wraps(function)
    def wrapped(*args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        __tracebackhide__ = True
        return (function if jaxtyping.config.jaxtyping_disable else held)(*args, **kwargs)

    return wrapped


def _has_shapes(function: typing.Any) -> bool:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError:  # a name that is bound later
        return True
    return any(map(_is_of_shapes, hints.values()))


def _is_of_shapes(hint: typing.Any) -> bool:
    if isinstance(hint, list | tuple):  # the arguments of a Callable
        return any(map(_is_of_shapes, hint))
    return getattr(hint, "__module__", "").startswith("jaxtyping") or any(map(_is_of_shapes, typing.get_args(hint)))
