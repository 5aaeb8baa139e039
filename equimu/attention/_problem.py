"""What is known of an attention call before it runs, and the checks of its arguments."""

import dataclasses
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from equimu._device import capability, chip, known_platform
from equimu._errors import EquimuError
from equimu._values import check as check_value
from equimu._values import is_traced, shown
from equimu.attention._visible import Visibility


@runtime_checkable
class Aval(Protocol):
    """An array, or a `jax.ShapeDtypeStruct` that stands for one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...


Segments: TypeAlias = Aval | tuple[Aval, Aval] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """The static facts that decide which backend can serve; the rest of the call is traced.

    - `seq_q`, `seq_k`: positions of queries and keys.
    - `heads`, `kv_heads`: heads of queries, and of keys and values.
    - `head_dim`: width of a head.
    - `dtype`: of queries, keys and values.
    - `visibility`: which keys a query may see.
    - `segments`: whether there are documents.
    - `segments_differ`: whether those of the queries are other ones than those of the keys.
    - `q_offset`: position of the first query; None where it is traced.
    - `platform`: `cpu`, `gpu` or `tpu`; None where only the compiler will know it.
    - `chip`: as JAX names the kind of device.
    - `capability`: of an NVIDIA GPU, such as (9, 0); None where it is not known.
    """

    seq_q: int
    seq_k: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: jnp.dtype
    visibility: Visibility
    segments: bool
    segments_differ: bool  # those of the queries from those of the keys
    q_offset: int | None  # None where it is traced
    platform: str | None  # None where only the compiler will know it
    chip: str  # as JAX names the kind of device
    capability: tuple[int, int] | None  # of an NVIDIA GPU, where it is known

    @property
    def reached(self) -> tuple[int, int]:
        """The keys that any query sees by its position, from the first up to before another; all where q_offset is traced."""
        if self.q_offset is None:
            return 0, self.seq_k
        left, right = self.visibility.keys(self.q_offset, self.q_offset + self.seq_q - 1)
        begin = 0 if left is None else min(max(left, 0), self.seq_k)
        end = self.seq_k if right is None else min(max(right + 1, 0), self.seq_k)
        return begin, max(begin, end)

    def trimmed(self) -> "Problem":
        """The same problem without the keys that no query sees; as it is where that would be all of them."""
        begin, end = self.reached
        if self.q_offset is None or end - begin in (0, self.seq_k):
            return self
        offset = self.q_offset - begin
        return dataclasses.replace(self, seq_k=end - begin, q_offset=offset, segments_differ=self.segments)


def split_segments(segment_ids: Segments) -> tuple[Any, Any]:
    """The ids of the queries and of the keys: one array may serve both."""
    return segment_ids if isinstance(segment_ids, tuple) else (segment_ids, segment_ids)


def check_arrays(**arrays: Any) -> None:
    """Raises an `EquimuError` unless each, by its name, is an array or the shape of one."""
    for name, array in arrays.items():
        if not isinstance(array, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            raise EquimuError(f"{name} must be an array, got {shown(array)}")


def check_window(window: Any) -> None:
    """Raises an `EquimuError` unless it is a number of positions or None."""
    if window is None:
        return
    if not isinstance(window, int | np.integer) or isinstance(window, bool):
        raise EquimuError(f"window is {shown(window)}: give the number of visible positions as a whole number, or None")
    if window < 1:
        raise EquimuError(f"window is {window}: give the number of visible positions, at least 1, or None")


def check(
    q: Aval,
    k: Aval,
    v: Aval,
    *,
    scale: Any,
    causal: bool,
    window: Any,
    segment_ids: Segments,
    q_offset: Any,
) -> Problem:
    """The problem that the arguments pose, or an error that names the argument that cannot be.

    Raises:
        EquimuError: ranks, shapes, dtypes or head counts that do not fit together, a window that is not
            positive, a scale, an offset or a window that is not a number, segment ids that are not integers.
    """
    check_arrays(q=q, k=k, v=v)
    check_value(bool, causal=causal)
    for name, array in (("q", q), ("k", k), ("v", v)):
        if len(array.shape) < 3:
            raise EquimuError(
                f"{name} has shape {array.shape}: attention needs at least the axes (seq, heads, head_dim)"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise EquimuError(f"{name} has dtype {array.dtype}, which is not a floating-point type: cast it")
        if array.dtype != q.dtype:
            raise EquimuError(f"{name} has dtype {array.dtype} and q has {q.dtype}: cast them to one dtype")

    *batch, seq_q, heads, head_dim = q.shape
    *k_batch, seq_k, kv_heads, k_head_dim = k.shape
    if k.shape != v.shape:
        raise EquimuError(f"v has shape {v.shape} and k has {k.shape}: they must be equal")
    if k_batch != batch:
        raise EquimuError(
            f"k has the batch axes {tuple(k_batch)} and q has {tuple(batch)}: broadcast or vmap one of them"
        )
    if k_head_dim != head_dim:
        raise EquimuError(f"k has head_dim {k_head_dim} and q has {head_dim}: they must be equal")
    if kv_heads == 0 or heads % kv_heads:
        raise EquimuError(
            f"q has {heads} heads, which are not divisible by the {kv_heads} heads of k and v: "
            "each key/value head must serve equally many query heads"
        )
    check_window(window)
    for name, value, kinds, needed in (
        ("scale", scale, (jnp.floating, jnp.integer), "a number, for example head_dim**-0.5"),
        ("q_offset", q_offset, (jnp.integer,), "a whole number"),
    ):
        if not isinstance(value, int | float | np.generic | np.ndarray | jax.Array):
            raise EquimuError(f"{name} is {value!r}: give {needed}")
        if jnp.ndim(value) != 0:
            raise EquimuError(f"{name} has shape {jnp.shape(value)}: give a scalar (vmap where it varies)")
        dtype = jnp.result_type(value)
        if not any(jnp.issubdtype(dtype, kind) for kind in kinds):
            raise EquimuError(f"{name} has dtype {dtype}: give {needed}")
    if not is_traced(scale):
        check_value(float, scale=scale)

    if isinstance(segment_ids, tuple) and len(segment_ids) != 2:
        raise EquimuError(
            f"segment_ids are {len(segment_ids)} arrays: give one, or a pair (of the queries, of the keys)"
        )
    q_segments, k_segments = split_segments(segment_ids)
    for name, ids, seq in (("queries", q_segments, seq_q), ("keys", k_segments, seq_k)):
        if ids is not None:
            check_arrays(**{f"segment_ids of the {name}": ids})
        if ids is not None and not jnp.issubdtype(ids.dtype, jnp.integer):
            raise EquimuError(f"segment_ids of the {name} have dtype {ids.dtype}: give integers")
        if ids is not None and ids.shape != (*batch, seq):
            raise EquimuError(
                f"segment_ids of the {name} have shape {ids.shape} where {(*batch, seq)} is needed: "
                "give one array for both, or a pair (of the queries, of the keys) where their lengths differ"
            )

    return Problem(
        seq_q=seq_q,
        seq_k=seq_k,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=jnp.dtype(q.dtype),
        visibility=Visibility(causal=causal, window=None if window is None else int(window)),
        segments=segment_ids is not None,
        segments_differ=isinstance(segment_ids, tuple) and q_segments is not k_segments,
        q_offset=int(q_offset) if isinstance(q_offset, int | np.integer) else None,
        platform=known_platform(),
        chip=chip(),
        capability=capability(),
    )
