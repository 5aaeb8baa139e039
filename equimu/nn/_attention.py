"""Causal self-attention with grouped key/value heads."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equimu._errors import EquimuError
from equimu._kept import kept
from equimu._types import Key
from equimu._values import Positive, Real, Size, check, check_key
from equimu.attention import decode_attention, dot_product_attention
from equimu.nn._cache import KeyValues
from equimu.nn._linear import Linear
from equimu.nn._norm import Gain, RMSNorm
from equimu.nn._rope import positions_in_segments, rotary
from equimu.sharding import TENSOR, check_share, gather_positions, tensor_parallel_size


class SelfAttention(eqx.Module):
    """Projections, optional qk-norm, rotary embedding, and the fused core.

    `scale` multiplies the scores q·k before the softmax.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    query_norm: RMSNorm | None
    key_norm: RMSNorm | None
    n_head: int = eqx.field(static=True)
    n_kv_head: int = eqx.field(static=True)
    head_dim: int = eqx.field(static=True)
    rotary_base: Real | None = eqx.field(static=True)
    scale: Real = eqx.field(static=True)
    window: int | None = eqx.field(static=True)
    backend: str = eqx.field(static=True)

    def __init__(
        self,
        d_model: int,
        head_dim: int,
        *,
        n_kv_head: int | None = None,
        rotary_base: Real | None = 10_000.0,
        scale: Real | None = None,
        window: int | None = None,
        qk_norm: bool = False,
        norm_gain: Gain = "none",
        norm_eps: Real = 1e-5,
        use_bias: bool = False,
        zero_query: bool = False,
        zero_residual: bool = False,
        backend: str = "auto",
        key: Key,
    ):
        """
        Args:
            d_model: width of the input and the output; a multiple of `head_dim`.
            head_dim: width of one head; there are d_model / head_dim query heads.
            n_kv_head: key/value heads, a divisor of the query heads (1 is multi-query attention); all by default.
            rotary_base: wavelength base of the rotary embedding; None for no positional encoding.
            scale: factor on the scores; 1/head_dim by default, as μP asks (the standard is 1/sqrt(head_dim)).
            window: positions that each sees, its own the last; all before it by default.
            qk_norm: RMS-normalise queries and keys over head_dim, before the rotary embedding.
            norm_gain, norm_eps: as in `RMSNorm`, for the qk-norm.
            use_bias: biases on all four projections.
            zero_query: start the query projection at zero.
            zero_residual: start the output projection at zero.
            backend: as in `equimu.attention.dot_product_attention`.
            key: random key.

        Raises:
            EquimuError: sizes that do not divide each other.
        """
        check(Size, d_model=d_model, head_dim=head_dim)
        check(Size | None, n_kv_head=n_kv_head, window=window)
        check(Positive | None, rotary_base=rotary_base)
        check(float | None, scale=scale)
        check_key("key", key)
        if d_model % head_dim != 0:
            raise EquimuError(f"d_model {d_model} is not a multiple of head_dim {head_dim}; change either")
        if rotary_base is not None and head_dim % 2 != 0:
            raise EquimuError(f"head_dim {head_dim} is odd, so a rotary embedding cannot pair its entries")
        n_head = d_model // head_dim
        n_kv_head = n_head if n_kv_head is None else n_kv_head
        if n_kv_head < 1 or n_head % n_kv_head != 0:
            raise EquimuError(
                f"{n_kv_head} key/value heads do not divide the {n_head} query heads (d_model {d_model} / head_dim {head_dim})"
            )
        q_key, k_key, v_key, o_key = jax.random.split(key, 4)
        d_kv = n_kv_head * head_dim
        self.query = Linear(d_model, d_model, use_bias=use_bias, zero=zero_query, split=("out", n_head), key=q_key)
        self.key = Linear(d_model, d_kv, use_bias=use_bias, inner=True, split=("out", n_kv_head), key=k_key)
        self.value = Linear(d_model, d_kv, use_bias=use_bias, inner=True, split=("out", n_kv_head), key=v_key)
        self.output = Linear(d_model, d_model, use_bias=use_bias, zero=zero_residual, split=("in", n_head), key=o_key)
        self.query_norm = RMSNorm(head_dim, gain=norm_gain, eps=norm_eps) if qk_norm else None
        self.key_norm = RMSNorm(head_dim, gain=norm_gain, eps=norm_eps) if qk_norm else None
        self.n_head = n_head
        self.n_kv_head = n_kv_head
        self.head_dim = head_dim
        self.rotary_base = rotary_base
        self.scale = 1.0 / head_dim if scale is None else scale
        self.window = window
        self.backend = backend

    def __call__(
        self, x: Float[Array, "seq d_model"], segment_ids: Int[Array, " all"] | None = None
    ) -> Float[Array, "seq d_model"]:
        """The mixed values of each position.

        Args:
            x: of a sequence, or under tensor parallelism the device's own positions of it.
            segment_ids: of all positions, where a sequence holds several documents one after the other: a position sees those
                of its own segment, and rotary positions begin at 0 in each.
        """
        q, k, v = kept(self.heads(x, None if segment_ids is None else positions_in_segments(segment_ids)))
        mixed = kept(
            dot_product_attention(
                q,
                k,
                v,
                scale=self.scale,
                window=self.window,
                segment_ids=segment_ids,
                backend=self.backend,
            )
        )
        return self.output(mixed.reshape(mixed.shape[0], -1))

    def extend(
        self, x: Float[Array, "seq d_model"], cache: KeyValues, length: int | Int[Array, ""]
    ) -> tuple[Float[Array, "seq d_model"], KeyValues]:
        """The output for positions that follow others, whose keys and values are in a cache.

        Args:
            x: of the new positions.
            cache: with room for the new positions.
            length: positions before them.

        Returns:
            The output, and the cache with the new positions.
        """
        q, k, v = self.heads(x, length + jnp.arange(x.shape[0]))
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, new, length, axis=0)
            for old, new in zip(cache, (k, v), strict=True)
        )
        mixed = decode_attention(q, keys, values, scale=self.scale, window=self.window, length=length + x.shape[0])
        return self.output(mixed.reshape(mixed.shape[0], -1)), KeyValues(keys, values)

    def heads(
        self, x: Float[Array, "seq d_model"], positions: Int[Array, " all"] | None = None
    ) -> tuple[
        Float[Array, "all heads head_dim"], Float[Array, "all kv_heads head_dim"], Float[Array, "all kv_heads head_dim"]
    ]:
        """Queries, keys and values of all positions, as the core takes them: normalised and rotated.

        Args:
            x: of the device's own positions.
            positions: where they stand, for the rotary embedding; 0, 1, 2, ... by default.
        """
        n = tensor_parallel_size(x)
        check_share("query heads", self.n_head, self.query.weight.shape[-1] // self.head_dim, n)
        key, value = self._own_key_value(n)
        x = gather_positions(x)
        q, k, v = (layer(x).reshape(x.shape[0], -1, self.head_dim) for layer in (self.query, key, value))
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if self.rotary_base is not None:
            positions = jnp.arange(x.shape[0]) if positions is None else positions
            q = rotary(q, positions, base=self.rotary_base)
            k = rotary(k, positions, base=self.rotary_base)
        return q, k, v

    def _own_key_value(self, n: int) -> tuple[Linear, Linear]:
        """The maps to the key/value heads that the device's query heads read, if n devices share the heads.

        Raises:
            EquimuError: the heads cannot be shared so.
        """
        if self.n_kv_head % n == 0:
            return self.key, self.value
        if n % self.n_kv_head != 0:
            raise EquimuError(
                f"{self.n_kv_head} key/value heads and {n} devices along `tensor`: one must be a multiple of the other"
            )
        # More devices than heads: each device has all of them, and uses one.
        start = jax.lax.axis_index(TENSOR) * self.n_kv_head // n * self.head_dim
        return self.key.columns(start, self.head_dim), self.value.columns(start, self.head_dim)
