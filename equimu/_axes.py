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
"""

import dataclasses
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
    - `split`: where the module can work on a part of the array, the devices along a mesh's `tensor` axis sharing it: which of
      its axes they share, as an index into `words`, and into how many equal parts that may be cut (heads, say).
    """

    words: tuple[str, ...]
    constant: float | None = None
    tied: tuple[str, ...] | None = None
    tied_multiplier: str | None = None
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


def axes(
    *words: str,
    constant: float | None = None,
    tied: Iterable[str] | None = None,
    tied_multiplier: str | None = None,
    split: tuple[int, int] | None = None,
) -> Axes:
    """A declaration with more to say than the words of the axes; see `Axes` for the arguments."""
    return Axes(words, constant, None if tied is None else tuple(tied), tied_multiplier, split)


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
    register_axes(eqx.nn.Linear, weight=("out", "in"), bias=bias)
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
            bias=lambda m: axes("out", *("stack",) * m.num_spatial_dims, constant=0.0),
        )
    for cell in (eqx.nn.GRUCell, eqx.nn.LSTMCell):
        register_axes(cell, weight_ih=("out", "in"), weight_hh=("out", "in"), bias=bias)
    register_axes(eqx.nn.GRUCell, bias_n=bias)
    # eqx.nn.MultiheadAttention owns no array itself: its projections are eqx.nn.Linear.


_register_equinox()
