"""What no query sees is left out, whatever it holds: the part of a cache beyond its length, above all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import inputs, oracle

from equimu._errors import EquimuError
from equimu.attention import _tiling, decode_attention, dot_product_attention

LENGTH, ROOM = 45, 70

pytestmark = pytest.mark.usefixtures("light_compilation")


@pytest.fixture(params=[False, True], ids=["large blocks", "small blocks"])
def blocks(request, monkeypatch):
    if request.param:
        for name, value in (("SHORT", 0), ("SMALLEST", 16), ("LARGEST", 32)):
            monkeypatch.setattr(_tiling, name, value)


@pytest.mark.parametrize("backend", ["reference", "blockwise", "auto"])
@pytest.mark.parametrize("traced", [False, True], ids=["known", "traced"])
@pytest.mark.parametrize("window", [pytest.param(None, marks=pytest.mark.long), 9])
@pytest.mark.parametrize("value", [np.nan, pytest.param(np.inf, marks=pytest.mark.long)])
def test_what_lies_beyond_the_length_does_not_come_through(value, window, traced, backend, blocks):
    q, k, v, d_out = inputs(5, ROOM, heads=4, kv_heads=2)
    k, v = (x.at[:, LENGTH:].set(value) for x in (k, v))

    def attend(length, q, k, v):
        return decode_attention(q, k, v, scale=0.25, length=length, window=window, backend=backend)

    def outcome(length, q, k, v, d_out):
        out, pull = jax.vjp(functools.partial(attend, length), q, k, v)
        return out, pull(d_out)

    run = jax.jit(outcome) if traced else jax.jit(functools.partial(outcome, LENGTH))
    out, gradients = run(*((LENGTH,) if traced else ()), q, k, v, d_out)
    k, v = k[:, :LENGTH], v[:, :LENGTH]
    expected, (dq, dk, dv, _) = oracle(q, k, v, scale=0.25, window=window, q_offset=LENGTH - 5, d_out=d_out)
    np.testing.assert_allclose(out, expected, atol=3e-6)
    for found, right in zip(gradients, (dq, dk, dv), strict=True):
        np.testing.assert_allclose(found[:, : right.shape[1]], right, atol=1e-5)
        assert not np.any(found[:, right.shape[1] :])


def test_lengths_under_vmap():
    q, k, v, _ = inputs(1, 30, batch=(3,))
    lengths = jnp.array([1, 17, 30])
    beyond = (jnp.arange(30) >= lengths[:, None])[..., None, None]
    k, v = (jnp.where(beyond, jnp.nan, x) for x in (k, v))
    result = jax.vmap(lambda *row: decode_attention(*row[:3], scale=0.25, length=row[3]))(q, k, v, lengths)
    for i, length in enumerate(lengths):
        expected = oracle(q[i], k[i, :length], v[i, :length], scale=0.25, causal=False)
        np.testing.assert_allclose(result[i], expected, atol=2e-6)


@pytest.mark.parametrize(
    "options, seen",
    [(dict(q_offset=-3), slice(0, 2)), (dict(q_offset=7, window=4), slice(4, 12)), (dict(), slice(0, 5))],
)
def test_keys_that_no_query_reaches_are_not_read(options, seen):
    q, k, v, _ = inputs(5, 20)
    hidden = jnp.ones(20, bool).at[seen].set(False)[:, None, None]
    out = dot_product_attention(q, *(jnp.where(hidden, jnp.nan, x) for x in (k, v)), scale=0.25, **options)
    np.testing.assert_allclose(out, oracle(q, k, v, scale=0.25, **options), atol=2e-6)


@pytest.mark.parametrize("length", [0, 4, 71])
def test_a_length_that_does_not_fit_is_refused(length):
    q, k, v, _ = inputs(5, ROOM)
    with pytest.raises(EquimuError, match=f"length is {length}.*must be 5 to 70"):
        decode_attention(q, k, v, scale=0.25, length=length)
