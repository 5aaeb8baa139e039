"""What all commands share."""

import abc
from typing import Any, ClassVar

import tyro

from equimu._errors import EquimuError, nearest
from equimu._values import PathLike, checked, hints_of

Place = tyro.conf.Positional[PathLike]


class Command(abc.ABC):
    """A command as its flags, checked.

    - `config_class`: of its field `config`, which `--config FILE` fills and whose task is named on the command line; None for
      commands without one.
    """

    config_class: ClassVar[type | None] = None

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            value: Any = getattr(self, name)
            value = value.plain() if name == "config" and hasattr(value, "plain") else value
            object.__setattr__(self, name, value if name == "config" else checked(name, value, hint))

    @abc.abstractmethod
    def __call__(self) -> None:
        """Runs it."""


def check_format(given: str, *valid: str) -> None:
    """Raises an `EquimuError` unless a format is one of those."""
    if given not in valid:
        raise EquimuError(f"format {given!r} is unknown: {nearest(given, valid)}")
