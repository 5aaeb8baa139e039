"""Operations of the matrix products and convolutions of a compiled program, those that it leaves to a library among them."""

import math
import re
from collections.abc import Sequence

import numpy as np

from equimu._values import Real
from equimu.plans._hlo import Computation, Instruction

Sizes = tuple[int, ...]

# The library's convolutions, by what each makes; operands are what is left of images, kernels and outputs, in this order.
_CONVOLUTIONS = {
    "__cudnn$convForward": "output",
    "__cudnn$convBiasActivationForward": "output",
    "__cudnn$convBackwardInput": "images",
    "__cudnn$convBackwardFilter": "kernels",
}


def flops_of(instruction: Instruction, inside: Computation) -> Real:
    """Operations of an instruction, two for each multiplication and addition; 0 for anything but a product or a convolution."""
    if instruction.opcode == "dot":
        return _product(instruction, inside, instruction.sizes("lhs_contracting_dims"))
    if instruction.opcode == "convolution":
        images, kernels = (operand.shapes[0].sizes for operand in inside.operands(instruction))
        return _convolution(images, kernels, instruction.shapes[0].sizes, instruction.attributes)
    if instruction.opcode == "custom-call":
        return _of_library(instruction, inside)
    return 0.0


def _of_library(instruction: Instruction, inside: Computation) -> Real:
    target, result = instruction.text("custom_call_target"), instruction.shapes[0].sizes
    if target.startswith("__cublas$"):
        found = re.search(r'"lhs_contracting_dimensions":\s*\[([^\]]*)\]', instruction.attributes)
        return _product(instruction, inside, [int(axis) for axis in re.findall(r"\d+", found[1])]) if found else 0.0
    if target not in _CONVOLUTIONS:
        return 0.0
    first, second = (operand.shapes[0].sizes for operand in inside.operands(instruction)[:2])
    images, kernels, outputs = {
        "output": (first, second, result),
        "images": (result, second, first),
        "kernels": (first, result, second),
    }[_CONVOLUTIONS[target]]
    return _convolution(images, kernels, outputs, instruction.attributes)


def _product(instruction: Instruction, inside: Computation, summed: Sequence[int]) -> Real:
    left = inside.operands(instruction)[0].shapes[0].sizes
    return 2.0 * math.prod(instruction.shapes[0].sizes) * math.prod(left[axis] for axis in summed)


def _convolution(left: Sizes, right: Sizes, out: Sizes, attributes: str) -> Real:
    """Operations on entries that are there: those on padding and between the entries of a dilated array are not counted.

    The TPU's compiler writes every matrix product as a convolution, and batches of them as spatial axes that are dilated such
    that each output meets one entry.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    assert labels is not None
    products = out[labels[3].index("b")] * out[labels[3].index("f")] * right[labels[2].index("i")]
    window = re.search(r"window=\{([^}]*)\}", attributes)
    words = dict(word.split("=") for word in window[1].split()) if window else {}
    spatial = sorted(label for label in labels[1] if label.isdigit())

    def numbers(word: str, default: str) -> list[str]:
        return words.get(word, "x".join([default] * len(spatial))).split("x")

    for at, label in enumerate(spatial):
        products *= _met(
            size=left[labels[1].index(label)],
            taps=int(numbers("size", "1")[at]),
            steps=out[labels[3].index(label)],
            stride=int(numbers("stride", "1")[at]),
            low=int(numbers("pad", "0_0")[at].split("_")[0]),
            dilated=int(numbers("lhs_dilate", "1")[at]),
            spread=int(numbers("rhs_dilate", "1")[at]),
        )
    return 2.0 * products


def _met(*, size: int, taps: int, steps: int, stride: int, low: int, dilated: int, spread: int) -> int:
    """How many pairs of an output and a tap of the window meet an entry, along one axis."""
    at = np.arange(steps)[:, None] * stride + np.arange(taps)[None, :] * spread - low
    return int(np.sum((at >= 0) & (at <= (size - 1) * dilated) & (at % dilated == 0)))
