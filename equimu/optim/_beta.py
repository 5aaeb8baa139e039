"""The share that a running average keeps in a step, as an input of a compiled program."""

import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from equimu._values import Real


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beta:
    """β and 1 − β, both rounded once.

    In float32, 1 − 0.9 is not 0.1: as a number of the program β is subtracted from 1 in double precision before it is rounded,
    as an input after it was rounded. With both as inputs an update has the bits that it has with β compiled in. It behaves as
    the number β in what optimizers compute with it.

    - `value`: β.
    - `complement`: 1 − β.
    """

    # scalars, or what stands for them while JAX looks at the tree
    value: Any
    complement: Any

    @classmethod
    def of(cls, beta: Real) -> "Beta":
        """From a number."""
        return cls(jnp.asarray(beta), jnp.asarray(1 - beta))

    def __jax_array__(self) -> Array:
        return self.value

    def __rsub__(self, other: Any) -> Any:
        return self.complement if isinstance(other, int | float) and other == 1 else other - self.value

    def __sub__(self, other: Any) -> Any:
        return self.value - other

    def __mul__(self, other: Any) -> Any:
        return self.value * other

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Any:
        return self.value + other

    __radd__ = __add__

    def __pow__(self, other: Any) -> Any:
        return self.value**other


Rate: TypeAlias = Any  # a `Scalar`, or a `Beta`, which the types of optax do not know
