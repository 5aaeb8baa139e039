"""Affine maps."""

from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._types import Key
from equimu._values import Size, check, check_key
from equimu.declarations import Axes, axes, register_axes
from equimu.sharding import scatter_positions

# The side of a map that devices along `tensor` share, and the number of equal parts that it may be cut into.
Split: TypeAlias = tuple[Literal["in", "out"], int]


class Linear(eqx.Module):
    """`x @ weight + bias` over the last axis, in the dtype of `x`.

    Drawn with variance 1/in, or zero. The weight is (in, out).
    """

    weight: Float[Array, "d_in d_out"]
    bias: Float[Array, " d_out"] | None
    inner: bool = eqx.field(static=True)
    split: Split | None = eqx.field(static=True)

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        use_bias: bool = False,
        zero: bool = False,
        inner: bool = False,
        split: Split | None = None,
        key: Key,
    ):
        """
        Args:
            d_in, d_out: sizes of the input's and output's last axis.
            use_bias: add a bias, zero at the start.
            zero: start the weight at zero.
            inner: the output stays inside the network even where its size does not grow with the width, so the weight
                is a hidden matrix and no readout: keys and values of multi-query attention.
            split: the side that devices along a mesh's `tensor` axis share, and into how many equal parts it may be cut. Where
                it is `"in"`, the output is summed over the devices, and each gets that of its own positions.
            key: random key for the weight.

        Raises:
            EquimuError: a size or key that cannot be.
        """
        check(Size, d_in=d_in, d_out=d_out)
        check_key("key", key)
        draw = jnp.zeros((d_in, d_out)) if zero else jax.random.normal(key, (d_in, d_out)) * d_in**-0.5
        self.weight = draw
        self.bias = jnp.zeros(d_out) if use_bias else None
        self.inner = inner
        self.split = split

    def __call__(self, x: Float[Array, "*seq d_in"], *, dtype: Any = None) -> Float[Array, "*own d_out"]:
        """The map; `dtype` is what products are summed and returned in, by default the dtype of `x`."""
        y = jnp.matmul(x, self.weight.astype(x.dtype), preferred_element_type=dtype)
        if self.split is not None and self.split[0] == "in":
            y = scatter_positions(y)
        return y if self.bias is None else y + self.bias.astype(y.dtype)

    def columns(self, start: int | Int[Array, ""], size: int) -> "Linear":
        """The map to `size` of the outputs, from `start` on."""
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=x.ndim - 1), self)


def _weight_axes(linear: Linear) -> Axes:
    split = None if linear.split is None else (("in", "out").index(linear.split[0]), linear.split[1])
    return axes("in", "inner" if linear.inner else "out", split=split)


def _bias_axes(linear: Linear) -> Axes:
    split = None if linear.split is None or linear.split[0] == "in" else (0, linear.split[1])
    return axes("out", constant=0.0, bias_of="weight", split=split)


register_axes(Linear, weight=_weight_axes, bias=_bias_axes)
