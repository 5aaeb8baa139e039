"""The feed-forward half of a block."""

from typing import Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from equimu._errors import EquimuError, nearest
from equimu._types import Key
from equimu.nn._linear import Linear

Activation: TypeAlias = Literal["relu", "gelu", "squared_relu", "swiglu"]


def activate(x: Float[Array, "*seq d_up"], activation: Activation) -> Float[Array, "*seq d_ff"]:
    """The nonlinearity. SwiGLU takes twice its output's width, gate half first."""
    if activation == "swiglu":
        gate, value = jnp.split(x, 2, axis=-1)
        return jax.nn.silu(gate) * value
    if activation == "squared_relu":
        return jnp.square(jax.nn.relu(x))
    return jax.nn.relu(x) if activation == "relu" else jax.nn.gelu(x)


class MLP(eqx.Module):
    """`down(activate(up(x)))`. For SwiGLU `up` is one matrix (d_model, 2·d_ff)."""

    up: Linear
    down: Linear
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        activation: Activation = "relu",
        use_bias: bool = False,
        zero_residual: bool = False,
        key: Key,
    ):
        """
        Args:
            d_model: width of the input and the output.
            d_ff: width of the hidden layer.
            activation: `"relu"`, `"gelu"`, `"squared_relu"` or `"swiglu"`.
            use_bias: biases on both maps.
            zero_residual: start `down` at zero.
            key: random key.

        Raises:
            EquimuError: unknown activation.
        """
        if activation not in get_args(Activation):
            raise EquimuError(f"activation {activation!r} is unknown: {nearest(activation, get_args(Activation))}")
        up_key, down_key = jax.random.split(key)
        d_up = 2 * d_ff if activation == "swiglu" else d_ff
        self.up = Linear(d_model, d_up, use_bias=use_bias, key=up_key)
        self.down = Linear(d_ff, d_model, use_bias=use_bias, zero=zero_residual, key=down_key)
        self.activation = activation

    def __call__(self, x: Float[Array, "*seq d_model"]) -> Float[Array, "*seq d_model"]:
        return self.down(activate(self.up(x), self.activation))
