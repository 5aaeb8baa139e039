"""What the help of a command says of its flags: the sentences that stand below fields, whole."""

import ast
import dataclasses
import functools
import inspect
import io
import itertools
import textwrap
import tokenize
import typing
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from equimu._values import hints_of

REGISTRY = ConstructorRegistry()


@REGISTRY.struct_rule
def _dataclass(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Flags of a dataclass: sentences broken where the terminal ends and not where the source does."""
    if not dataclasses.is_dataclass(info.type):
        return None
    cls = typing.cast(type[Any], info.type)
    own = info.default if isinstance(info.default, cls) else None
    hints = hints_of(cls)
    fields = [
        StructFieldSpec(
            name=field.name,
            type=_with_words(field, hints[field.name], functools.partial(_sentence, cls, field.name)),
            default=_default(field) if own is None else getattr(own, field.name),
            helptext=functools.partial(_sentence, cls, field.name),
        )
        for field in dataclasses.fields(cls)
        if field.init
    ]
    return StructConstructorSpec(instantiate=cls, fields=tuple(fields))


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    # A class is the default of its own flags, which are asked one by one.
    if field.default_factory is dataclasses.MISSING or isinstance(field.default_factory, type):
        return tyro.MISSING_NONPROP
    return field.default_factory()


def _with_words(field: "dataclasses.Field[Any]", hint: Any, sentence: functools.partial[str | None]) -> Any:
    """A field's type, with what is printed of its value and its default; what the type itself says of these comes first."""
    plain, *own = (hint.__origin__, *hint.__metadata__) if typing.get_origin(hint) is Annotated else (hint,)
    metavar = None
    if tyro.conf.Positional in own and typing.get_origin(plain) is not Literal:
        name = field.name.upper()
        required = field.default is dataclasses.MISSING
        several = typing.get_origin(plain) is tuple
        metavar = f"[{name.removesuffix('S')} ...]" if several else name if required else f"[{name}]"
    words = tyro.conf.arg(metavar=metavar, help_behavior_hint=lambda default: _hint(default, sentence() or ""))
    return Annotated[(plain, words, *own)]  # pyright: ignore


def _hint(default: str, sentence: str) -> str:
    """The default of a flag, where it is a value, or a None that the sentence speaks of."""
    return "" if not default or (default == "None" and "None" not in sentence) else f"(default: {default})"


def _sentence(cls: type, name: str) -> str | None:
    """What stands below a field in its class, or in a comment, as one line."""
    return next((words[name] for each in cls.__mro__ if name in (words := _sentences(each))), None)


@functools.cache
def _sentences(cls: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
        (made,) = ast.parse(source).body
    except (OSError, TypeError, ValueError, SyntaxError):  # a class without a file
        return {}
    if not isinstance(made, ast.ClassDef):
        return {}
    above, beside = _comments(source)
    found: dict[str, str] = {}
    for statement, after in itertools.pairwise((*made.body, None)):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        match after:
            case ast.Expr(value=ast.Constant(value=str(text))):
                pass
            case _:
                lines = [*itertools.takewhile(above.__contains__, range(statement.lineno - 1, 0, -1))][::-1]
                text = beside.get(statement.end_lineno or 0) or " ".join(above[line] for line in lines)
        if text:
            found[statement.target.id] = " ".join(text.split())
    return found


def _comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """The comments of a text of Python by their lines: those that have a line of their own, and those beside something."""
    found: tuple[dict[int, str], dict[int, str]] = {}, {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found[not token.line.lstrip().startswith("#")][token.start[0]] = token.string.lstrip("#: ")
    return found
