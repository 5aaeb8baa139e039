"""The public names of the library, read off its sources without importing them."""

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Definition:
    """What a name stands for: where it is defined, by which statement, and what stands after that."""

    name: str
    node: ast.stmt
    after: ast.stmt | None

    @property
    def documentation(self) -> str:
        if isinstance(self.node, ast.FunctionDef | ast.ClassDef):
            return ast.get_docstring(self.node) or ""
        said = self.after.value if isinstance(self.after, ast.Expr) else None
        return said.value if isinstance(said, ast.Constant) and isinstance(said.value, str) else ""

    @property
    def arguments(self) -> set[str]:
        """Those of a function, or of what makes an object of a class, that its documentation has to name."""
        if isinstance(self.node, ast.FunctionDef):
            return _named(self.node.args)
        if not isinstance(self.node, ast.ClassDef):
            return set()
        own = _method(self.node, "__init__")
        if own is not None:
            return _named(own.args) - {"self"}
        found: set[str] = set()
        for field, after in zip(self.node.body, [*self.node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if not said and not ast.unparse(field.annotation).startswith("ClassVar"):
                    found.add(field.target.id)
        return {name for name in found if not name.startswith("_")}

    @property
    def described(self) -> str:
        """The texts that may name the arguments."""
        own = _method(self.node, "__init__") if isinstance(self.node, ast.ClassDef) else None
        return self.documentation + ("" if own is None else ast.get_docstring(own) or "")

    @property
    def functions(self) -> list["Callable"]:
        """A function, or the methods of a class that users call: its public ones, and what makes an object of it."""
        if isinstance(self.node, ast.FunctionDef):
            return [Callable(self.node.name, self.node, self.documentation)]
        found: list[Callable] = []
        for each in self.node.body if isinstance(self.node, ast.ClassDef) else []:
            makes = each.name in ("__init__", "__post_init__") if isinstance(each, ast.FunctionDef) else False
            if isinstance(each, ast.FunctionDef) and (makes or each.name == "__call__" or each.name[0] != "_"):
                said = (ast.get_docstring(each) or "") + (self.documentation if makes else "")
                found.append(Callable(f"{self.name}.{each.name}", each, said))
        return found


# What raises an EquimuError for an argument that cannot be.
_CHECKS = {"check", "check_choice", "check_fields", "check_function", "checked", "path_text", "EquimuError"}


@dataclass(frozen=True)
class Callable:
    """A function or method, and what is said of it."""

    name: str
    node: ast.FunctionDef
    documentation: str

    @property
    def raises(self) -> bool:
        """Whether it raises an `EquimuError` by itself, functions inside of it apart."""
        waiting: list[ast.AST] = list(self.node.body)
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CHECKS:
                return True
            if not isinstance(node, ast.FunctionDef | ast.Lambda):
                waiting += ast.iter_child_nodes(node)
        return False

    @property
    def unshaped(self) -> list[str]:
        """The arguments, and `return`, whose annotation has arrays without a shape."""
        arguments = self.node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        annotations = {each.arg: each.annotation for each in every} | {"return": self.node.returns}
        return [name for name, annotation in annotations.items() if annotation is not None and _has_bare(annotation)]


def _has_bare(annotation: ast.AST) -> bool:
    """Whether an array stands in an annotation without a shape: `Float[Array, "rows"]` has one."""
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):
        _, *shape = annotation.slice.elts
        if len(shape) == 1 and isinstance(shape[0], ast.Constant) and isinstance(shape[0].value, str):
            return False
    if isinstance(annotation, ast.Name | ast.Attribute):
        return (annotation.id if isinstance(annotation, ast.Name) else annotation.attr) in ("Array", "ndarray")
    return any(map(_has_bare, ast.iter_child_nodes(annotation)))


def public_names() -> dict[str, tuple[Definition, frozenset[str]]]:
    """All public names by where they are defined, each with the names that it can be imported by."""
    packages = [name for name, module in _exports("equimu").items() if module[0] == "equimu"] + ["presets"]
    found: dict[str, tuple[Definition, frozenset[str]]] = {}
    for package in ["equimu", *(f"equimu.{name}" for name in packages)]:
        for name, source in _exports(package).items():
            if source[0] != "equimu":
                what = _definition(*source)
                found[what.name] = (what, found.get(what.name, (what, frozenset()))[1] | {f"{package}.{name}"})
    return found


def public_packages() -> list[str]:
    return [f"equimu.{name}" for name, source in _exports("equimu").items() if source[0] == "equimu"] + [
        "equimu.presets"
    ]


def _named(arguments: ast.arguments) -> set[str]:
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return {each.arg for each in every if not each.arg.startswith("_")}


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == name), None)


@functools.cache
def _statements(module: str) -> list[ast.stmt]:
    place = ROOT.joinpath(*module.split("."))
    files = (place.with_suffix(".py"), place / "__init__.pyi", place / "__init__.py")
    body = ast.parse(next(file for file in files if file.exists()).read_text()).body
    # What only type checkers see is what is described.
    return [inner for node in body for inner in (node.body if isinstance(node, ast.If) else [node])]


def _exports(package: str) -> dict[str, tuple[str, str]]:
    """The names that a package gives on, `from module import name as name`: where each comes from."""
    return {
        alias.name: (node.module or "", alias.name)
        for node in _statements(package)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


def _definition(module: str, name: str) -> Definition:
    body = _statements(module)
    for i, node in reversed(list(enumerate(body))):
        if isinstance(node, ast.ImportFrom) and any(name == (each.asname or each.name) for each in node.names):
            return _definition(node.module or "", name)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return Definition(f"{module}.{name}", node, None)
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(part, ast.Name) and part.id == name for each in targets for part in ast.walk(each)):
            return Definition(f"{module}.{name}", node, body[i + 1] if i + 1 < len(body) else None)
    raise LookupError(f"{module} has no {name}")
