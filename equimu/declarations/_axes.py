"""What each axis of each array is: the registry that roles are read from.

| word | meaning |
|---|---|
| `in` | summed over in the forward pass; counts in the fan-in |
| `out` | one entry per output feature; counts in the fan-out |
| `inner` | an `out` axis that stays inside the network: its leaf is `hidden` even where this axis does not grow |
| `kernel` | positions of a convolution, channels of a group: summed over, by each output its own; counts in the fan-in |
| `table` | rows of a look-up table, of which each use reads one: counts in no fan |
| `stack` | copies of the same array, one per layer, expert, ...: counts in no fan |

Axes in front of the declared ones are stacks, so a layer under `jax.vmap` or a scan needs no declaration of its own.
`inner` is there for keys and values: with one key/value head their projection has a finite output, but it feeds the
attention and is not a readout, which a finite `out` would make of it.

Beside the axes of arrays, a block declares which of its parts end a residual branch (`register_residual`): rules of depth
put a factor there. And a wrapper that divides an array by its norm declares so (`register_normalised`): no rule sets the
scale of that.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from equimu._errors import EquimuError, nearest
from equimu._values import Index, Real, Size, check, check_class, checked, shown

AXIS_WORDS = frozenset({"in", "out", "inner", "kernel", "table", "stack"})
"""The words for axes; see `register_axes`."""


@dataclasses.dataclass(frozen=True)
class Axes:
    """The declaration of one array.

    - `words`: what each of the array's trailing axes is.
    - `constant`: the value the array starts from, whatever the module's own initialiser draws; `None` leaves it to the
      parameterization.
    - `tied`: where the array is used a second time (an embedding that is also the unembedding), the words of that use.
    - `tied_multiplier`: the field of the same module, a scalar, that receives the second use's forward multiplier.
    - `bias_of`: of a bias, the field of the same module that holds the map whose output it is added to.
    - `norm_of`: of a gain on an array that is divided by its norm, the path of that array below the same module. A gain of
      1 then stands for the norm of a draw by the array's own rule.
    - `strides`: of a transposed convolution, its stride along each `kernel` axis. An output then sees only every so many-th
      position of the kernel, and the fan-in counts those.
    - `as_model`: the array starts as the constructor makes it, at every size (frozen random features, time constants).
    - `trained`: whether it has a learning rate and decay. None: yes, unless the constructor computes it (a table of
      frequencies, which is neither drawn nor a constant) and it is not declared.
    - `split`: where the module can work on a part of the array, the devices along a mesh's `tensor` axis sharing it: which of
      its axes they share, as an index into `words`, and into how many equal parts that may be cut (heads, say).

    Raises:
        EquimuError: a field that cannot be.
    """

    words: tuple[str, ...]
    constant: Real | None = None
    tied: tuple[str, ...] | None = None
    tied_multiplier: str | None = None
    bias_of: str | None = None
    norm_of: str | None = None
    split: tuple[int, int] | None = None
    strides: tuple[int, ...] | None = None
    as_model: bool = False
    trained: bool | None = None

    def __post_init__(self) -> None:
        check(str | None, tied_multiplier=self.tied_multiplier, bias_of=self.bias_of, norm_of=self.norm_of)
        check(float | None, constant=self.constant)
        check(bool, as_model=self.as_model)
        check(bool | None, trained=self.trained)
        for word in (*self.words, *(self.tied or ())):
            if word not in AXIS_WORDS:
                raise EquimuError(f"{word!r} is not an axis word: {nearest(word, AXIS_WORDS)}")
        if self.split is not None:
            pair = checked("split", self.split, tuple[Index, ...])
            if len(pair) != 2 or pair[0] >= len(self.words) or pair[1] < 1:
                raise EquimuError(f"split={self.split} must be an index into {self.words} and a number of parts")
        if (self.tied is None) != (self.tied_multiplier is None):
            raise EquimuError("a tied array needs both `tied` and `tied_multiplier`")
        if self.tied is not None and len(self.tied) != len(self.words):
            raise EquimuError(f"both uses of a tied array have its axes, got {self.words} and {self.tied}")
        if self.strides is not None and len(self.strides) != self.words.count("kernel"):
            raise EquimuError(f"strides {self.strides} are one for each kernel axis of {self.words}")


Declaration: TypeAlias = tuple[str, ...] | Axes | Callable[[Any], tuple[str, ...] | Axes | None]

_REGISTRY: dict[type, dict[str, Declaration]] = {}
_BRANCH_ENDS: dict[type, tuple[str, ...]] = {}
_NORMALISED: dict[type, Callable[[Any], str]] = {}

_PATH = r"\w+(\.\w+|\[-?\d+\]|\['[^']*'\])*"


def axes(
    *words: str,
    constant: Real | None = None,
    tied: Iterable[str] | None = None,
    tied_multiplier: str | None = None,
    bias_of: str | None = None,
    norm_of: str | None = None,
    split: tuple[int, int] | None = None,
    strides: Iterable[int] | None = None,
    as_model: bool = False,
    trained: bool | None = None,
) -> Axes:
    """A declaration with more to say than the words of the axes; see `Axes` for the arguments.

    Args:
        words: what each trailing axis is.
        constant: the value that the array starts from.
        tied: the words of a second use.
        tied_multiplier: the field that receives the second use's multiplier.
        bias_of: the field of the map that this bias is added to.
        norm_of: the array whose norm this gain replaces.
        split: the axis that devices share, and into how many parts.
        strides: of a transposed convolution.
        as_model: keep the constructor's own values at every size.
        trained: whether it has a learning rate and decay.

    Raises:
        EquimuError: an unknown word, or a value that does not fit the words.
    """
    return Axes(
        words,
        constant=constant,
        tied=None if tied is None else checked("tied", _listed(tied), tuple[str, ...]),
        tied_multiplier=tied_multiplier,
        bias_of=bias_of,
        norm_of=norm_of,
        split=split,
        strides=None if strides is None else checked("strides", _listed(strides), tuple[Size, ...]),
        as_model=as_model,
        trained=trained,
    )


def _listed(values: Any) -> Any:
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else values


def register_axes(cls: type, **fields: Declaration) -> None:
    """Declares what the axes of a module's arrays are. Declaring a field again replaces its declaration.

    Args:
        cls: the module class; its subclasses inherit the declaration.
        **fields: for each array field its axis words, `axes(...)` where more is to be said, or a function from the module
            to either (or to None, for nothing), where instances differ. A path instead of a field is an array further inside,
            which this module uses otherwise than the array's own class says.

    Raises:
        EquimuError: a word is not in the vocabulary, the class has no such field, or a path cannot be read.

    Example:
        >>> register_axes(MyLayer, weight=("in", "out"), bias=("out",))
        >>> register_axes(MyAttention, **{"key.weight": ("inner", "in")})
    """
    check_class("the class of register_axes", cls)
    known = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else None
    for field, declaration in fields.items():
        _check_path(cls, field)
        if known is not None and (first := re.split(r"[.\[]", field)[0]) not in known:
            raise EquimuError(f"{cls.__name__} has no field {first!r}: {nearest(first, known)}")
        if isinstance(declaration, tuple):
            declaration = Axes(declaration)
        elif not (isinstance(declaration, Axes) or callable(declaration)):
            message = f"write a tuple of axis words, axes(...), or a function of the module; got {shown(declaration)}"
            raise EquimuError(f"the declaration of {cls.__name__}.{field} is none: {message}")
        _REGISTRY.setdefault(cls, {})[field] = declaration


def register_residual(cls: type, *parts: str) -> None:
    """Declares which parts of a block end its residual branches: what they make is added to the residual stream.

    Rules of depth multiply the arrays of such a part by the factor of the branch, so a part must be linear in all of its
    arrays together: one affine map, a norm with gains, or a single array. Declaring a class again replaces its declaration.

    Args:
        cls: the module class that adds; its subclasses inherit the declaration.
        *parts: paths below the module, e.g. `"mlp.down"`, `"mlp.layers[-1]"` or `"maps['down']"`; none for a module that adds
            nothing to a stream, so that rules of depth leave it alone.

    Raises:
        EquimuError: a path that cannot be read.

    Example:
        >>> register_residual(MyBlock, "attention.output_proj", "mlp.layers[-1]")
    """
    check_class("the class of register_residual", cls)
    for part in parts:
        _check_path(cls, part)
    _BRANCH_ENDS[cls] = parts


def register_normalised(cls: type, path: Callable[[Any], str]) -> None:
    """Declares that a module divides an array by its norm without putting a gain in its place.

    Args:
        cls: the module class.
        path: of the array below a module of the class.
    """
    _NORMALISED[cls] = path


def _check_path(cls: type, part: str) -> None:
    if not re.fullmatch(_PATH, checked("a path", part, str)):
        raise EquimuError(
            f"{part!r} is not a path below a {cls.__name__}; write it as in Python, e.g. 'mlp.layers[-1]'"
        )


def find_branch_ends(owner: Any) -> list[str]:
    """The paths of the parts of a module that end a residual branch, with indices counted from the front."""
    return [
        _counted_from_the_front(owner, part, f"is declared to end a residual branch with {part!r}")
        for part in find_residual(owner) or ()
    ]


def find_residual(owner: Any) -> tuple[str, ...] | None:
    """What is declared of a module's residual branches: the parts that end them, none if it has none; None if nothing is."""
    return next((_BRANCH_ENDS[cls] for cls in type(owner).__mro__ if cls in _BRANCH_ENDS), None)


def find_normalised(owner: Any) -> str | None:
    """The path of the array that a module divides by its norm without putting a gain in its place; None for others."""
    return next((_NORMALISED[cls](owner) for cls in type(owner).__mro__ if cls in _NORMALISED), None)


def _counted_from_the_front(owner: Any, part: str, declared: str) -> str:
    node, path = owner, ""
    for key, index, name in re.findall(r"\['([^']*)'\]|\[(-?\d+)\]|(\w+)", part):
        try:
            if name:
                node, path = getattr(node, name), f"{path}.{name}" if path else name
            elif index:
                at = int(index) % len(node) if int(index) < 0 else int(index)
                node, path = node[at], f"{path}[{at}]"
            else:
                node, path = node[key], f"{path}[{key!r}]"
        except (AttributeError, IndexError, KeyError, TypeError, ZeroDivisionError):
            raise EquimuError(f"{type(owner).__name__} {declared}, and has no such part") from None
    return path


def find_axes(owner: Any, field: str) -> Axes | None:
    """The declaration of `owner.field`, looked up along the bases of the owner's class; None where there is none."""
    for cls in type(owner).__mro__:
        declaration = _REGISTRY.get(cls, {}).get(field)
        if declaration is not None:
            found = declaration(owner) if callable(declaration) else declaration
            return Axes(found) if isinstance(found, tuple) else found
    return None


def find_inner_axes(owner: Any) -> dict[str, Axes]:
    """What a module declares of arrays further inside, by path, with indices counted from the front."""
    found: dict[str, Axes] = {}
    for cls in type(owner).__mro__:
        for part in _REGISTRY.get(cls, {}):
            if not part.isidentifier():
                path = _counted_from_the_front(owner, part, f"is declared to have an array at {part!r}")
                if path not in found and (declared := find_axes(owner, part)) is not None:
                    found[path] = declared
    return found


def find_tied_source(owner: Any, field: str) -> str | None:
    """The tied field of `owner` whose second use takes its multiplier from `field`; None where `field` is not such a slot."""
    for cls in type(owner).__mro__:
        for name in _REGISTRY.get(cls, {}):
            declared = find_axes(owner, name)
            if declared is not None and declared.tied_multiplier == field:
                return name
    return None
