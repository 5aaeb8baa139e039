"""What is served on an NVIDIA GPU: the order of the kernels, and what jax's own checks for cuDNN refuse."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import errors, inputs, oracle, outcome
from jax.sharding import AbstractDevice, AbstractMesh

from equimu.attention import _backends, _jax_nn, _order, dot_product_attention, explain

checks = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")


def shaped(seq_q, seq_k, dtype=jnp.bfloat16, head_dim=64):
    return [jax.ShapeDtypeStruct((2, seq, 4, head_dim), dtype) for seq in (seq_q, seq_k, seq_k)]


def card(name):
    device = AbstractDevice(device_kind=name, num_cores=None, platform="gpu")
    return jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("data",), abstract_device=device))


@pytest.mark.parametrize("name, capability", [("NVIDIA H100 80GB HBM3", (9, 0)), ("NVIDIA A100-SXM4-80GB", (8, 0))])
def test_cudnn_is_asked_for_what_the_checks_of_jax_let_through(name, capability, monkeypatch):
    """With a gradient, what they are given is padded; where we serve they must not raise, and where they would not we serve."""
    monkeypatch.setattr(checks, "check_compute_capability", lambda text: capability >= tuple(map(int, text.split("."))))
    monkeypatch.setattr(checks, "is_cuda_compute_capability_equal", lambda text: False)
    monkeypatch.setattr(_jax_nn, "_cudnn_missing", lambda: None)
    monkeypatch.setattr(_backends, "_refused", lambda backend, problem: None)
    sizes = itertools.product(
        (1, 256, 257), (64, 255), (8, 60, 64, 128, 136, 256, 264), ("float32", "bfloat16", "float16")
    )
    for seq_q, seq_k, head_dim, dtype in sizes:
        q, k, v = shaped(seq_q, seq_k, jnp.dtype(dtype), head_dim)
        given = []

        def see(q, k, v, given=given, **rest):
            given.append((q, k, v))
            return q

        monkeypatch.setattr(_jax_nn, "jax_nn", see)
        rest = dict(scale=0.1, q_offset=0, q_segments=None, k_segments=None)
        visibility = _jax_nn.Visibility(causal=False, window=None)
        jax.eval_shape(lambda q, k, v: _jax_nn.cudnn(q, k, v, **rest, visibility=visibility), q, k, v)  # noqa: B023
        try:
            checks.check_layout(*given[0], *(None,) * 7, checks.AttentionLayout.BTNH)
            checks.check_is_flash_attention(*given[0], checks.AttentionLayout.BTNH.value, 91000, True, True)
            refused = False
        except NotImplementedError:
            refused = True
        with card(name):
            explanation = explain(q, k, v, scale=0.1, causal=False)
        ours = explanation.chosen != "cudnn" and "comes first" not in explanation.others["cudnn"]
        assert ours == refused, (seq_q, seq_k, head_dim, dtype, explanation)


@pytest.mark.parametrize("seq_q, seq_k", [(33, 33), (21, 33), (33, 21), (20, 33), (33, 20)])
@pytest.mark.parametrize("causal", [True, False])
def test_odd_lengths_are_padded_and_the_padding_is_hidden(seq_q, seq_k, causal):
    arrays = inputs(seq_q, seq_k, heads=4, kv_heads=2)

    def attend(q, k, v, *, scale):
        visibility = _jax_nn.Visibility(causal=causal, window=None)
        rest = dict(q_offset=0, q_segments=None, k_segments=None, visibility=visibility)
        return _jax_nn.cudnn(q, k, v, scale=scale, **rest, implementation="xla")

    expected = oracle(*arrays[:3], scale=0.25, causal=causal, d_out=arrays[3])
    assert np.all(errors(outcome(*arrays, attend=attend, scale=0.25), expected) < 4e-6)


def test_auto_goes_on_where_a_library_refuses_the_shapes(monkeypatch):
    """A kernel whose predicate knows too little: its library raises, and the next one in the order serves."""

    def run(q, k, v, **rest):
        raise NotImplementedError("Unsupported sequence length")

    picky = _backends.Backend(name="picky", run=run, unsupported_reason=lambda problem: None, refuses=True)
    monkeypatch.setitem(_backends._REGISTERED, "picky", picky)
    monkeypatch.setattr(_backends, "order", lambda platform, problem: ("picky", "blockwise"))
    q, k, v, _ = inputs(20)
    out = jax.jit(lambda q, k, v: dot_product_attention(q, k, v, scale=0.25))(q, k, v)
    np.testing.assert_allclose(out, oracle(q, k, v, scale=0.25), atol=3e-6)
    assert explain(q, k, v, scale=0.25).others["picky"].endswith("Unsupported sequence length")


@pytest.mark.parametrize(
    "name, seq, order",
    [
        ("NVIDIA H100 80GB HBM3", 1024, ("flash", "tokamax", "cudnn")),
        ("NVIDIA H200", 4096, ("flash", "cudnn", "tokamax")),
        ("NVIDIA A100-SXM4-80GB", 4096, ("flash", "cudnn", "tokamax")),
        ("NVIDIA B200", 4096, ("cudnn", "tokamax", "flash")),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 4096, ("flash", "cudnn", "tokamax")),
        ("Tesla T4", 4096, ("cudnn", "tokamax", "flash")),
    ],
)
def test_the_order_depends_on_the_card(name, seq, order, monkeypatch):
    asked = []
    monkeypatch.setattr(_backends, "order", lambda platform, problem: asked.append(problem) or ("blockwise",))
    with card(name):
        explain(*shaped(seq, seq), scale=0.1)
    assert _order.kernels(asked[0]) == order


def test_every_row_of_the_order_names_its_measurement():
    kernels = {"flash", "cudnn", "tokamax"}
    for row in _order.ROWS:
        assert set(row.order) == kernels
        assert any(word in row.measured for word in ("H100, 20", "published", "not measured"))
