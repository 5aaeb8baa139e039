"""Attention by the formula in float64, and calls of many kinds to compare it with."""

import jax
import jax.numpy as jnp
import numpy as np

from equimu.attention import dot_product_attention


def oracle(q, k, v, *, scale, causal=True, window=None, segment_ids=None, q_offset=0, d_out=None):
    """The output, and where `d_out` is given the gradients of q, k, v and scale: float64, a query at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    q_ids, k_ids = segment_ids if isinstance(segment_ids, tuple) else (segment_ids, segment_ids)
    q_ids, k_ids = (ids if ids is None else np.asarray(ids) for ids in (q_ids, k_ids))
    d_out = d_out if d_out is None else np.asarray(d_out, np.float64)
    out, dq, dk, dv, d_scale = np.zeros_like(q), np.zeros_like(q), np.zeros_like(k), np.zeros_like(v), 0.0
    for at in np.ndindex(q.shape[:-1]):
        *batch, i, head = at
        batch, kv_head = tuple(batch), head * k.shape[-2] // q.shape[-2]
        position = i + q_offset
        keys = [
            j
            for j in range(k.shape[-3])
            if (not causal or j <= position)
            and (window is None or abs(position - j) < window)
            and (q_ids is None or q_ids[batch + (i,)] == k_ids[batch + (j,)])
        ]
        if not keys:
            continue
        seen = batch + (keys, kv_head)
        products = k[seen] @ q[at]
        weights = np.exp(scale * products - np.max(scale * products))
        weights /= weights.sum()
        out[at] = weights @ v[seen]
        if d_out is not None:
            d_weights = v[seen] @ d_out[at]
            d_scores = weights * (d_weights - weights @ d_weights)
            dq[at] = scale * d_scores @ k[seen]
            dk[seen] += scale * d_scores[:, None] * q[at]
            dv[seen] += weights[:, None] * d_out[at]
            d_scale += d_scores @ products
    return out if d_out is None else (out, (dq, dk, dv, d_scale))


def inputs(seq_q, seq_k=None, heads=2, kv_heads=None, head_dim=16, batch=(2,), dtype=jnp.float32, seed=0):
    """q, k, v and a gradient of the output."""
    seq_k, kv_heads = seq_k or seq_q, kv_heads or heads
    shapes = [(seq_q, heads)] + 2 * [(seq_k, kv_heads)] + [(seq_q, heads)]
    rng = np.random.default_rng(seed)  # not jax.random, which compiles for every shape
    return [jnp.asarray(rng.normal(size=(*batch, *shape, head_dim)), dtype) for shape in shapes]


def segments(seq, batch=2, documents=3, seed=0):
    """Packed documents: ids that grow along each sequence."""
    ids = np.random.default_rng(seed).integers(0, documents, (batch, seq))
    return jnp.asarray(np.sort(ids, axis=1), jnp.int32)


def outcome(q, k, v, d_out, *, attend=dot_product_attention, scale, **rest):
    """The output and the gradients of q, k, v and scale, jitted."""

    @jax.jit
    def run(q, k, v, scale, d_out):
        out, pull = jax.vjp(lambda q, k, v, scale: attend(q, k, v, scale=scale, **rest), q, k, v, scale)
        return out, pull(d_out)

    return run(q, k, v, jnp.float32(scale), d_out)


def errors(result, expected):
    """The largest error of each array, relative to the largest number of the expected one (or to 1)."""

    def error(a, b):
        # The gradient of the scale is one sum over all scores, which cancel: 1000 stands for their size.
        size = max(1 if np.ndim(b) else 1000, np.max(np.abs(b)))
        return float(np.max(np.abs(np.asarray(a, np.float64) - b)) / size)

    return np.array([error(a, b) for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True)])


def mean_errors(result, expected):
    """The error of each array, relative to the expected one, both as a root mean square."""

    def error(a, b):
        return float(np.sqrt(np.mean((np.asarray(a, np.float64) - b) ** 2) / np.mean(b**2)))

    return np.array([error(a, b) for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True)])


CASES = {
    "one": dict(seq_q=1),
    "odd": dict(seq_q=7, heads=4, kv_heads=2),
    "no multiple of a block": dict(seq_q=50, heads=8, kv_heads=8),
    "many blocks": dict(seq_q=128, heads=4, kv_heads=1, head_dim=64),
    "one head": dict(seq_q=33, heads=1, head_dim=256),
    "uneven head_dim": dict(seq_q=40, heads=8, kv_heads=2, head_dim=24, batch=()),
    "two batch axes": dict(seq_q=20, batch=(2, 3)),
    "more queries than keys": dict(seq_q=60, seq_k=40),
    "bidirectional": dict(seq_q=50, seq_k=70, causal=False),
    "window": dict(seq_q=100, window=20),
    "window of one": dict(seq_q=40, window=1),
    "bidirectional window": dict(seq_q=80, seq_k=61, window=9, causal=False),
    "packed": dict(seq_q=70, packed=True, heads=4, kv_heads=2),
    "packed window": dict(seq_q=100, packed=True, window=30),
    "later": dict(seq_q=30, seq_k=101, q_offset=71),
    "beyond the keys": dict(seq_q=40, seq_k=50, q_offset=60, window=20),
    "before the keys": dict(seq_q=40, seq_k=40, q_offset=-15),
    "packed pair": dict(seq_q=40, seq_k=60, packed=True, q_offset=20, causal=False),
}


def unpack(case):
    """The arrays of a case, and the options of the call."""
    case = dict(case)
    options = {name: case.pop(name) for name in ("causal", "window", "q_offset") if name in case}
    packed = case.pop("packed", False)
    arrays = inputs(**case)
    if packed:
        ids, seq_q, seq_k = segments(100), case["seq_q"], case.get("seq_k", case["seq_q"])
        options["segment_ids"] = ids[:, :seq_q] if seq_q == seq_k else (ids[:, :seq_q], ids[:, 100 - seq_k :])
    return arrays, options | {"scale": case.get("head_dim", 16) ** -0.5}
