"""The share of the devices' peak that a run's mathematics is done at (MFU, arXiv 2204.02311, appendix B)."""

from jax.sharding import Mesh

from equimu._peaks import PEAKS
from equimu._values import Real


def peak_of(mesh: Mesh) -> Real | None:
    """Operations a second of all devices of a mesh at best; None where their kind is not known, as that of a CPU."""
    peak = PEAKS.get(mesh.devices.flat[0].device_kind)
    return None if peak is None else peak * mesh.size
