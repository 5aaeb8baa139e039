"""The feed-forward half of a block."""

from typing import Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from equimu._errors import EquimuError, nearest
from equimu._types import Key
from equimu._values import Size, check, check_key
from equimu.nn._linear import Linear
from equimu.sharding import check_share, gather_positions, tensor_parallel_size

Activation: TypeAlias = Literal["relu", "gelu", "squared_relu", "swiglu"]
"""Names of nonlinearities."""


def activate(x: Float[Array, "*seq d_ff"], activation: Activation) -> Float[Array, "*seq d_ff"]:
    """The nonlinearity; of SwiGLU, that of its gate.

    Args:
        x: what the up projection puts out, or the gate of SwiGLU.
        activation: `"relu"`, `"gelu"`, `"squared_relu"` or `"swiglu"`.
    """
    if activation == "swiglu":
        return jax.nn.silu(x)
    if activation == "squared_relu":
        return jnp.square(jax.nn.relu(x))
    return jax.nn.relu(x) if activation == "relu" else jax.nn.gelu(x)


class MLP(eqx.Module):
    """`down(activate(up(x)))`; with SwiGLU `down(activate(gate(x)) · up(x))`."""

    up: Linear
    gate: Linear | None
    down: Linear
    activation: Activation = eqx.field(static=True)
    d_ff: int = eqx.field(static=True)

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
            use_bias: biases on all maps.
            zero_residual: start `down` at zero.
            key: random key.

        Raises:
            EquimuError: unknown activation.
        """
        check(Size, d_model=d_model, d_ff=d_ff)
        check_key("key", key)
        if activation not in get_args(Activation):
            raise EquimuError(f"activation {activation!r} is unknown: {nearest(activation, get_args(Activation))}")
        up_key, gate_key, down_key = jax.random.split(key, 3)
        self.up = Linear(d_model, d_ff, use_bias=use_bias, split=("out", d_ff), key=up_key)
        self.gate = (
            Linear(d_model, d_ff, use_bias=use_bias, split=("out", d_ff), key=gate_key)
            if activation == "swiglu"
            else None
        )
        self.down = Linear(d_ff, d_model, use_bias=use_bias, zero=zero_residual, split=("in", d_ff), key=down_key)
        self.activation = activation
        self.d_ff = d_ff

    def __call__(self, x: Float[Array, "*seq d_model"]) -> Float[Array, "*seq d_model"]:
        n = tensor_parallel_size(x)
        x = gather_positions(x) if n > 1 else x
        up = self.up(x)
        check_share("hidden units of the MLP", self.d_ff, up.shape[-1], n)
        hidden = activate(up, self.activation) if self.gate is None else activate(self.gate(x), self.activation) * up
        return self.down(hidden)
