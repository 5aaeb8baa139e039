"""The rule of one leaf: the five numbers, and what they were computed from."""

import dataclasses
import math
from typing import Any, Literal, TypeAlias, get_args

from equimu._errors import EquimuError
from equimu._types import Scalar
from equimu.parameterization._law import Dimensions

Role: TypeAlias = Literal["input", "hidden", "output", "vector", "scalar"]
Family: TypeAlias = Literal["adam", "sign", "sgd"]

ROLES: tuple[Role, ...] = get_args(Role)
FAMILIES: tuple[Family, ...] = get_args(Family)
NUMBERS = ("init_std", "multiplier", "lr", "weight_decay", "eps")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """How one array is drawn, used and trained. A leaf of the tree, in the array's place.

    The five numbers (Python floats, or traced scalars where a program sweeps over them):

    - `init_std`: standard deviation of the initial draw.
    - `multiplier`: what the array is multiplied by in the forward pass.
    - `lr`, `weight_decay`, `eps`: factors on the base learning rate, decay and optimizer epsilon.

    `init_mean` is the value a constant array starts from (gains 1, biases 0); None where the model itself makes the array
    (a table, a mask: neither constant nor drawn). `optimizer` is the family of update rules that `lr` and `eps` are right for.
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    role: Role
    init_mean: Scalar | None
    init_std: Scalar
    multiplier: Scalar
    lr: Scalar
    weight_decay: Scalar
    eps: Scalar
    optimizer: Family
    dimensions: Dimensions
    # The model's own constructor at the target sizes, for what only it can make. Shared by all rules of a tree.
    blueprint: Any = dataclasses.field(repr=False, compare=False)

    def __post_init__(self):
        for name in ("init_std", "lr", "weight_decay", "eps"):
            value = getattr(self, name)
            if isinstance(value, float | int) and not 0 <= value < math.inf:
                raise EquimuError(f"{self.path}: {name} must be finite and not negative, got {value}")


def is_rule(x: Any) -> bool:
    """Whether a leaf of a tree is a `Rule`."""
    return isinstance(x, Rule)
