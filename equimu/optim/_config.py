"""Optimizers as values: what a config holds, with their schedule; and their names."""

import abc
import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from equimu._call import call_of, name_of_call
from equimu._errors import EquimuError, nearest
from equimu._types import PyTree, Scalar
from equimu._values import (
    DecayRate,
    NotNegative,
    Positive,
    Share,
    check_class,
    check_fields,
    checked,
    fields_from_dict,
    hints_of,
    shown,
    takes_ints,
)
from equimu.optim._beta import Beta
from equimu.optim._epsilon import epsilon_shares
from equimu.optim._matrix_optimizers import adafactor, muon
from equimu.optim._optimizers import adamw, lion, sgd
from equimu.optim._schedule import check_schedule, warmup_schedule
from equimu.parameterization import DecayRule, Family, Tree

_NAME = "name"
_TRACED = "traced"
_Self = TypeVar("_Self", bound="Optimizer")


def traced(default: Any) -> Any:
    """A field of an optimizer whose number is an input of the compiled program: runs that differ in it share the program.

    The optimizer's `transformation` then finds a traced scalar in the field (or, where the field is declared as
    `equimu.optim.DecayRate`, a `Beta`, which behaves as one). Zero and None stay what they are, since programs differ by what
    they leave out.

    Args:
        default: of the field.

    Example:
        >>> class Mine(mu.Optimizer):
        ...     momentum: float = traced(0.9)
    """
    return dataclasses.field(default=default, metadata={_TRACED: True})


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer(abc.ABC):
    """An optimizer and its schedule, as a value.

    Subclass it as a frozen dataclass, and give it a name by `register_optimizer`: its fields are flags, and part of what a run
    is. Its learning rate, weight decay and warm-up, and the fields made by `traced`, are inputs of a run's compiled program;
    what else it has is part of the program, so that a sweep over it compiles once for each value.

    - `family`: of update rules, which decides how a table's learning rates are written.

    Raises:
        EquimuError: a field that cannot be.
    """

    family: ClassVar[Family]

    learning_rate: NotNegative = 2**-5
    """Base learning rate; that of an array is a multiple of it, by the table."""
    weight_decay: NotNegative = 0.0
    """Base weight decay."""
    weight_decay_rule: DecayRule = "independent"
    """What weight decay is multiplied by: standard, the learning rate; scaled, the base learning rate; independent, neither; l2
    adds it to the gradient."""
    clip_norm: Positive | None = 1.0
    """Global norm to which gradients are clipped; None for no clipping. Compiled in: as an input it changes how the compiler
    rounds, and with that the bits of runs."""
    warmup: Share = 0.1
    """Share of the steps."""
    schedule: str = "linear"
    """Of the learning rate after the warm-up: linear, cosine, constant, wsd (constant, and linear in the last fifth),
    inverse_sqrt, or a registered one."""
    floor: NotNegative = traced(1e-4)
    """The schedule's factor at the first and the last update."""
    first_moment_dtype: Literal["float32", "bfloat16"] = "float32"
    """What the first moment is kept in."""

    def __post_init__(self) -> None:
        check_fields(self, "optimizer.")
        check_schedule("optimizer.schedule", self.schedule)

    def build(
        self, tree: Tree[Any], *, learning_rate: Scalar, weight_decay: Scalar, steps: Any, warmup: Any
    ) -> optax.GradientTransformationExtraArgs:
        """The transformation for a tree of rules.

        Args:
            tree: the tree of rules.
            learning_rate, weight_decay: base values; may be traced, in place of the fields of these names.
            steps: of the run.
            warmup: steps of it.
        """
        return self.transformation(
            tree,
            learning_rate=learning_rate,
            # a decay of zero is left out of the program
            weight_decay=weight_decay if self.weight_decay else 0.0,
            schedule=warmup_schedule(total=steps, warmup=warmup, decay=self.schedule, floor=self.floor),
            clip_norm=self.clip_norm,
            mu_dtype=jnp.dtype(self.first_moment_dtype),
        )

    def inputs(self) -> dict[str, Any]:
        """The numbers of the fields made by `traced`, by name, as arrays; without those that are zero or None."""
        hints = hints_of(type(self))
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get(_TRACED) and value:
                found[field.name] = Beta.of(value) if hints[field.name] == DecayRate else jnp.asarray(value)
        return found

    def with_inputs(self: _Self, inputs: Mapping[str, Any]) -> _Self:
        """The optimizer with these numbers in its fields, which may be traced."""
        copied = copy.copy(self)
        for name, value in inputs.items():
            object.__setattr__(copied, name, value)
        return copied

    @abc.abstractmethod
    def transformation(self, tree: Tree[Any], **common: Any) -> optax.GradientTransformationExtraArgs:
        """The transformation for a tree of rules.

        Args:
            tree: the tree of rules.
            common: `learning_rate`, `weight_decay`, `schedule`, `clip_norm` and `mu_dtype`, as `adamw` takes them.
        """

    def epsilon_shares(self, tree: Tree[Any], opt_state: PyTree) -> Mapping[str, Float[Array, ""]]:
        """As `equimu.optim.epsilon_shares`; nothing for optimizers without an epsilon."""
        del tree, opt_state
        return {}


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """`equimu.adamw`."""

    family: ClassVar[Family] = "adam"

    b1: DecayRate = traced(0.9)
    """Decay rate of the first moment."""
    b2: DecayRate = traced(0.95)
    """Decay rate of the second moment."""
    eps: NotNegative = traced(1e-8)
    """Epsilon, beside the root of the second moment."""

    def transformation(self, tree: Tree[Any], **common: Any) -> optax.GradientTransformationExtraArgs:
        """As `equimu.adamw`."""
        return adamw(tree, b1=self.b1, b2=self.b2, eps=self.eps, **common)

    def epsilon_shares(self, tree: Tree[Any], opt_state: PyTree) -> Mapping[str, Float[Array, ""]]:
        """Of all leaves."""
        return epsilon_shares(tree, opt_state, eps=self.eps, b2=self.b2)


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """`equimu.lion`."""

    family: ClassVar[Family] = "sign"

    b1: DecayRate = traced(0.9)
    """Share of the momentum in the direction of an update."""
    b2: DecayRate = traced(0.95)
    """Decay rate of the momentum."""

    def transformation(self, tree: Tree[Any], **common: Any) -> optax.GradientTransformationExtraArgs:
        """As `equimu.lion`."""
        return lion(tree, b1=self.b1, b2=self.b2, **common)


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """`equimu.sgd`."""

    family: ClassVar[Family] = "sgd"

    momentum: DecayRate = traced(0.9)
    """Decay rate of the momentum; 0 for none."""

    def transformation(self, tree: Tree[Any], **common: Any) -> optax.GradientTransformationExtraArgs:
        """As `equimu.sgd`."""
        return sgd(tree, momentum=self.momentum or None, **common)


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """`equimu.adafactor`."""

    family: ClassVar[Family] = "adafactor"

    def transformation(self, tree: Tree[Any], **common: Any) -> optax.GradientTransformationExtraArgs:
        """As `equimu.adafactor`."""
        return adafactor(tree, **common)


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """`equimu.muon`."""

    family: ClassVar[Family] = "muon"

    momentum: DecayRate = traced(0.9)
    """Decay rate of the momentum of matrices."""
    b1: DecayRate = traced(0.9)
    """Decay rate of Adam's first moment, for all other arrays."""
    b2: DecayRate = traced(0.95)
    """Decay rate of Adam's second moment."""
    eps: NotNegative = traced(1e-8)
    """Adam's epsilon."""

    def transformation(self, tree: Tree[Any], **common: Any) -> optax.GradientTransformationExtraArgs:
        """As `equimu.muon`."""
        return muon(tree, beta=self.momentum, b1=self.b1, b2=self.b2, eps=self.eps, **common)

    def epsilon_shares(self, tree: Tree[Any], opt_state: PyTree) -> Mapping[str, Float[Array, ""]]:
        """Of the leaves that Adam trains."""
        return epsilon_shares(tree, opt_state, eps=self.eps, b2=self.b2)


_REGISTERED: dict[str, type[Optimizer]] = {
    "adamw": AdamW,
    "lion": Lion,
    "sgd": SGD,
    "adafactor": Adafactor,
    "muon": Muon,
}
_OWN = frozenset(_REGISTERED)


def register_optimizer(name: str, optimizer: type[Optimizer]) -> None:
    """Gives a class of optimizers a name, by which configs and the command line call it: `--optimizer.name mine`.

    Registering a name again replaces its class.

    Args:
        name: not one of this library's.
        optimizer: a frozen dataclass, all of whose fields have defaults.

    Raises:
        EquimuError: the name is taken, or the class is not such a one.
    """
    check_class("optimizer", optimizer)
    if checked("the name of an optimizer", name, str) in _OWN:
        raise EquimuError(f"{name!r} is an optimizer of equimu's own; choose another name")
    parameters: Any = vars(optimizer).get("__dataclass_params__")
    if not issubclass(optimizer, Optimizer) or parameters is None or not parameters.frozen:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EquimuError(
            f"{optimizer.__name__} must be a subclass of equimu.Optimizer and a frozen dataclass; write "
            "@dataclasses.dataclass(frozen=True, kw_only=True) above it"
        )
    _REGISTERED[name] = optimizer


def optimizer_class(name: str) -> type[Optimizer]:
    """The class of optimizers of a name.

    Raises:
        EquimuError: there is none; with the nearest valid name.
    """
    if name not in _REGISTERED:
        raise EquimuError(f"optimizer.name {name!r} is unknown: {nearest(name, _REGISTERED)}")
    return _REGISTERED[name]


def optimizer_name(optimizer: Optimizer) -> str:
    """The name of an optimizer's class.

    Raises:
        EquimuError: it has none.
    """
    for name, cls in _REGISTERED.items():
        if cls is type(optimizer):
            return name
    name = type(optimizer).__name__
    raise EquimuError(f"{name} has no name that a config can hold; write equimu.register_optimizer('mine', {name})")


def optimizer_to_dict(optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer as plain JSON types."""
    return {_NAME: optimizer_name(optimizer), **dataclasses.asdict(optimizer)}


def optimizer_from_dict(values: Mapping[str, Any], where: str = "optimizer.") -> Optimizer:
    """The optimizer of plain JSON types; fields left out keep their defaults, and `name` is `"adamw"`.

    Args:
        values: its fields, and `name`.
        where: what is written before a field in an error.

    Raises:
        EquimuError: an unknown name or key (with the nearest valid one), or a value of the wrong type.
    """
    name = values.get(_NAME, "adamw")
    if not isinstance(name, str):
        raise EquimuError(f"{where}name must be the name of an optimizer, e.g. 'lion', got {shown(name)}")
    if "decay" in values:
        raise EquimuError(f"{where}decay is now {where}schedule; write schedule = {shown(values['decay'])}")
    return fields_from_dict(optimizer_class(name), {k: v for k, v in values.items() if k != _NAME}, where)


def optimizer_from_text(text: str, like: Optimizer | None = None) -> Optimizer:
    """The optimizer that a text names: `lion`, or with fields of its own `lion(b2=0.98)`.

    Args:
        text: a name, and numbers, words or None in brackets.
        like: an optimizer whose fields are taken where the text says nothing: all of them if it is of the same class, else
            those that all optimizers have. None for the defaults.

    Raises:
        EquimuError: the text is not such a call; an unknown name or field, with the nearest valid one.
    """
    call = call_of(text)
    if call is None:
        raise EquimuError(f"{shown(text)} is not an optimizer; write a name, or a call: lion(b2=0.98)")
    name, own = call
    cls = optimizer_class(name)
    common = type(like) if isinstance(like, cls) else Optimizer
    given = {} if like is None else {field.name: getattr(like, field.name) for field in dataclasses.fields(common)}
    return fields_from_dict(cls, {**given, **own}, "optimizer.")


def is_optimizer_text(text: str) -> bool:
    """Whether a text begins with the name of an optimizer."""
    return name_of_call(text) in _REGISTERED
