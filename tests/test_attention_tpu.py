"""Attention compiled for TPUs, forward and backward inside a checked shard_map, and which kernel is in the program."""

import jax
import jax.numpy as jnp
import pytest
from aot import gradient, needs_libtpu, optimized, shapes, tpu_mesh

from equimu.attention import explain
from equimu.plans._count import count
from equimu.training import kernel_flops

pytestmark = needs_libtpu


def kernels(chip, arguments, **options):
    """How many kernels are in the program for a chip, and the program."""
    text = optimized(gradient(tpu_mesh(chip, (2,), ("data",)), **options), *arguments)
    return text.count('custom_call_target="tpu_custom_call"'), text


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("chip", ["v4", "v5e", "v5p", "v6e"])
def test_auto_takes_the_kernel(chip, dtype):
    count, text = kernels(chip, shapes(1024, 4, 2, 128, dtype))
    ours = dtype == jnp.bfloat16
    assert count == (2 if ours else 3)  # splash has one for the gradient of q, and one for those of k and v
    assert ("equimu_attention_forward" if ours else "splash_mha_fwd") in text and " while(" not in text


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("backend, prices", [("pallas_tpu", [1, 2.5]), ("splash", [1, 1.5, 2])])
def test_the_kernels_of_a_program_are_declared(backend, prices, packed):
    arguments = shapes(512, 4, 2, 128, jnp.bfloat16, packed)
    _, text = kernels("v5e", arguments, backend=backend)
    assert sorted(kernel_flops(name, 1.0) for name in count(text).kernels) == prices


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape, options",
    [
        (dict(seq=1000, heads=3, kv_heads=1, head_dim=80), dict(window=300)),
        (dict(seq=60, heads=2, kv_heads=2, head_dim=16), dict(causal=False)),
        (dict(seq=640, heads=2, kv_heads=2, head_dim=256, packed=True), dict()),
    ],
    ids=["window", "bidirectional", "packed"],
)
def test_the_kernel_compiles_for_odd_shapes(shape, options):
    count, _ = kernels("v5e", shapes(**shape, dtype=jnp.bfloat16), backend="splash", **options)
    assert count == 3


@pytest.mark.parametrize(
    "chip, dtype, count", [("v3", jnp.bfloat16, 0), ("v3", jnp.float32, 3), ("v5e", jnp.float16, 0)]
)
def test_auto_is_blockwise_where_the_kernel_cannot_be(chip, dtype, count):
    assert kernels(chip, shapes(512, 2, 2, 64, dtype))[0] == count


def test_explain_knows_the_chip_of_the_mesh():
    def chosen(chip):
        with jax.sharding.use_abstract_mesh(tpu_mesh(chip, (2,), ("data",)).abstract_mesh):
            return explain(*shapes(512, 2, 2, 64, jnp.bfloat16)[:3], scale=0.1)

    assert (chosen("v4").platform, chosen("v4").chosen) == ("tpu", "splash")
    assert chosen("v3").chosen == "blockwise"
    assert "TPU v3 has no bfloat16 matrix product" in chosen("v3").others["splash"]
