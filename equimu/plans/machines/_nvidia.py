"""NVIDIA's GPUs, with their public figures, and the compiler of JAX's CUDA plugin, which needs no GPU to compile for one."""

import importlib.metadata
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from equimu._peaks import PEAKS
from equimu._values import Real
from equimu.plans.machines._machine import Compiler, Machine

_NEEDS_JAX = (0, 12)
_PACKAGES = ("jax-cuda13-plugin", "jax-cuda13-pjrt")
_CUDNN = "nvidia-cudnn-cu13"
# Where there is no GPU, nothing can be timed.
_FLAGS = "--xla_gpu_autotune_level=0"
# Of the memory, what JAX takes as it starts.
_TAKEN = 0.75
_XLA = "memory and its bandwidth: XLA's target configs"

# The interconnect is NVLink, in one direction, of which the data sheets give the sum of both; the network is that of a DGX:
# an adapter for each GPU.
MACHINES = (
    Machine(
        name="a100",
        compiler="cuda",
        examples=("8",),
        kind="NVIDIA A100-SXM4-80GB",
        memory=85_100_068_864,
        flops=PEAKS["NVIDIA A100-SXM4-80GB"],
        bandwidth=2.03904e12,
        interconnect=300e9,
        network=25e9,
        per_host=8,
        source=f"NVIDIA's data sheets of the A100 and the DGX A100 (InfiniBand of 200 Gb/s a GPU); {_XLA}",
    ),
    Machine(
        name="h100",
        compiler="cuda",
        examples=("8", "8x8"),
        kind="NVIDIA H100 80GB HBM3",
        memory=84_942_979_072,
        flops=PEAKS["NVIDIA H100 80GB HBM3"],
        bandwidth=3.35232e12,
        interconnect=450e9,
        network=50e9,
        per_host=8,
        source=f"NVIDIA's data sheets of the H100 SXM and the DGX H100 (InfiniBand of 400 Gb/s a GPU); {_XLA}",
    ),
    Machine(
        name="h200",
        compiler="cuda",
        examples=("8",),
        kind="NVIDIA H200",
        memory=151_397_597_184,
        flops=PEAKS["NVIDIA H200"],
        bandwidth=4.8e12,
        interconnect=450e9,
        network=50e9,
        per_host=8,
        source=f"NVIDIA's data sheets of the H200 SXM and the DGX H200 (InfiniBand of 400 Gb/s a GPU); {_XLA}",
    ),
    Machine(
        name="b200",
        compiler="cuda",
        examples=("8",),
        kind="NVIDIA B200",
        memory=191_514_411_008,
        flops=PEAKS["NVIDIA B200"],
        bandwidth=7.67232e12,
        interconnect=900e9,
        network=50e9,
        per_host=8,
        source=f"NVIDIA's data sheets of the B200 and the DGX B200 (InfiniBand of 400 Gb/s a GPU); {_XLA}",
    ),
)

# What the compiler asks of a card beside memory and bandwidth: the tables of compute capabilities in NVIDIA's CUDA programming
# guide; processors, clocks and caches of the SXM cards from the white papers of their architectures.
_EVERY_CARD = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 48 * 1024,
    "threads_per_core_limit": 2048,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
    "registers_per_core_limit": 2**16,
    "registers_per_block_limit": 2**16,
}
_HOPPER = {
    "capability": 9,
    "core_count": 132,
    "fpus_per_core": 128,
    "clock_rate_ghz": 1.98,
    "l2_cache_size": 50 * 2**20,
    "shared_memory_per_core": 228 * 1024,
    "shared_memory_per_block_optin": 227 * 1024,
}
CARDS: Mapping[str, Mapping[str, float]] = {
    "a100": {
        "capability": 8,
        "core_count": 108,
        "fpus_per_core": 64,
        "clock_rate_ghz": 1.41,
        "l2_cache_size": 40 * 2**20,
        "shared_memory_per_core": 164 * 1024,
        "shared_memory_per_block_optin": 163 * 1024,
    },
    "h100": _HOPPER,
    "h200": _HOPPER,
    "b200": {
        **_HOPPER,
        "capability": 10,
        "core_count": 148,
        "clock_rate_ghz": 1.965,
        "l2_cache_size": 126 * 2**20 + 512 * 2**10,
    },
}


class Cuda(Compiler):
    """XLA's compiler in JAX's plugin for CUDA, for cards given by their properties."""

    most = 2**12

    def missing(self) -> str | None:
        """As `Compiler.missing`."""
        lacks = [name for name in _PACKAGES if not _installed(name)]
        reasons = [f"{', '.join(lacks)}, which {'is' if len(lacks) == 1 else 'are'} not installed"] if lacks else []
        version = tuple(int(part) for part in re.findall(r"\d+", jax.__version__)[:2])
        if version < _NEEDS_JAX:
            least = ".".join(map(str, _NEEDS_JAX))
            reasons.insert(0, f"jax >= {least}, which Python 3.12 or newer gets, and this is {jax.__version__}")
        return f"{'; and '.join(reasons)}: pip install 'equimu[cuda]'" if reasons else None

    def environment(self, devices: int) -> Mapping[str, str]:
        """As `Compiler.environment`.

        The plugin would look for the libraries that run programs, and complain that they are not there. What it compiles cannot
        be read from a cache without a GPU.
        """
        flags = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
        return {
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
            "XLA_FLAGS": flags,
        }

    def notes(self, used: Real | None) -> tuple[str, ...]:
        """As `Compiler.notes`."""
        found: list[str] = []
        if not _installed(_CUDNN):
            found.append(f"{_CUDNN} is not installed here: cuDNN's attention, which a GPU may take, was not compiled")
        if used is not None and _TAKEN < used <= 1:
            found.append(
                f"JAX takes {_TAKEN:.0%} of a GPU's memory, and this needs {used:.0%}: set XLA_PYTHON_CLIENT_MEM_FRACTION there"
            )
        return tuple(found)

    def devices(self, machine: Machine, sizes: str, number: int) -> Sequence[Any]:
        """As `Compiler.devices`: descriptions."""
        own = math.prod(int(size) for size in sizes.split("x")[-machine.dimensions :]) * machine.per_chip
        # of slices that a faster network joins, hosts in each of them, and devices in each host
        layout = f"1x{number // own}x{own}"
        return list(
            topologies.get_topology_desc(platform="cuda", target_config=target_config(machine), topology=layout).devices
        )


def target_config(machine: Machine) -> str:
    """The text by which XLA knows a card.

    Raises:
        ValueError: it is none of `CARDS`.
    """
    name = machine.compiled_as or machine.name
    if name not in CARDS:
        raise ValueError(f"the compiler knows {', '.join(CARDS)}, not {name!r}")
    card = dict(CARDS[name])
    major = card.pop("capability")
    # Of an architecture, too, what later ones no longer have: the matrix products that Mosaic and Triton use.
    extension = " feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
    fields = {
        **_EVERY_CARD,
        **card,
        "memory_bandwidth": round(machine.bandwidth or 0),
        "device_memory_size": machine.memory or 0,
    }
    return "\n".join(
        [
            "gpu_device_info {",
            *(f"  {field}: {value}" for field, value in fields.items()),
            f"  cuda_compute_capability {{ major: {major}{extension} }}",
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info { major: 9 minor: 12 }",
            "runtime_version { major: 13 }",
            f'device_description_str: "{machine.kind}"',
        ]
    )


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
