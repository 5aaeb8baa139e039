"""Tasks by name: the default one, a class in a file, a class in an installed module; and as plain JSON types."""

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError, nearest, printable
from equimu._values import fields_from_dict, shown
from equimu.tasks._fields import plain
from equimu.tasks._function import FunctionTask
from equimu.tasks._language_model import LanguageModel
from equimu.tasks._task import Task

_NAME, _MODULE = "name", "module"
DEFAULT: type[Task] = LanguageModel


def find_task(where: str) -> type[Task]:
    """The class of a task.

    Args:
        where: `my.py:NextByte`, a class in a file; `package.module:NextByte`, one in an installed module; or `LanguageModel`.

    Raises:
        EquimuError: there is none there, or it is not a frozen dataclass.
    """
    if where == DEFAULT.__name__:
        return DEFAULT
    place, _, name = where.rpartition(":")
    if not place or not name.isidentifier():
        raise EquimuError(
            f"{where!r} names no task; write my.py:NextByte (a class in a file), package.module:NextByte, or {DEFAULT.__name__}"
        )
    module = _from_file(Path(place)) if place.endswith(".py") or "/" in place else _installed(place)
    tasks = {
        key: value for key, value in vars(module).items() if _is_task(value) and value.__module__ == module.__name__
    }
    found = getattr(module, name, None)
    if found is None or not _is_task(found):
        there = nearest(name, tasks) if tasks else "it has none"
        raise EquimuError(f"{place} has no task {name!r} (a subclass of equimu.Task); {there}")
    _check_frozen(found)
    return found


def where_of(cls: type[Task]) -> str:
    """Where `find_task` finds a class in another process.

    Args:
        cls: the class.

    Raises:
        EquimuError: it is in no file: it was written in a notebook, or inside a function, or is made of functions.
    """
    if cls is DEFAULT:
        return cls.__name__
    if cls is FunctionTask:
        raise EquimuError(
            "a task of functions is in this process alone; write it as a class in a file, see equimu.Task"
        )
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    if file is None or getattr(module, cls.__name__, None) is not cls:
        raise EquimuError(
            f"{cls.__name__} is not at the top level of a file, so another process cannot import it; move it to one"
        )
    return f"{Path(file).resolve()}:{cls.__name__}"


def files_of(things: Iterable[Any]) -> dict[str, str]:
    """The modules that classes and functions are defined in, with their files, so that another process can import them.

    Args:
        things: of which this library's own are left out.

    Raises:
        EquimuError: one is in no file: it was written in a notebook.
    """
    found: dict[str, str] = {}
    for thing in things:
        name = getattr(thing, "__module__", None) or type(thing).__module__
        if name.partition(".")[0] != __name__.partition(".")[0]:
            file = getattr(sys.modules.get(name), "__file__", None)
            if file is None:
                raise EquimuError(f"{shown(thing)} is in no file, so another process cannot import it; move it to one")
            found[name] = str(Path(file).resolve())
    return found


def import_files(files: Mapping[str, str]) -> None:
    """Imports what `files_of` gave in another process: modules that are found by their names, and others by their files."""
    for name, file in files.items():
        if name == "__main__" or not _is_found(name):
            _from_file(Path(file))
        else:
            _installed(name)


def task_to_dict(task: Task, *, whole: bool = False) -> dict[str, Any]:
    """What a task is, as plain JSON types: its class and its fields; those of execution too if it is whole.

    The class is known by its name and by that of its file, wherever the file is: two files may each have a `Shapes`.
    """
    fields = plain(task, whole=whole)
    if isinstance(task, FunctionTask):
        return fields
    file = None if _is_own(type(task)) else getattr(sys.modules.get(type(task).__module__), "__file__", None)
    return {_NAME: type(task).__name__, **({} if file is None else {_MODULE: Path(file).stem}), **fields}


def task_from_dict(values: Mapping[str, Any], cls: type[Task] | None = None, where: str = "task.") -> Task:
    """The task of plain JSON types.

    Args:
        values: its `name` and its fields; those left out keep their defaults.
        cls: its class, where that is known; else `name` is as in `find_task`.
        where: in front of names in messages.

    Raises:
        EquimuError: there is no such task or field, or a value is of another type.
    """
    values = dict(values)
    name, _ = values.pop(_NAME, None), values.pop(_MODULE, None)
    if cls is None:
        if not isinstance(name, str | None):
            raise EquimuError(f"{where}name must be the name of a task, got {shown(name)}")
        cls = DEFAULT if name is None else find_task(name)
    return checked_task(fields_from_dict(cls, values, where))


def checked_task(task: Any) -> Task:
    """A task that can be part of what a run is.

    Raises:
        EquimuError: it is not a task, or its class is not a frozen dataclass.
    """
    if not isinstance(task, Task):
        raise EquimuError(f"task must be an equimu.Task, got {shown(task)}")
    _check_frozen(type(task))
    name = type(task).__name__
    taken = {_NAME, _MODULE} & {field.name for field in dataclasses.fields(type(task))}  # pyright: ignore[reportArgumentType]
    if taken and not isinstance(task, FunctionTask):
        raise EquimuError(
            f"{name} has a field {taken.pop()!r}, by which configs call the task's class; give it another name"
        )
    return task


def _check_frozen(cls: type[Task]) -> None:
    frozen = "__dataclass_params__" in vars(cls) and cls.__dataclass_params__.frozen  # pyright: ignore
    if not frozen:
        name = cls.__name__
        raise EquimuError(
            f"{name} must be a frozen dataclass: write @dataclasses.dataclass(frozen=True) above class {name}"
        )


def source_digest(task: Task) -> str | None:
    """A hash of the file that a task's class is in; None where there is no file (a notebook), and of this library's own."""
    if _is_own(type(task)):
        return None
    try:
        file = inspect.getsourcefile(type(task))
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    except (OSError, TypeError):
        return None


def _is_own(cls: type[Task]) -> bool:
    """Whether a class is this library's."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def _is_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _is_task(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Task) and not inspect.isabstract(value)


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise EquimuError(f"there is no file {path}; a task is named by its file and class, e.g. my.py:NextByte")
    # By its whole path, so that two files of one name are two modules, and the same file is imported once.
    name = f"equimu_task_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise EquimuError(f"{path} is not a Python file; a task is named by its file and class, e.g. my.py:NextByte")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # as for a script: modules beside it are found
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise _broken(str(path), error) from error
    finally:
        sys.path.pop(0)
    return module


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            raise EquimuError(
                f"there is no module {name}; for a file write its path, e.g. ./{name}.py:NextByte"
            ) from None
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(what: str, error: Exception) -> EquimuError:
    return EquimuError(f"{what} cannot be imported: {type(error).__name__}: {printable(error)}")
