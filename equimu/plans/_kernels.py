"""Kernels and library functions that a compiled program calls."""

import re

from equimu.attention import kernel_products
from equimu.plans._hlo import Instruction

_TPU = "tpu_custom_call"
_NAMED_BY_JAX = (_TPU, "__gpu$xla.gpu.triton", "mosaic_gpu")
_OF_LIBRARIES = ("__cublas$", "__cudnn$", "__cub$", "__cusolver$", "__gpu$")


def kernel_of(instruction: Instruction) -> str | None:
    """The name of the kernel that an instruction calls, or None.

    That of a Pallas kernel is its own, that of a library's is the library's, and products that Triton makes are called by the
    kind of the fusion. What nothing declares, such as the marks that compilers leave in programs, is none.
    """
    if instruction.is_fusion:
        kind = re.search(r'"fusion_backend_config":\s*\{"kind":\s*"__(\w+)"', instruction.attributes)
        return kind[1] if kind else None
    if instruction.opcode != "custom-call":
        return None
    target = instruction.text("custom_call_target")
    if target.startswith(_NAMED_BY_JAX):
        name = re.search(r'[{ ]name = "([^"]+)"', instruction.attributes)
        return name[1] if name else re.sub(r"\.\d+$", "", instruction.name)
    declared = any(name in target for name in kernel_products())
    return target.lstrip("_") if declared or target.startswith(_OF_LIBRARIES) else None


def without_workspace(instruction: Instruction) -> int:
    """Bytes of the results of a call, without those that a library only works in."""
    shapes = instruction.shapes
    if len(shapes) > 1 and instruction.text("custom_call_target").startswith(("__cublas$", "__cudnn$")):
        shapes = shapes[:-1]
    return sum(shape.bytes for shape in shapes if not shape.on_chip)
