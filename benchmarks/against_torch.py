"""python -m benchmarks.against_torch: the attention of this library on the CPU against PyTorch's, forward and backward.

PyTorch is a development tool and no dependency: `pip install torch`. Causal, float32, 4 heads × 128, as in the attention suite.
"""

import functools
import importlib.util
import os
import sys

import jax

from benchmarks._timing import interleave
from equimu.attention import dot_product_attention

LENGTHS = (256, 1024, 4096)
HEADS, HEAD_DIM = 4, 128


def measure(seq: int) -> str:
    """One line: milliseconds of both, and our time over theirs."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, d_out = (jax.random.normal(key, (1, seq, HEADS, HEAD_DIM)) for key in keys)
    attend = functools.partial(dot_product_attention, scale=HEAD_DIM**-0.5)

    @jax.jit
    def ours(q, k, v, d_out):
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(d_out)

    tq, tk, tv, td = (torch.randn(1, HEADS, seq, HEAD_DIM, requires_grad=i < 3) for i in range(4))

    def theirs():
        out = torch.nn.functional.scaled_dot_product_attention(tq, tk, tv, is_causal=True)
        torch.autograd.grad(out, (tq, tk, tv), td)
        return ()

    timings = interleave({"ours": lambda: ours(q, k, v, d_out), "torch": theirs}, rounds=20, seconds=8)
    mine, other = timings["ours"], timings["torch"]
    return f"{seq}: {1e3 * mine.median:.1f} ms, torch {1e3 * other.median:.1f} ms, ratio {mine.ratio_to(other):.2f}"


if __name__ == "__main__":
    if importlib.util.find_spec("torch") is None:
        sys.exit("torch is not installed: pip install torch")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # its idle threads would take the cores from ours
    for seq in LENGTHS:
        print(measure(seq), flush=True)
