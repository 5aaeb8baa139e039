"""What accelerators compute at best, by the names that JAX gives their devices: the one table of it.

Operations a second of dense matrix products in bfloat16, with accumulation in float32, by the makers' publications. A kind
that is not here is not known.
"""

from collections.abc import Mapping
from types import MappingProxyType

from equimu._values import Real

_PEAKS: dict[str, float] = {
    # docs.cloud.google.com/tpu/docs; of a device of JAX, which of a v3 is half a chip
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    # NVIDIA's data sheets of the A100, H100, H200 and B200; half of what is given with sparsity
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}
PEAKS: Mapping[str, float] = MappingProxyType(_PEAKS)
"""By the kind of the device."""


def add_peak(kind: str, flops: Real) -> None:
    """Makes the peak of another kind of device known; one that is known stays."""
    _PEAKS.setdefault(kind, flops)
