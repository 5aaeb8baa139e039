"""The calls in the text of a parameterization, with their arguments by name."""

import ast
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from equimu._errors import EquimuError, nearest
from equimu._values import checked, shown
from equimu.parameterization._law import Law, as_law
from equimu.parameterization._parameterization import Parameterization
from equimu.parameterization._registry import registered
from equimu.parameterization._text_source import Source
from equimu.parameterization._text_values import Value, value_of, value_text

LONGEST = 1000  # characters
OF_RUN = ("optimizer", "decay")  # what is not written is the run's, and not the function's default
_OPERATIONS = ("tune", "replace", "shift", "with_depth", "with_eps", "with_plain_decay", "with_start")
_NAME = re.compile(r"[^\W\d]\w*(?:-[^\W\d]\w*)*")


@dataclasses.dataclass(frozen=True)
class _Parameter:
    """What a text has to know of a function's argument."""

    kind: Any
    default: Any
    takes_law: bool
    takes_float: bool

    @property
    def by_position(self) -> bool:
        return self.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD

    @property
    def takes_any(self) -> bool:
        return self.kind == inspect.Parameter.VAR_KEYWORD

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty and not self.takes_any

    def converted(self, value: Value) -> Value:
        """A value as the function is given it: whole numbers and constant laws as what the argument takes."""
        if isinstance(value, Law):
            return value.coefficient if self.takes_float and not value.exponents else value
        if isinstance(value, bool | str | None):
            return value
        if self.takes_float:
            return float(value)
        return as_law(value) if self.takes_law else value

    def is_default(self, value: Value) -> bool:
        plain = isinstance(self.default, str | int | float | None | Law)
        return plain and isinstance(value, bool) == isinstance(self.default, bool) and value == self.default


@dataclasses.dataclass(frozen=True)
class Call:
    """A name and the arguments that are written, in the order of the function."""

    name: str
    parameters: dict[str, _Parameter]
    arguments: dict[str, Value]

    def takes(self, name: str) -> bool:
        """Whether the function has an argument of this name."""
        return name in self.parameters or any(p.takes_any for p in self.parameters.values())

    def text(self) -> str:
        """The call in its one spelling."""
        written: list[str] = []
        in_front = [n for n, p in self.parameters.items() if p.by_position and p.required]
        for name, value in self.arguments.items():
            parameter = _parameter(self.parameters, name)
            plain = value_text(value, laws=parameter.takes_law)
            if len(written) < len(in_front) and name == in_front[len(written)] and name not in OF_RUN:
                written.append(plain)
            elif name in OF_RUN or not parameter.is_default(value):
                written.append(f"{name}={plain}")
        return f"{self.name}({', '.join(written)})" if written or self.name in _OPERATIONS else self.name


def calls_of(text: str) -> Iterator[Call]:
    """The call of the parameterization, then those of its operations.

    Raises:
        EquimuError: the text is none of these; see `parameterization_from_text`.
    """
    plain = re.sub(r"[\r\n\t]", " ", checked("a parameterization", text, str)).strip()
    if len(plain) > LONGEST:
        raise EquimuError(f"a parameterization has at most {LONGEST} characters, got {len(plain)}")
    if not plain.isprintable():
        raise EquimuError(f"parameterization {shown(plain)} holds characters that cannot be printed")
    name = _NAME.match(plain)
    if name is not None:
        plain = name[0].replace("-", "_") + plain[name.end() :]
    source = Source(plain)
    operations: list[tuple[str, ast.Call]] = []
    node = source.parse()
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr not in _OPERATIONS:
            message = nearest(node.func.attr, _OPERATIONS)
            raise EquimuError(f"a parameterization has no operation {node.func.attr!r}: {message}")
        operations.append((node.func.attr, node))
        node = node.func.value
    call, node = (node, node.func) if isinstance(node, ast.Call) else (None, node)
    if not isinstance(node, ast.Name):
        raise source.refusal("is not a call; write a name with its arguments, such as mup(form=absolute)", node)
    yield _bound(node.id, _parameters(registered(node.id)), call, source)
    for operation, call in reversed(operations):
        parameters = _parameters(getattr(Parameterization, operation))
        yield _bound(operation, {n: p for n, p in parameters.items() if n != "self"}, call, source)


def _bound(name: str, parameters: dict[str, _Parameter], call: ast.Call | None, source: Source) -> Call:
    """The arguments of a call by their names."""
    nodes = {} if call is None else _nodes(name, parameters, call, source)
    missing = [n for n, p in parameters.items() if p.required and n not in nodes and n not in OF_RUN]
    if missing:
        raise EquimuError(f"{name} needs {missing[0]}: write {name}({missing[0]}=...)")
    order = {n: place for place, n in enumerate(parameters)}
    arguments: dict[str, Value] = {}
    for argument in sorted(nodes, key=lambda n: (order.get(n, len(order)), n)):
        parameter = _parameter(parameters, argument)
        arguments[argument] = parameter.converted(value_of(nodes[argument], source, laws=parameter.takes_law))
    return Call(name, parameters, arguments)


def _nodes(name: str, parameters: dict[str, _Parameter], call: ast.Call, source: Source) -> dict[str, ast.expr]:
    by_position = [n for n, p in parameters.items() if p.by_position]
    if len(call.args) > len(by_position):
        message = f"only {', '.join(by_position)}" if by_position else "none"
        raise EquimuError(f"{name} takes {message} without its name, got {len(call.args)} values")
    nodes = dict(zip(by_position, call.args, strict=False))
    named = [n for n, p in parameters.items() if not p.takes_any]
    for keyword in call.keywords:
        argument = keyword.arg
        if argument is None:
            raise source.refusal("unpacks arguments; write them out", keyword.value)
        if argument in nodes:
            raise EquimuError(f"{name} is given {argument} twice")
        if argument not in named and (len(named) == len(parameters) or argument.startswith("__")):
            message = nearest(argument, named) if named else "it has none"
            raise EquimuError(f"{name} has no argument {argument!r}: {message}")
        nodes[argument] = keyword.value
    return nodes


def _parameters(function: Callable[..., Any]) -> dict[str, _Parameter]:
    try:
        hints = typing.get_type_hints(function)
    except (TypeError, NameError, AttributeError, SyntaxError):  # what cannot be read takes neither laws nor floats
        hints: dict[str, Any] = {}
    found: dict[str, _Parameter] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name)
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        options = typing.get_args(hint) if union else (hint,)
        takes_float = float in options
        found[name] = _Parameter(parameter.kind, parameter.default, Law in options, takes_float)
    return found


def _parameter(parameters: dict[str, _Parameter], name: str) -> _Parameter:
    """Of that name, or else the one that takes all others."""
    return parameters.get(name) or next(p for p in parameters.values() if p.takes_any)
