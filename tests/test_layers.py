"""The architecture, read from the sources: imports go down the layers, no folder has a cycle, classes are abstract or final."""

import ast
import graphlib
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

import pytest

import equimu

ROOT = Path(equimu.__file__).parent
LAYERS = {
    0: {
        "_call",
        "_device",
        "_errors",
        "_html",
        "_interrupt",
        "_kept",
        "_interval",
        "_json",
        "_lazy",
        "_peaks",
        "_progress",
        "_terminal",
        "_types",
        "_values",
        "_varying",
        "_version",
    },
    1: {"attention", "declarations", "files", "processes", "tracing"},
    2: {"parameterization", "storage", "tables"},
    3: {"data", "optim", "sharding"},
    4: {"nn"},
    5: {"llama", "tasks"},
    6: {"runs"},
    7: {"training"},
    8: {"diagnostics", "plans", "reports", "trained"},
    9: {"exchange", "sweeps"},
    10: {"presets", "tuning"},
    11: {"cli"},
    12: {"__main__"},
    13: {"__init__"},
}
# What `import equimu` must not pay for: imported where they are used.
HEAVY = {
    *("grain", "tensorstore", "tyro", "rich", "matplotlib", "optuna", "tokenizers", "datasets", "submitit", "ray"),
    "safetensors",
}
FILES = sorted(ROOT.rglob("*.py"))


def part(module):
    """The folder or file directly below the package that a dotted module name is in."""
    names = module.split(".")[1:]
    return names[0] if names else "__init__"


def layer(name):
    (found,) = [number for number, names in LAYERS.items() if name in names] or [None]
    assert found is not None, f"equimu/{name} has no layer: give it one in this test"
    return found


def folder(name):
    """The files directly in the package are one folder, though of several layers."""
    return name if (ROOT / name).is_dir() else "equimu"


def module_of(path):
    names = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(names)


def imports(path):
    """The modules of the package that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "equimu"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            if module.split(".")[0] == "equimu":
                for alias in node.names:
                    target = ROOT.parent / Path(*module.split("."), alias.name)
                    is_module = target.is_dir() or target.with_suffix(".py").exists()
                    found.add(f"{module}.{alias.name}" if is_module else module)
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_come_from_lower_layers_or_the_own_folder(path):
    own = part(module_of(path))
    for imported in imports(path):
        other = part(imported)
        same = folder(own) == folder(other) and layer(other) == layer(own)
        assert same or layer(other) < layer(own), (
            f"{module_of(path)} (layer {layer(own)}) imports {imported} (layer {layer(other)})"
        )


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT.parent / "benchmarks").rglob("*.py"))], ids=module_of)
def test_no_file_imports_what_is_private_to_another_room(path):
    own = path.relative_to(ROOT.parent).with_suffix("").parts[:2]
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in getattr(node, "names", ()) if isinstance(node, ast.Import)]
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "equimu" and (ROOT / Path(*parts[1:2])).is_dir() and tuple(parts[:2]) != own:
                assert not any(part.startswith("_") for part in parts[2:]), f"{path.name} imports {name}"


def test_no_folder_has_a_cycle():
    graph = {}
    for path in FILES:
        module = module_of(path)
        own = {other for other in imports(path) if folder(part(other)) == folder(part(module))}
        graph[module] = {
            f"{other}.__init__" if (ROOT.parent / Path(*other.split("."))).is_dir() else other for other in own
        }
    graphlib.TopologicalSorter(graph).prepare()  # raises a CycleError that names the cycle


@pytest.mark.parametrize(
    "path", [path for path in FILES if layer(part(module_of(path))) != layer("cli")], ids=module_of
)
def test_heavy_packages_are_imported_where_they_are_used(path):
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in top:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        assert not {name.split(".")[0] for name in names} & HEAVY


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=module_of)
def test_init_files_only_re_export(path):
    stub = path.with_suffix(".pyi")
    if stub.exists():
        # What a type checker sees of a package whose names are imported late is what it would re-export at once.
        _, lazily, attached = ast.parse(path.read_text()).body
        assert ast.unparse(lazily) == "from equimu._lazy import lazy_names"
        assert ast.unparse(attached).endswith("= lazy_names(__name__)")
        path = stub
    for node in ast.parse(path.read_text()).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert is_docstring or isinstance(node, ast.ImportFrom), f"{module_of(path)}, line {node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert all(alias.asname == alias.name for alias in node.names), f"{module_of(path)}, line {node.lineno}"


@pytest.mark.parametrize("package", ["equimu", "equimu.reports"])
def test_every_name_of_a_late_package_is_there(package):
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def classes():
    for info in pkgutil.walk_packages([str(ROOT)], "equimu."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "equimu"]
    found = {cls for module in modules for _, cls in inspect.getmembers(module, inspect.isclass)}
    return {cls for cls in found if cls.__module__.split(".")[0] == "equimu"}


def test_classes_are_abstract_or_final():
    ours = classes()
    assert equimu.nn.Transformer in ours
    for cls in ours:
        for base in cls.__bases__:
            if base in ours and not issubclass(base, Exception):
                assert inspect.isabstract(base) or getattr(base, "_is_protocol", False), (
                    f"{cls.__name__} subclasses {base.__name__}, which is concrete"
                )
