"""Packages that loggers need, which may not be installed."""

import importlib
from collections.abc import Mapping
from typing import Any

from equimu._errors import EquimuError


class MissingPackages(EquimuError):
    """Packages are not installed.

    Args:
        packages: by the loggers that need them, which are called as the extras that bring them.
    """

    def __init__(self, packages: Mapping[str, str]):
        several = len(packages) > 1
        needs = f"s {' and '.join(packages)} need" if several else f" {next(iter(packages))} needs"
        verb = "are" if several else "is"
        install = f"pip install 'equimu[{','.join(packages)}]'"
        super().__init__(f"the logger{needs} {' and '.join(packages.values())}, which {verb} not installed: {install}")
        self.packages = packages


def import_for(logger: str, *modules: str) -> list[Any]:
    """The modules of a package, imported.

    Args:
        logger: that needs it.
        modules: the package first.

    Raises:
        MissingPackages: it is not installed.
    """
    try:
        return list(map(importlib.import_module, modules))
    except ModuleNotFoundError:
        raise MissingPackages({logger: modules[0]}) from None
