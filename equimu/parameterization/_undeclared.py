"""Arrays whose axes nobody has declared: what has one reading only, and the lines that declare the rest."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from equimu._errors import EquimuError
from equimu.declarations import AXIS_WORDS, Leaf
from equimu.parameterization._sizes import Geometry
from equimu.parameterization._uses import Use, words_of

_INPUTS, _OUTPUTS = ("in", "input"), ("out", "output")


def inferred_words(leaf: Leaf, wide: Collection[int], *, drawn: bool) -> tuple[str, ...] | None:
    """The words of a leaf's axes, declared or, where only one reading exists, inferred; None where there are several.

    Args:
        leaf: any.
        wide: its axes that grow with a width.
        drawn: whether its standard deviation depends on its axes.
    """
    if leaf.axes is not None:
        return leaf.axes.words
    if len(leaf.shape) <= 1:
        return ("out",) * len(leaf.shape)
    if not wide and not drawn:
        return ("table",) * len(leaf.shape)  # it grows with nothing: no number of its rule depends on its axes
    return None


def undeclared_error(
    leaves: Iterable[Leaf], geometry: Geometry, used: Mapping[str, Sequence[Use]], computed: Collection[str]
) -> EquimuError:
    """The message for all leaves that have no declaration and need one, with the lines to write: one for each class.

    Args:
        leaves: at least one.
        geometry: of the model.
        used: how a program uses the leaves, by path, where one is known.
        computed: the paths of those that the constructor computes: tables, which are not to be trained.
    """
    lines: dict[str, dict[str, str]] = {}
    homeless: list[Leaf] = []
    first, *others = leaves
    for leaf in (first, *others):
        if type(leaf.owner).__name__ == "_JitWrapper":
            return EquimuError(
                f"{leaf.describe()} is inside a module that is wrapped in eqx.filter_jit, which hides what its arrays are; "
                "wrap the function that calls the model instead"
            )
        if leaf.owner is None or leaf.field is None:
            homeless.append(leaf)
            continue
        as_used = words_of(leaf, used.get(leaf.path, ()), sorted(geometry.wide[leaf.path]))
        words = ", ".join(f'"{word}"' for word in as_used or suggested_words(leaf, geometry))
        declaration = f"equimu.axes({words}, trained=False)" if leaf.path in computed else f"({words})"
        lines.setdefault(type(leaf.owner).__name__, {})[leaf.inside] = declaration
    what = f"{first.describe()}" + (f" and {len(others)} more have" if others else " has")
    text = f"{what} no declared axes and more than one reading; "
    if homeless:
        words = ", ".join(f'"{word}"' for word in suggested_words(homeless[0], geometry))
        return EquimuError(
            f"{homeless[0].describe()} has no declared axes and more than one reading; give it to a field of an eqx.Module and "
            f"declare it, with the words that are right ({', '.join(sorted(AXIS_WORDS))}): "
            f"equimu.register_axes(MyModule, field=({words}))"
        )
    is_computed = any(leaf.path in computed for leaf in (first, *others))
    stays = ", and trained=False where it is to stay as the constructor computes it" if is_computed else ""
    text += f"declare, with the words that are right ({', '.join(sorted(AXIS_WORDS))}){stays}:"
    calls = [f"equimu.register_axes({owner}, {_arguments(fields)})" for owner, fields in lines.items()]
    return EquimuError(f"{text} {calls[0]}" if len(calls) == 1 else "\n".join((text, *calls)))


def _arguments(fields: dict[str, str]) -> str:
    plain = [f"{field}={words}" for field, words in fields.items() if field.isidentifier()]
    odd = [f'"{field}": {words}' for field, words in fields.items() if not field.isidentifier()]
    return ", ".join(plain + (["**{" + ", ".join(odd) + "}"] if odd else []))


def suggested_words(leaf: Leaf, geometry: Geometry) -> tuple[str, ...]:
    """The likeliest words for a leaf's axes: from its shape, what grows, and the fields and the class of its owner."""
    shape, wide = leaf.shape, geometry.wide[leaf.path]
    if _is_bias(leaf):
        return tuple("stack" if size == 1 and axis not in wide else "out" for axis, size in enumerate(shape))
    if len(shape) >= 3 and _has_kernel(leaf):
        ones = shape[1] == 1 and 1 not in wide
        return ("out", "kernel" if ones else "in", *("kernel",) * (len(shape) - 2))
    if len(shape) == 2 and not _is_table(leaf):
        return _matrix(leaf, set(wide))
    words = ["out" if axis in wide else "table" for axis in range(len(shape))]
    if len(wide) > 1:
        words[min(wide)] = "in"
    if len(shape) > 2 and not _is_table(leaf):
        words = ["stack" if word == "table" else word for word in words]
    return tuple(words)


def _matrix(leaf: Leaf, wide: set[int]) -> tuple[str, ...]:
    """A matrix is (out, in) if its owner says so by a bias or a size of that name, or its field is weight; else (in, out)."""
    rows, columns = leaf.shape
    for field, value in ({} if leaf.owner is None else vars(leaf.owner)).items():
        size = value if isinstance(value, int) and not isinstance(value, bool) else _length(value, field)
        ends = (field.startswith(_INPUTS) or field.endswith(_INPUTS), "out" in field or field == "bias")
        if size is None or rows == columns or size not in (rows, columns) or ends[0] == ends[1]:
            continue
        return ("out", "in") if (size == rows) == ends[1] else ("in", "out")
    if not wide or leaf.field == "weight" or (leaf.field or "").startswith("weight_"):
        return ("out", "in")
    return (
        ("in", "out")
        if len(wide) == 2 or _is_layer(leaf)
        else tuple("out" if axis in wide else "table" for axis in (0, 1))
    )


def _length(value: Any, field: str) -> int | None:
    """Of a bias, its number of entries."""
    shape = getattr(value, "shape", None)
    return shape[0] if field == "bias" and shape else None


def _is_bias(leaf: Leaf) -> bool:
    return "bias" in (leaf.field or "") and sum(size != 1 for size in leaf.shape) <= 1


def _has_kernel(leaf: Leaf) -> bool:
    return "conv" in type(leaf.owner).__name__.lower() or hasattr(leaf.owner, "kernel_size")


def _is_layer(leaf: Leaf) -> bool:
    name = type(leaf.owner).__name__.lower()
    return leaf.field in ("kernel", "w") or any(word in name for word in ("linear", "dense", "proj"))


def _is_table(leaf: Leaf) -> bool:
    return any(
        word in (type(leaf.owner).__name__ + (leaf.field or "")).lower() for word in ("embed", "pos", "table", "token")
    )
