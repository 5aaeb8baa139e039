"""Our TPU kernels: interpreted against the float64 oracle with races looked for, and compiled ahead of time for the chips."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec
from test_attention import CASES, errors, inputs, mean_errors, oracle, outcome, unpack

from equimu.attention import explain
from equimu.attention._jax_nn import jax_nn
from equimu.attention._pallas_tpu import Blocks, _blocks, pallas_tpu
from equimu.attention._pallas_tpu_tiles import Tiles
from equimu.attention._visible import Visibility

SMALL = Blocks(block_q=32, block_k=16, strip=16, chunk=64)


def attend(q, k, v, *, scale, causal=True, window=None, segment_ids=None, q_offset=0, blocks=SMALL):
    """The kernels, interpreted."""
    q_segments, k_segments = segment_ids if isinstance(segment_ids, tuple) else (segment_ids, segment_ids)
    return pallas_tpu(
        q,
        k,
        v,
        scale=scale,
        q_offset=q_offset,
        q_segments=q_segments,
        k_segments=k_segments,
        visibility=Visibility(causal=causal, window=window),
        blocks=(blocks, blocks),
        interpret=pltpu.InterpretParams(detect_races=True),
    )


@pytest.fixture(autouse=True)
def no_race(capsys):
    """The interpreter reports races between reads and writes on its output."""
    yield
    assert "RACE" not in capsys.readouterr().out


def check(case, blocks=SMALL):
    """A case against the oracle."""
    arrays, options = unpack(case)
    expected = oracle(*arrays[:3], d_out=arrays[3], **options)
    result = outcome(*arrays, attend=functools.partial(attend, blocks=blocks), **options)
    assert np.all(errors(result, expected) < 4e-6)


def test_causal_grouped_heads_match_the_oracle():
    check(dict(seq_q=40, heads=2, kv_heads=1, batch=()), Blocks(block_q=16, block_k=8, strip=8, chunk=48))


def test_a_window_over_two_chunks_matches_the_oracle():
    check(dict(seq_q=40, heads=1, batch=(), window=9), Blocks(block_q=16, block_k=8, strip=8, chunk=24))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_output_and_gradients_match_the_oracle(case):
    check(case)


def test_a_query_that_sees_nothing_gives_zeros_and_no_gradient():
    arrays = inputs(16, 16, heads=1, batch=())
    ids = jnp.zeros(16, jnp.int32), jnp.ones(16, jnp.int32)
    out, gradients = outcome(*arrays, attend=attend, scale=1.0, segment_ids=ids)
    assert not np.any(out)
    assert all(not np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_a_negative_scale_and_none_at_all(scale):
    q, k, v, d_out = inputs(16, heads=1, batch=())
    expected = oracle(q, k, v, scale=scale, d_out=d_out)
    assert np.all(errors(outcome(q, k, v, d_out, attend=attend, scale=scale), expected) < 4e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_error_is_no_larger_than_that_of_jax_nn(dtype):
    arrays = inputs(200, heads=2, kv_heads=1, head_dim=64, batch=(), dtype=dtype)
    expected = oracle(*arrays[:3], scale=0.125, d_out=arrays[3])

    def theirs(q, k, v, *, scale):
        causal = Visibility(causal=True, window=None)
        return jax_nn(q, k, v, scale=scale, q_offset=0, q_segments=None, k_segments=None, visibility=causal)

    blocks = Blocks(block_q=64, block_k=32, strip=32, chunk=128)
    ours = mean_errors(outcome(*arrays, attend=functools.partial(attend, blocks=blocks), scale=0.125), expected)[:4]
    theirs = mean_errors(outcome(*arrays, attend=theirs, scale=0.125), expected)[:4]
    assert np.all(ours <= 1.2 * theirs + 1.2e-7), (ours, theirs)  # the slack is that of the blockwise backend


@pytest.mark.slow
def test_checked_shard_map_sums_the_gradients_of_what_devices_share():
    q, k, v, d_out = inputs(24, heads=1, batch=(2,))
    k, v = k[0], v[0]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spec, same = PartitionSpec("data"), PartitionSpec()
    blocks = Blocks(block_q=16, block_k=8, strip=8, chunk=32)

    def local(q, k, v, scale, d_out):
        return jax.lax.psum(jnp.sum(attend(q[0], k, v, scale=scale, blocks=blocks) * d_out[0]), "data")

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2, 3))
    def gradients(q, k, v, scale):
        in_specs = (spec, same, same, same, spec)
        return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=same)(q, k, v, scale, d_out)

    one_by_one = [oracle(q[i], k, v, scale=0.25, d_out=d_out[i])[1] for i in range(2)]
    dq, dk, dv, d_scale = zip(*one_by_one, strict=True)
    expected = np.stack(dq), sum(dk), sum(dv), sum(d_scale)
    assert np.all(errors(gradients(q, k, v, jnp.float32(0.25)), expected) < 4e-6)


# ---- the tiles


TILINGS = {
    "causal": dict(causal=True, window=None, q_offset=0, seq_q=100, seq_k=100),
    "window": dict(causal=True, window=30, q_offset=0, seq_q=100, seq_k=100),
    "later": dict(causal=True, window=None, q_offset=50, seq_q=70, seq_k=120),
    "before": dict(causal=True, window=20, q_offset=-40, seq_q=100, seq_k=60),
    "bidirectional": dict(causal=False, window=None, q_offset=0, seq_q=50, seq_k=90),
    "bidirectional window": dict(causal=False, window=25, q_offset=10, seq_q=90, seq_k=100),
}


def visible(tiles):
    """The whole matrix of what is seen."""
    queries, keys = tiles.q_offset + jnp.arange(tiles.seq_q)[:, None], jnp.arange(tiles.seq_k)
    return np.broadcast_to(np.asarray(tiles.visibility.mask(queries, keys)), (tiles.seq_q, tiles.seq_k))


@pytest.mark.parametrize("case", TILINGS.values(), ids=TILINGS.keys())
def test_tiles_that_are_seen_are_visited_and_only_these_and_masked_where_needed(case):
    case = dict(case)
    visibility = Visibility(causal=case.pop("causal"), window=case.pop("window"))
    tiles = Tiles(visibility=visibility, segments=False, blocks=SMALL, **case)
    seen = visible(tiles)
    size, per_chunk = SMALL.block_k, SMALL.chunk // SMALL.block_k
    for i in range(tiles.blocks_q):
        rows = seen[i * SMALL.block_q : (i + 1) * SMALL.block_q]
        visited = {}
        for c in range(tiles.chunks):
            for begin, end, masked in tiles.spans(jnp.int32(i), jnp.int32(c)):
                for j in range(int(begin), int(end)):
                    assert visited.setdefault(c * per_chunk + j, masked) is masked
        if tiles.diagonal:  # the square is not among the spans
            first = i * SMALL.block_q // size
            visited |= {j: True for j in range(first, first + SMALL.block_q // size) if j * size < tiles.seq_k}
        pieces = [rows[:, j * size : (j + 1) * size] for j in range(-(-tiles.seq_k // size))]
        assert set(visited) == {j for j, piece in enumerate(pieces) if piece.any()}
        for j, masked in visited.items():
            assert masked or (pieces[j].all() and pieces[j].shape[1] == size)
        first, last = (int(x) for x in tiles.chunks_seen(jnp.int32(i)))
        if visited:
            assert (first, last) == (min(visited) // per_chunk, max(visited) // per_chunk)


@pytest.mark.parametrize("case", TILINGS.values(), ids=TILINGS.keys())
def test_the_blocks_of_queries_that_see_a_chunk(case):
    case = dict(case)
    visibility = Visibility(causal=case.pop("causal"), window=case.pop("window"))
    tiles = Tiles(visibility=visibility, segments=False, blocks=SMALL, **case)
    seen = visible(tiles)
    for c in range(tiles.chunks):
        rows = np.flatnonzero(seen[:, c * SMALL.chunk : (c + 1) * SMALL.chunk].any(axis=1)) // SMALL.block_q
        if rows.size:
            assert tuple(int(x) for x in tiles.queries_seeing(jnp.int32(c))) == (rows[0], rows[-1])


@pytest.mark.parametrize("seq_q, seq_k", [(1, 1), (100, 100), (640, 640), (1100, 1100), (8192, 8192), (300, 5000)])
@pytest.mark.parametrize("head_dim, itemsize", [(64, 2), (128, 2), (256, 4)])
def test_the_sizes_fit_each_other_and_the_registers(seq_q, seq_k, head_dim, itemsize):
    for blocks in _blocks(seq_q, seq_k, head_dim, itemsize, segments=False):
        assert blocks.block_q % 128 == 0 and blocks.block_k % 128 == 0
        assert blocks.block_q % blocks.strip == 0 and blocks.block_k % blocks.strip == 0
        assert blocks.chunk % blocks.block_k == 0
        if seq_q == seq_k:
            assert blocks.chunk % blocks.block_q == 0 and blocks.block_q % blocks.block_k == 0


# ---- choosing it


def test_explain_says_what_it_cannot_do():
    def reason(head_dim=128, dtype=jnp.bfloat16, **options):
        x = jax.ShapeDtypeStruct((1, 300, 4, head_dim), dtype)
        here = explain(x, x, x, scale=0.1, platform="tpu", **options)
        return here.others.get("pallas_tpu", "it is chosen")

    assert "float16" in reason(dtype=jnp.float16)
    assert "head_dim 80" in reason(head_dim=80)
    assert "q_offset" in reason(q_offset=jnp.int32(3))


# ---- compiled for the chips, which need not be here


AHEAD_OF_TIME = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from equimu.attention._pallas_tpu import pallas_tpu
from equimu.attention._visible import Visibility

devices = topologies.get_topology_desc(platform="tpu", topology_name=sys.argv[1]).devices
mesh = jax.sharding.Mesh(np.array(devices[:2]), ("data",), axis_types=(AxisType.Auto,))
spec = P("data")

def compiled(dtype, head_dim, seq, packed):
    def attend(q, k, v, scale, ids):
        ids = ids if packed else None
        visibility = Visibility(causal=True, window=200 if packed else None)
        return pallas_tpu(q, k, v, scale=scale, q_offset=0, q_segments=ids, k_segments=ids, visibility=visibility)

    attend = jax.shard_map(attend, mesh=mesh, in_specs=(spec, spec, spec, P(), spec), out_specs=spec)
    loss = lambda *arrays: jnp.sum(attend(*arrays).astype(jnp.float32))
    x = lambda heads: jax.ShapeDtypeStruct((2, seq, heads, head_dim), dtype, sharding=NamedSharding(mesh, spec))
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, P()))
    ids = jax.ShapeDtypeStruct((2, seq), jnp.int32, sharding=NamedSharding(mesh, spec))
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).lower(x(4), x(2), x(2), scale, ids).compile().as_text()

cases = [
    (jnp.bfloat16, 128, 4096, False),
    (jnp.bfloat16, 64, 300, False),
    (jnp.float32, 256, 2048, False),
    (jnp.float32, 64, 700, True),
    (jnp.bfloat16, 256, 2048, True),
]
for case in cases:
    print(*case, file=sys.stderr)
    assert compiled(*case).count('custom_call_target="tpu_custom_call"') == 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_a_chip_s_compiler_takes_it_inside_a_checked_shard_map(topology):
    pytest.importorskip("libtpu")
    setting = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    command = [sys.executable, "-c", AHEAD_OF_TIME, topology]
    done = subprocess.run(command, env=os.environ | setting, capture_output=True, text=True, timeout=2400)
    assert done.returncode == 0, done.stderr[-3000:]
