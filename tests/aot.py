"""Compiling for TPUs that are not there: libtpu alone does it, on any machine with an x86 CPU and Linux."""

import importlib.util
import os

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

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


def tpu_mesh(chip, shape, names):
    """A mesh over devices of the smallest pod of a chip: `v4`, say. The devices can be compiled for, not run on."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip]).devices
    devices = np.array(devices[: np.prod(shape)]).reshape(shape)
    return Mesh(devices, names, axis_types=(AxisType.Auto,) * len(shape))


def optimized(function, *shapes):
    """The program after all optimizations, as text."""
    return jax.jit(function).lower(*shapes).compile().as_text()
