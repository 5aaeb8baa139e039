"""Attention compiled for NVIDIA GPUs, forward and backward inside a checked shard_map, and which kernels are in the program."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from aot import gpu_mesh, gradient, needs_cuda, optimized, shapes
from tiers import long_but

from equimu._device import compiling_for
from equimu._errors import EquimuError
from equimu.attention import _jax_nn, _tokamax, explain
from equimu.plans._count import count
from equimu.training import kernel_flops

pytestmark = [needs_cuda, pytest.mark.usefixtures("nothing_kept")]


def compiled(topology, arguments, **options):
    """The counts of the program for two devices."""
    mesh = gpu_mesh(topology, (2,), ("data",))
    with compiling_for(mesh.devices.flat[0]):
        return count(optimized(gradient(mesh, **options), *arguments))


def needs(missing, topology="h100:1"):
    """Skips where a kernel's library is not installed, with what it says."""
    with compiling_for(gpu_mesh(topology, (1,), ("data",)).devices.flat[0]):
        reason = missing()
    if reason is not None:
        pytest.skip(reason)


def attention_products(rows, seq, heads, head_dim):
    """Operations of one product of all queries with all keys."""
    return 2.0 * rows * seq * seq * heads * head_dim


@pytest.mark.parametrize("backend", ["blockwise", "jax", "reference"])
def test_what_xla_compiles_itself_has_its_products_counted(backend):
    """Two products forward and four backward: where nothing lies between them, XLA makes the scores once."""
    counts = compiled("h100:2", shapes(512, 4, 2, 128, jnp.bfloat16), backend=backend, causal=False)
    # two of the four rows on each device
    assert counts.flops == 6 * attention_products(2, 512, 4, 128)
    assert not any("fmha" in name or "flash" in name for name in counts.kernels)


def test_cudnn_compiles():
    needs(_jax_nn._cudnn_missing)
    counts = compiled("h100:2", shapes(512, 4, 2, 128, jnp.bfloat16), backend="cudnn")
    assert sorted(kernel_flops(name, 1.0) for name in counts.kernels if "fmha" in name) == [1, 2.5]


@pytest.mark.parametrize("topology", long_but(["h100:2"], ["a100:2", "h100:2"]))
def test_tokamax_compiles(topology):
    needs(_tokamax._missing)
    counts = compiled(topology, shapes(512, 4, 2, 128, jnp.bfloat16), backend="tokamax")
    assert sorted(kernel_flops(name, 1.0) for name in counts.kernels if "flash" in name) == [1, 3.5]


def test_flash_cannot_be_compiled_without_a_gpu():
    """Its library asks the GPU of the process which of its two kernels to take."""
    with pytest.raises(
        EquimuError, match="not installed" if not importlib.util.find_spec("dew_flash_attn") else "trial"
    ):
        compiled("h100:2", shapes(512, 4, 2, 128, jnp.bfloat16), backend="flash")


@pytest.mark.parametrize("topology", ["a100:2", "h200:2", "b200:2"])
def test_auto_compiles_for_every_card(topology):
    counts = compiled(topology, shapes(256, 2, 2, 64, jnp.bfloat16))
    assert counts.flops > 0 or any(kernel_flops(name, 1.0) for name in counts.kernels)


def test_auto_takes_what_compiles():
    mesh = gpu_mesh("h100:1", (1,), ("data",))
    arguments = shapes(512, 2, 2, 64, jnp.bfloat16)[:3]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert explain(*arguments, scale=0.1).chosen == "blockwise"  # nothing is known of what runs there
        with compiling_for(mesh.devices.flat[0]):
            missing = (_jax_nn._cudnn_missing(), _tokamax._missing())
            found = explain(*arguments, scale=0.1)
    assert found.platform == "cuda"
    assert (found.chosen == "blockwise") == all(missing)
