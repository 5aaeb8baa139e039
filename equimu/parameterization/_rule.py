"""The rule of one leaf: the five numbers, and what they were computed from."""

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeAlias, TypeVar, get_args

from wadler_lindig import TextDoc

from equimu._errors import EquimuError
from equimu._types import Scalar
from equimu._values import Real
from equimu.declarations import Leaf
from equimu.parameterization._law import Dimensions

Role: TypeAlias = Literal["input", "hidden", "output", "vector", "scalar"]
"""What an array is, by which of its two sides grow."""
Family: TypeAlias = Literal["adam", "sign", "sgd", "adafactor", "muon"]
"""Families of optimizers, by how their updates depend on the gradient."""
DecayRule: TypeAlias = Literal["standard", "independent", "scaled", "l2"]
"""Where weight decay stands in the update; see `equimu.adamw`."""

ROLES: tuple[Role, ...] = get_args(Role)
"""All roles."""
FAMILIES: tuple[Family, ...] = get_args(Family)
DECAY_RULES: tuple[DecayRule, ...] = get_args(DecayRule)
"""All rules of weight decay."""
# The five of every rule, and what only rules of batch and length set.
NUMBERS = ("init_std", "multiplier", "lr", "weight_decay", "eps", "one_minus_beta")
"""The numbers of a rule, by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """How one array is drawn, used and trained. A leaf of the tree, in the array's place.

    The five numbers (Python floats, or traced scalars where a program sweeps over them):

    - `init_std`: standard deviation of the initial draw.
    - `multiplier`: what the array is multiplied by in the forward pass.
    - `lr`, `weight_decay`, `eps`: factors on the base learning rate, decay and optimizer epsilon.

    And a sixth, `one_minus_beta`, that is 1 but for rules of batch size and training length: a factor on 1 − β of the
    optimizer's running averages.

    `init_mean` is the value a constant array starts from (gains 1, biases 0); None where the model itself makes the array
    (a table, a mask: neither constant nor drawn). With `as_drawn` the array is what the model's constructor draws, moved to
    `init_mean` and `init_std`. `own_mean` and `own_std` are those of the constructor's own draw at these sizes; None where it
    draws nothing, or nothing that could be measured. `axes` says what each axis of the shape is, in the words of
    `equimu.register_axes` (an `inner` axis, which makes a role, is an `out` here). `optimizer` is the family of update rules
    that `lr` and `eps` are right for, and `decay` the rule of weight decay that `weight_decay` is right for (see
    `equimu.adamw`).

    - `path`, `shape`, `dtype`: of the array.
    - `dimensions`: the sizes that the laws were evaluated at.
    - `leaf`: where it stands, and all that is declared of it.
    - `blueprint`: the model's own constructor, for what only it can make.

    Raises:
        EquimuError: a number that is negative or not finite.
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[str, ...]
    role: Role
    init_mean: Scalar | None
    init_std: Scalar
    as_drawn: bool = False
    own_mean: Real | None = None
    own_std: Real | None = None
    multiplier: Scalar
    lr: Scalar
    weight_decay: Scalar
    eps: Scalar
    one_minus_beta: Scalar = 1.0
    optimizer: Family
    decay: DecayRule
    dimensions: Dimensions
    # Where the array stands in the model, and all that is declared of it.
    leaf: Leaf = dataclasses.field(repr=False, compare=False)
    # The model's own constructor at the target sizes, for what only it can make. Shared by all rules of a tree.
    blueprint: Any = dataclasses.field(repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("init_std", "lr", "weight_decay", "eps", "one_minus_beta"):
            value = getattr(self, name)
            if isinstance(value, float | int) and not 0 <= value < math.inf:
                raise EquimuError(f"{self.path}: {name} must be finite and not negative, got {value}")

    def __pdoc__(self, **_: Any) -> TextDoc:
        """Within a tree, in one line; trees are printed in messages, too."""
        return TextDoc(f"Rule({self.path!r}, {'×'.join(map(str, self.shape)) or 'scalar'}, {self.role})")


Model = TypeVar("Model")
"""The class of a model, of which a `Tree` is."""

if TYPE_CHECKING:

    class Tree(Generic[Model]):
        """The tree of rules of a `Model`: of the model's own class, with a `Rule` in place of each inexact array.

        For type checkers it is another class, so that the one is not given in place of the other. Its parts are not known.
        """

        def __getattr__(self, name: str) -> Any: ...
else:
    Tree = Annotated[Model, "a tree of rules"]


def is_rule(x: Any) -> bool:
    """Whether a leaf of a tree is a `Rule`.

    Args:
        x: any leaf.
    """
    return isinstance(x, Rule)
