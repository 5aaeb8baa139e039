"""Affine maps."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from equimu._axes import axes, register_axes
from equimu._types import Key


class Linear(eqx.Module):
    """`x @ weight + bias` over the last axis, in the dtype of `x`.

    Drawn with variance 1/in, or zero. The weight is (in, out).
    """

    weight: Float[Array, "d_in d_out"]
    bias: Float[Array, " d_out"] | None
    inner: bool = eqx.field(static=True)

    def __init__(
        self, d_in: int, d_out: int, *, use_bias: bool = False, zero: bool = False, inner: bool = False, key: Key
    ):
        """
        Args:
            d_in, d_out: sizes of the input's and output's last axis.
            use_bias: add a bias, zero at the start.
            zero: start the weight at zero.
            inner: the output stays inside the network even where its size does not grow with the width, so the weight
                is a hidden matrix and no readout: keys and values of multi-query attention.
            key: random key for the weight.
        """
        draw = jnp.zeros((d_in, d_out)) if zero else jax.random.normal(key, (d_in, d_out)) * d_in**-0.5
        self.weight = draw
        self.bias = jnp.zeros(d_out) if use_bias else None
        self.inner = inner

    def __call__(self, x: Float[Array, "*seq d_in"], *, dtype: Any = None) -> Float[Array, "*seq d_out"]:
        """The map; `dtype` is what products are summed and returned in, by default the dtype of `x`."""
        y = jnp.matmul(x, self.weight.astype(x.dtype), preferred_element_type=dtype)
        return y if self.bias is None else y + self.bias.astype(y.dtype)


register_axes(
    Linear,
    weight=lambda linear: ("in", "inner" if linear.inner else "out"),
    bias=axes("out", constant=0.0),
)
