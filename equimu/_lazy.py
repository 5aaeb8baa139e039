"""Names and methods that are imported when they are first asked for."""

import ast
import importlib
import pkgutil
import sys
from collections.abc import Callable
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package, by the imports that its stub, `__init__.pyi`, re-exports.

    Args:
        package: its dotted name.

    Returns:
        The two functions and the names.
    """
    stub = ast.parse(pkgutil.get_data(package, "__init__.pyi") or b"")
    lines = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    source = {alias.name: node.module or "" for node in lines for alias in node.names}

    def get(name: str) -> Any:
        if name not in source:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
        module = importlib.import_module(source[name])
        if module is sys.modules[package]:
            return importlib.import_module(f"{package}.{name}")
        found = getattr(module, name)
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *source})

    # jaxtyping's hook checks what is imported while it is installed: in `with install_import_hook(...)` that is now or never.
    if any(type(finder).__module__.startswith("jaxtyping.") for finder in sys.meta_path):
        for name in source:
            get(name)
    return get, names, sorted(source)


def late_method(module: str, function: str) -> Callable[[Any], Any]:
    """A method that is a function of another file, which needs the class: for how an object is shown.

    Args:
        module: the file's dotted name.
        function: its name there; it takes the object.
    """

    def method(self: Any) -> Any:
        return getattr(importlib.import_module(module), function)(self)

    method.__name__ = function
    return method
