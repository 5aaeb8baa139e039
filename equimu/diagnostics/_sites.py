"""Derived sites: quantities inside a module that no submodule puts out, such as attention scores."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from equimu._errors import EquimuError
from equimu.nn import SelfAttention

Derive: TypeAlias = Callable[..., Mapping[str, Array]]


@dataclasses.dataclass(frozen=True)
class Derived:
    """What `register_sites` was told of a class."""

    derive: Derive
    before: str


_REGISTRY: dict[type, Derived] = {}


def register_sites(cls: type[eqx.Module], derive: Derive, *, before: str) -> None:
    """Declares products of activations that are computed inside a module, for a coordinate check to see.

    They are expected to behave as attention scores do.

    Args:
        cls: the module class; its subclasses inherit the declaration.
        derive: called as `derive(module, *args, **kwargs)` with the arguments of each call; returns arrays by name.
        before: the field of the submodule in front of which the quantities stand in the order of execution.

    Raises:
        EquimuError: the class is not called.

    Example:
        >>> register_sites(MyAttention, lambda module, x: {"scores": module.scores(x)}, before="output")
    """
    if "__call__" not in dir(cls):
        raise EquimuError(f"{cls.__name__} has no __call__, so there is no call to derive sites from")
    _REGISTRY[cls] = Derived(derive, before)


def find_derived(cls: type) -> Derived | None:
    """The declaration for a class, looked up along its bases; None where there is none."""
    return next((_REGISTRY[base] for base in cls.__mro__ if base in _REGISTRY), None)


def _scores(attention: SelfAttention, x: Float[Array, "seq d_model"], *_: Any) -> dict[str, Array]:
    # Of segments too: scores depend on distances of positions alone.
    q, k = attention.heads(x)[:2]
    k = jnp.repeat(k, q.shape[1] // k.shape[1], axis=1)
    return {"scores": attention.scale * jnp.einsum("qhd,khd->hqk", q, k)}


def _equinox_scores(
    attention: eqx.nn.MultiheadAttention,
    query: Float[Array, "seq_q d_query"],
    key_: Float[Array, "seq_k d_key"],
    *_: Any,
    **__: Any,
) -> dict[str, Array]:
    q, k = jax.vmap(attention.query_proj)(query), jax.vmap(attention.key_proj)(key_)
    q, k = (x.reshape(len(x), attention.num_heads, -1) for x in (q, k))
    # Equinox scales by 1/sqrt(head_dim), and has no other choice.
    return {"scores": jnp.einsum("qhd,khd->hqk", q, k) * attention.qk_size**-0.5}


register_sites(SelfAttention, _scores, before="output")
register_sites(eqx.nn.MultiheadAttention, _equinox_scores, before="output_proj")
