"""The two functions of FlashAttention's package in plain JAX, as its documentation has them, for machines without a GPU.

Like its kernels they know nothing of `jax.vmap`.
"""

import functools

import jax
import jax.numpy as jnp


def _seen(queries, keys, is_causal, window_size):
    """The last query is aligned with the last key; -1 bounds no side."""
    left, right = window_size[0], 0 if is_causal else window_size[1]
    away = jnp.arange(keys) - (jnp.arange(queries)[:, None] + keys - queries)
    return ((away >= -left) if left >= 0 else True) & ((away <= right) if right >= 0 else jnp.ones_like(away, bool))


@functools.partial(jax.custom_batching.custom_vmap)
def _no_vmap(x):
    return x


@_no_vmap.def_vmap
def _refuse(axis_size, in_batched, x):
    raise NotImplementedError("the kernel has no rule for vmap")


@jax.custom_vjp
def _kernel(q):
    return _no_vmap(q)


_kernel.defvjp(lambda q: (_no_vmap(q), None), lambda _, d: (_no_vmap(d),))


def _attend(q, k, v, scale, seen):
    q = _kernel(q)
    k, v = (jnp.repeat(x, q.shape[-2] // k.shape[-2], axis=-2) for x in (k, v))
    scores = scale * jnp.einsum("...qhd,...khd->...hqk", q, k, precision="highest")
    some = seen.any(-1, keepdims=True)
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1, where=seen | ~some)
    out = jnp.einsum("...hqk,...khd->...qhd", jnp.where(seen, weights, 0), v, precision="highest")
    return out.astype(q.dtype)


def flash_mha(query, key, value, softmax_scale=None, is_causal=False, window_size=(-1, -1)):
    assert query.ndim == 4 and softmax_scale > 0
    seen = _seen(query.shape[1], key.shape[1], is_causal, window_size)
    return _attend(query, key, value, softmax_scale, seen)


def flash_mha_varlen(
    query, key, value, cu_seqlens, max_seqlen, softmax_scale=None, is_causal=False, window_size=(-1, -1)
):
    assert query.ndim == 3 and cu_seqlens.dtype == jnp.int32 and softmax_scale > 0
    total = query.shape[0]
    # Every token lies in the last document that begins at or before it: those without a token have no say.
    document = jnp.sum(jnp.arange(total)[:, None] >= cu_seqlens[1:], axis=1)
    seen = _seen(total, total, is_causal, window_size) & (document[:, None] == document)
    return _attend(query, key, value, softmax_scale, seen)
