"""What all commands share."""

import abc
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import tyro

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Printing(Command):
    """A command that prints a table or figures, as text or as JSON."""

    json: bool = False
    """Print one object of JSON in the place of text."""


def print_data(paths: Iterable[Path]) -> None:
    """Prints the file of JSON among those that a command has written."""
    print(next(path for path in paths if path.suffix == ".json").read_text(), end="")
