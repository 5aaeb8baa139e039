"""FlashAttention behind our arguments, with a stand-in for the two functions of its package, against the oracle."""

import functools
import importlib
import sys

import flash_stand_in
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import CASES, errors, inputs, oracle, outcome, segments, unpack
from jax.sharding import AxisType, PartitionSpec
from tiers import long_but

from equimu.attention import _flash, explain
from equimu.attention._flash import documents, flash
from equimu.attention._visible import Visibility

# What aligns the last query with the last key, or where positions do not matter.
pytestmark = pytest.mark.usefixtures("light_compilation")


SERVED = (
    "one",
    "odd",
    "many blocks",
    "uneven head_dim",
    "two batch axes",
    "bidirectional",
    "window",
    "window of one",
    "later",
)


@pytest.fixture(autouse=True)
def package(monkeypatch):
    monkeypatch.setitem(sys.modules, "dew_flash_attn", flash_stand_in)


def attend(q, k, v, *, scale, causal=True, window=None, segment_ids=None, q_offset=0):
    rest = dict(scale=scale, q_offset=q_offset, q_segments=segment_ids, k_segments=segment_ids)
    return flash(q, k, v, **rest, visibility=Visibility(causal=causal, window=window))


@pytest.mark.parametrize(
    "case",
    long_but(
        ("odd", "window", "bidirectional window", "packed window"),
        [*SERVED, "bidirectional window", "packed", "packed window"],
    ),
)
def test_arguments_are_mapped_as_the_oracle_has_them(case):
    case = CASES[case] | ({"seq_k": None} if case == "bidirectional window" else {})
    arrays, options = unpack(case)
    expected = oracle(*arrays[:3], d_out=arrays[3], **options)
    assert np.all(errors(outcome(*arrays, attend=attend, **options), expected) < 4e-6)
    constant = jax.jit(functools.partial(attend, **options))(*arrays[:3])
    assert np.all(errors(constant, expected[0]) < 4e-6)


@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_a_scale_need_not_be_positive(scale):
    q, k, v, _ = inputs(20)
    np.testing.assert_allclose(attend(q, k, v, scale=scale), oracle(q, k, v, scale=scale), atol=3e-6)


@pytest.mark.parametrize(
    "ids, all_said",
    [
        ([[0] * 10, [0] * 4 + [1] * 6], True),
        ([[5] * 3 + [2] * 7, [5] * 10], True),  # in any order, and anew in each sequence
        ([[0] * 3 + [1] * 3 + [0] * 4, [0] * 10], False),  # a name comes back
        ([[0, 1, 2, 3] + [4] * 6, [0] * 10], False),  # too many for the room of two sequences
    ],
)
def test_documents_are_told_by_where_they_begin(ids, all_said, monkeypatch):
    monkeypatch.setattr(_flash, "SHORTEST", 5)
    ids = np.array(ids)
    starts, message = documents(jnp.asarray(ids, jnp.int32))
    assert starts.shape == (6,) and bool(message) == all_said
    flat = [(row, name) for row, names in enumerate(ids) for name in names]
    expected = [i for i, token in enumerate(flat) if i == 0 or token != flat[i - 1]]
    assert list(starts) == (expected + [20] * 6)[:6]


@pytest.mark.parametrize("ids", [[0] * 10 + [1] * 10 + [0] * 10, list(range(30))], ids=["come back", "too many"])
def test_ids_that_do_not_fit_are_served_all_the_same(ids, monkeypatch):
    monkeypatch.setattr(_flash, "SHORTEST", 10)
    arrays = inputs(30, heads=4, kv_heads=2)
    options = dict(scale=0.25, segment_ids=jnp.tile(jnp.asarray(ids, jnp.int32), (2, 1)))
    expected = oracle(*arrays[:3], d_out=arrays[3], **options)
    assert np.all(errors(outcome(*arrays, attend=attend, **options), expected) < 4e-6)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "transformation",
    long_but(("vmap", "vmap shard_map"), ("vmap", "vmap of vmap", "remat vmap", "grad in vmap", "vmap shard_map")),
)
def test_a_kernel_without_a_rule_for_vmap_is_mapped(transformation, packed):
    """The mapped axis becomes part of the batch: the stand-in raises where it is mapped itself."""
    q, k, v, d_out = inputs(20, batch=(4,))
    ids = jnp.asarray(segments(20, batch=4)) if packed else None

    def row(d_out, ids, *arrays):
        return jnp.sum(d_out * attend(*arrays, scale=0.25, segment_ids=ids))

    def loss(q, k, v, d_out):
        arrays = (d_out, *(() if ids is None else (ids,)), q, k, v)
        one = row if packed else functools.partial(lambda d_out, *arrays: row(d_out, None, *arrays))
        one = jax.checkpoint(one) if "remat" in transformation else one
        if transformation == "vmap of vmap":
            arrays = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), arrays)
            return jnp.sum(jax.vmap(jax.vmap(one))(*arrays))
        if "shard_map" not in transformation:
            return jnp.sum(jax.vmap(one)(*arrays))
        mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
        spec = PartitionSpec("data")
        local = lambda *arrays: jax.lax.psum(jnp.sum(jax.vmap(one)(*arrays)), "data")  # noqa: E731
        return jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=PartitionSpec())(*arrays)

    def each(q, k, v, d_out, ids):
        return jax.grad(lambda q, k, v: row(d_out, ids, q, k, v), argnums=(0, 1, 2))(q, k, v)

    if transformation == "grad in vmap":
        found = jax.jit(jax.vmap(each, in_axes=(0, 0, 0, 0, 0 if packed else None)))(q, k, v, d_out, ids)
    else:
        found = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v, d_out)
    expected = oracle(q, k, v, scale=0.25, d_out=d_out, segment_ids=ids)[1][:3]
    assert np.all(errors(found, expected) < 4e-6)


def test_what_all_share_is_mapped_too():
    q, k, v, _ = inputs(20, batch=(4,))
    k, v = k[0], v[0]
    found = jax.jit(jax.vmap(functools.partial(attend, scale=0.25), in_axes=(0, None, None)))(q, k, v)
    np.testing.assert_allclose(found, np.stack([oracle(row, k, v, scale=0.25) for row in q]), atol=3e-6)


def test_mapping_a_saved_value_that_does_not_grow_goes_one_by_one(monkeypatch):
    monkeypatch.setattr("equimu.attention._fold.grown_axis", _never)
    q, k, v, d_out = inputs(20, batch=(3,))
    loss = lambda q, k, v, d_out: jnp.sum(d_out * flash(**dict(_call), q=q, k=k, v=v))  # noqa: E731
    kernel = sys.modules["dew_flash_attn"]
    monkeypatch.setattr(kernel, "_no_vmap", lambda x: x)
    found = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1, 2))))(q, k, v, d_out)
    assert np.all(errors(found, oracle(q, k, v, scale=0.25, d_out=d_out)[1][:3]) < 4e-6)


_call = dict(scale=0.25, q_offset=0, q_segments=None, k_segments=None, visibility=Visibility(causal=True, window=None))


def _never(shape, larger, n):
    raise importlib.import_module("equimu.attention._fold").NotLarger


def shaped(seq_q=300, seq_k=300, dtype=jnp.bfloat16, head_dim=64):
    return [jax.ShapeDtypeStruct((1, seq, 4, head_dim), dtype) for seq in (seq_q, seq_k, seq_k)]


IDS = jax.ShapeDtypeStruct((1, 300), jnp.int32)


@pytest.mark.parametrize(
    "shape, options, reason",
    [
        (dict(dtype=jnp.float32), dict(), "not float32"),
        (dict(head_dim=264), dict(), "head_dim 264"),
        (dict(), dict(q_offset=jnp.int32(0)), "Python number"),
        (dict(), dict(q_offset=3), "aligns the last query"),
        (dict(seq_q=200), dict(causal=False, window=5), "aligns the last query"),
        (dict(), dict(segment_ids=(IDS, jax.ShapeDtypeStruct((1, 300), jnp.int32))), "one array of segment_ids"),
        (dict(), dict(), "not installed|no CUDA device"),
        (dict(seq_q=200), dict(q_offset=100), "not installed|no CUDA device"),
        (dict(seq_q=200), dict(), "not installed|no CUDA device"),  # the keys after the last query are cut off
        (dict(), dict(segment_ids=IDS), "not installed|no CUDA device"),
    ],
)
def test_why_not(shape, options, reason):
    _flash._missing.cache_clear()
    found = explain(*shaped(**shape), scale=0.1, **options, platform="cuda").others["flash"]
    assert any(words in found for words in reason.split("|")), found
