"""What each axis of each array is: the registry that roles are read from.

| word | meaning |
|---|---|
| `in` | summed over in the forward pass; counts in the fan-in |
| `out` | one entry per output feature; counts in the fan-out |
| `inner` | an `out` axis that stays inside the network: its leaf is `hidden` even where this axis does not grow |
| `kernel` | positions of a convolution; summed over, so it counts in the fan-in |
| `table` | rows of a look-up table, of which each use reads one: counts in no fan |
| `stack` | copies of the same array, one per layer, expert, ...: counts in no fan |

Axes in front of the declared ones are stacks, so a layer under `jax.vmap` or a scan needs no declaration of its own.
`inner` is there for keys and values: with one key/value head their projection has a finite output, but it feeds the
attention and is no readout, which a finite `out` would make of it.

Beside the axes of arrays, a block declares which of its parts end a residual branch (`register_residual`): rules of depth
put a factor there.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import equinox as eqx

from equimu._errors import EquimuError, nearest

AXIS_WORDS = frozenset({"in", "out", "inner", "kernel", "table", "stack"})


@dataclasses.dataclass(frozen=True)
class Axes:
    """The declaration of one array.

    - `words`: what each of the array's trailing axes is.
    - `constant`: the value the array starts from, whatever the module's own initialiser draws; `None` leaves it to the
      parameterization.
    - `tied`: where the array is used a second time (an embedding that is also the unembedding), the words of that use.
    - `tied_multiplier`: the field of the same module, a scalar, that receives the second use's forward multiplier.
    - `beside`: of a bias, the field of the same module that holds the map whose output it is added to.
    - `split`: where the module can work on a part of the array, the devices along a mesh's `tensor` axis sharing it: which of
      its axes they share, as an index into `words`, and into how many equal parts that may be cut (heads, say).
    """

    words: tuple[str, ...]
    constant: float | None = None
    tied: tuple[str, ...] | None = None
    tied_multiplier: str | None = None
    beside: str | None = None
    split: tuple[int, int] | None = None

    def __post_init__(self):
        for word in (*self.words, *(self.tied or ())):
            if word not in AXIS_WORDS:
                raise EquimuError(f"{word!r} is no axis word: {nearest(word, AXIS_WORDS)}")
        if (self.tied is None) != (self.tied_multiplier is None):
            raise EquimuError("a tied array needs both `tied` and `tied_multiplier`")
        if self.tied is not None and len(self.tied) != len(self.words):
            raise EquimuError(f"both uses of a tied array have its axes, got {self.words} and {self.tied}")


Declaration: TypeAlias = tuple[str, ...] | Axes | Callable[[Any], tuple[str, ...] | Axes]

_REGISTRY: dict[type, dict[str, Declaration]] = {}
_BRANCH_ENDS: dict[type, tuple[str, ...]] = {}


def axes(
    *words: str,
    constant: float | None = None,
    tied: Iterable[str] | None = None,
    tied_multiplier: str | None = None,
    beside: str | None = None,
    split: tuple[int, int] | None = None,
) -> Axes:
    """A declaration with more to say than the words of the axes; see `Axes` for the arguments."""
    return Axes(words, constant, None if tied is None else tuple(tied), tied_multiplier, beside, split)


def register_axes(cls: type, **fields: Declaration) -> None:
    """Declares what the axes of a module's arrays are. Declaring a field again replaces its declaration.

    Args:
        cls: the module class; its subclasses inherit the declaration.
        **fields: for each array field its axis words, `axes(...)` where more is to be said, or a function from the module
            to either, where the number of axes differs between instances.

    Raises:
        EquimuError: a word is not in the vocabulary, or the class has no such field.

    Example:
        >>> register_axes(MyLayer, weight=("in", "out"), bias=("out",))
    """
    known = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else None
    for field, declaration in fields.items():
        if known is not None and field not in known:
            raise EquimuError(f"{cls.__name__} has no field {field!r}: {nearest(field, known)}")
        _REGISTRY.setdefault(cls, {})[field] = Axes(declaration) if isinstance(declaration, tuple) else declaration


def register_residual(cls: type, *parts: str) -> None:
    """Declares which parts of a block end its residual branches: what they make is added to the residual stream.

    Rules of depth multiply the arrays of such a part by the factor of the branch, so a part must be linear in all of its
    arrays together: one affine map, or a norm with gains. Declaring a class again replaces its declaration.

    Args:
        cls: the module class that adds; its subclasses inherit the declaration.
        *parts: paths below the module, e.g. `"mlp.down"` or `"mlp.layers[-1]"`.

    Raises:
        EquimuError: a path that cannot be read.

    Example:
        >>> register_residual(MyBlock, "attention.output_proj", "mlp.layers[-1]")
    """
    for part in parts:
        if not re.fullmatch(r"\w+(\.\w+|\[-?\d+\])*", part):
            raise EquimuError(
                f"{part!r} is no path below a {cls.__name__}; write it as in Python, e.g. 'mlp.layers[-1]'"
            )
    _BRANCH_ENDS[cls] = parts


def find_branch_ends(owner: Any) -> list[str]:
    """The paths of the parts of a module that end a residual branch, with indices counted from the front."""
    for cls in type(owner).__mro__:
        if cls in _BRANCH_ENDS:
            return [_counted_from_the_front(owner, part) for part in _BRANCH_ENDS[cls]]
    return []


def _counted_from_the_front(owner: Any, part: str) -> str:
    node, path = owner, ""
    for name, index in re.findall(r"(\w+)|\[(-?\d+)\]", part):
        try:
            if name:
                node, path = getattr(node, name), f"{path}.{name}" if path else name
            else:
                at = int(index) % len(node) if int(index) < 0 else int(index)
                node, path = node[at], f"{path}[{at}]"
        except (AttributeError, IndexError, TypeError, ZeroDivisionError):
            raise EquimuError(
                f"{type(owner).__name__} is declared to end a residual branch with {part!r}, and has no such part"
            ) from None
    return path


def find_axes(owner: Any, field: str) -> Axes | None:
    """The declaration of `owner.field`, looked up along the bases of the owner's class; None where there is none."""
    for cls in type(owner).__mro__:
        declaration = _REGISTRY.get(cls, {}).get(field)
        if declaration is not None:
            found = declaration(owner) if callable(declaration) else declaration
            return found if isinstance(found, Axes) else Axes(found)
    return None


def find_tied_source(owner: Any, field: str) -> str | None:
    """The tied field of `owner` whose second use takes its multiplier from `field`; None where `field` is no such slot."""
    for cls in type(owner).__mro__:
        for name in _REGISTRY.get(cls, {}):
            declared = find_axes(owner, name)
            if declared is not None and declared.tied_multiplier == field:
                return name
    return None


def _register_equinox() -> None:
    # Equinox draws biases uniformly in ±1/sqrt(fan_in); in every parameterization here biases start at zero.
    bias = axes("out", constant=0.0)
    register_axes(eqx.nn.Linear, weight=("out", "in"), bias=axes("out", constant=0.0, beside="weight"))
    register_axes(eqx.nn.Embedding, weight=("table", "out"))
    # A normalisation over several axes has gains of that shape, each an output of its own.
    for norm in (eqx.nn.LayerNorm, eqx.nn.RMSNorm):
        register_axes(norm, weight=lambda m: ("out",) * len(m.shape), bias=lambda m: ("out",) * len(m.shape))
    for norm in (eqx.nn.GroupNorm, eqx.nn.BatchNorm):
        register_axes(norm, weight=("out",), bias=("out",))
    for conv in (eqx.nn.Conv, eqx.nn.ConvTranspose):
        register_axes(
            conv,
            weight=lambda m: ("out", "in") + ("kernel",) * m.num_spatial_dims,
            # shape (out, 1, 1, ...): the trailing ones only broadcast
            bias=lambda m: axes("out", *("stack",) * m.num_spatial_dims, constant=0.0, beside="weight"),
        )
    for cell in (eqx.nn.GRUCell, eqx.nn.LSTMCell):
        register_axes(cell, weight_ih=("out", "in"), weight_hh=("out", "in"), bias=bias)
    register_axes(eqx.nn.GRUCell, bias_n=bias)
    # eqx.nn.MultiheadAttention owns no array itself: its projections are eqx.nn.Linear.


_register_equinox()
