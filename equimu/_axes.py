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
attention and is no readout, which a finite `out` would make of it.

Beside the axes of arrays, a block declares which of its parts end a residual branch (`register_residual`): rules of depth
put a factor there. And a wrapper that divides an array by its norm is known by `_NORMALISED`: no rule sets the scale of that.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import equinox as eqx

from equimu._errors import EquimuError, nearest
from equimu._values import Index, Size, check, check_class, checked, shown

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
    - `norm_of`: of a gain on an array that is divided by its norm, the path of that array below the same module. A gain of
      1 then stands for the norm of a draw by the array's own rule.
    - `strides`: of a transposed convolution, its stride along each `kernel` axis. An output then sees only every so many-th
      position of the kernel, and the fan-in counts those.
    - `as_model`: the array starts as the constructor makes it, at every size (frozen random features, time constants).
    - `trained`: whether it has a learning rate and decay. None: yes, unless the constructor computes it (a table of
      frequencies, which is neither drawn nor a constant) and it is not declared.
    - `split`: where the module can work on a part of the array, the devices along a mesh's `tensor` axis sharing it: which of
      its axes they share, as an index into `words`, and into how many equal parts that may be cut (heads, say).
    """

    words: tuple[str, ...]
    constant: float | None = None
    tied: tuple[str, ...] | None = None
    tied_multiplier: str | None = None
    beside: str | None = None
    norm_of: str | None = None
    split: tuple[int, int] | None = None
    strides: tuple[int, ...] | None = None
    as_model: bool = False
    trained: bool | None = None

    def __post_init__(self):
        check(str | None, tied_multiplier=self.tied_multiplier, beside=self.beside, norm_of=self.norm_of)
        check(float | None, constant=self.constant)
        check(bool, as_model=self.as_model)
        check(bool | None, trained=self.trained)
        for word in (*self.words, *(self.tied or ())):
            if word not in AXIS_WORDS:
                raise EquimuError(f"{word!r} is no axis word: {nearest(word, AXIS_WORDS)}")
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
    constant: float | None = None,
    tied: Iterable[str] | None = None,
    tied_multiplier: str | None = None,
    beside: str | None = None,
    norm_of: str | None = None,
    split: tuple[int, int] | None = None,
    strides: Iterable[int] | None = None,
    as_model: bool = False,
    trained: bool | None = None,
) -> Axes:
    """A declaration with more to say than the words of the axes; see `Axes` for the arguments."""
    return Axes(
        words,
        constant=constant,
        tied=None if tied is None else checked("tied", _listed(tied), tuple[str, ...]),
        tied_multiplier=tied_multiplier,
        beside=beside,
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
            told = f"write a tuple of axis words, axes(...), or a function of the module; got {shown(declaration)}"
            raise EquimuError(f"the declaration of {cls.__name__}.{field} is none: {told}")
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


def _check_path(cls: type, part: str) -> None:
    if not re.fullmatch(_PATH, checked("a path", part, str)):
        raise EquimuError(f"{part!r} is no path below a {cls.__name__}; write it as in Python, e.g. 'mlp.layers[-1]'")


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
    """The tied field of `owner` whose second use takes its multiplier from `field`; None where `field` is no such slot."""
    for cls in type(owner).__mro__:
        for name in _REGISTRY.get(cls, {}):
            declared = find_axes(owner, name)
            if declared is not None and declared.tied_multiplier == field:
                return name
    return None


def _conv_weight(conv: Any) -> tuple[str, ...]:
    # In a grouped convolution each output reads the channels of its own group. Where these are finitely many, its update moves
    # the channels of that group alone, as a gain's does, however wide the layer: no input layer, which reads features common
    # to all outputs.
    channels = "in" if conv.groups == 1 else "kernel"
    return ("out", channels, *("kernel",) * conv.num_spatial_dims)


def _transposed_conv_weight(conv: Any) -> Axes:
    return axes(*_conv_weight(conv), strides=conv.stride if conv.groups == 1 else (1, *conv.stride))


def _prelu_slope(prelu: Any) -> tuple[str, ...] | None:
    # One slope, one a feature (which need no declaration), or one a channel, with trailing ones that only broadcast.
    shape = prelu.negative_slope.shape
    broadcast = len(shape) - max((axis + 1 for axis, size in enumerate(shape) if size != 1), default=0)
    return None if len(shape) < 2 else ("out", *("stack",) * broadcast)


def _weight_norm_gain(wrapper: Any) -> Axes:
    weight = find_axes(wrapper.layer, wrapper.weight_name)
    of_weight = wrapper.g.ndim if weight is None else len(weight.words)
    kept = None if wrapper.axis is None else wrapper.axis % of_weight
    words = ("out" if axis == kept else "stack" for axis in range(of_weight))
    return axes(*words, constant=1.0, norm_of=f"layer.{wrapper.weight_name}")


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
    for conv, weight in ((eqx.nn.Conv, _conv_weight), (eqx.nn.ConvTranspose, _transposed_conv_weight)):
        register_axes(
            conv,
            weight=weight,
            # shape (out, 1, 1, ...): the trailing ones only broadcast
            bias=lambda m: axes("out", *("stack",) * m.num_spatial_dims, constant=0.0, beside="weight"),
        )
    for cell in (eqx.nn.GRUCell, eqx.nn.LSTMCell):
        register_axes(cell, weight_ih=("out", "in"), weight_hh=("out", "in"), bias=bias)
    register_axes(eqx.nn.GRUCell, bias_n=bias)
    # The projections are eqx.nn.Linear, and what three of them make stays inside, even where heads are few and of one size.
    inside = {f"{name}_proj.weight": ("inner", "in") for name in ("query", "key", "value")}
    register_axes(eqx.nn.MultiheadAttention, **inside)
    register_axes(eqx.nn.PReLU, negative_slope=_prelu_slope)
    register_axes(eqx.nn.WeightNorm, g=_weight_norm_gain)
    # Their parts follow one another: nothing is added to a stream.
    for sequence in (eqx.nn.MLP, eqx.nn.Sequential):
        register_residual(sequence)
    _NORMALISED[eqx.nn.SpectralNorm] = lambda wrapper: f"layer.{wrapper.weight_name}"


_register_equinox()
