"""Compiling for TPUs and GPUs that are not there, by libtpu and JAX's plugin for CUDA, on any x86 CPU under Linux."""

import functools
import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, PartitionSpec

from equimu.attention import dot_product_attention
from equimu.plans._topology import devices_of, parse_topology
from equimu.plans.machines import COMPILERS

# Read by libtpu when it is loaded. It would ask a cloud's server which machine this is, and refuse a second process.
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

TOPOLOGIES = {"v3": "v3:2x2", "v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'equimu[tpu]'"
)

needs_cuda = pytest.mark.skipif(
    COMPILERS["cuda"].missing() is not None, reason=f"compiling for GPUs needs {COMPILERS['cuda'].missing()}"
)


def gpu_mesh(topology, shape, names):
    """A mesh over the devices of a machine: `h100:2`, say. They can be compiled for, not run on."""
    devices = np.array(devices_of(parse_topology(topology))).reshape(shape)
    return Mesh(devices, names, axis_types=(AxisType.Auto,) * len(shape))


def tpu_mesh(chip, shape, names):
    """A mesh over devices of the smallest pod of a chip: `v4`, say. The devices can be compiled for, not run on."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip]).devices
    devices = np.array(devices[: np.prod(shape)]).reshape(shape)
    return Mesh(devices, names, axis_types=(AxisType.Auto,) * len(shape))


def optimized(function, *shapes):
    """The program after all optimizations, as text."""
    return jax.jit(function).lower(*shapes).compile().as_text()


def gradient(mesh, **options):
    """Of a loss over sequences that are spread over the mesh, as the train step takes it."""

    def local(q, k, v, scale, ids):
        def loss(q, k, v, scale):
            attend = functools.partial(dot_product_attention, scale=scale, **options)
            out = jax.vmap(attend)(q, k, v) if ids is None else attend(q, k, v, segment_ids=ids)
            return jnp.sum(out.astype(jnp.float32) ** 2)

        scale = jax.lax.pcast(scale, "data", to="varying")
        value, (dq, dk, dv, d_scale) = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(q, k, v, scale)
        return jax.lax.psum((value, d_scale), "data"), (dq, dk, dv)

    rows, same = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(local, mesh=mesh, in_specs=(rows, rows, rows, same, rows), out_specs=((same, same), rows))


def shapes(seq, heads, kv_heads, head_dim, dtype, packed=False):
    q, kv = (jax.ShapeDtypeStruct((4, seq, n, head_dim), dtype) for n in (heads, kv_heads))
    ids = jax.ShapeDtypeStruct((4, seq), jnp.int32) if packed else None
    return q, kv, kv, jax.ShapeDtypeStruct((), jnp.float32), ids
