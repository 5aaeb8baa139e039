"""Decoding with the cache of keys and values, against computing the whole prefix again for each token.

    python -m benchmarks.suites.sample

Recomputing is one compiled forward pass of `tokens` positions for each token, whatever is filled of them.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import interleave
from equimu.nn import Sampling, Transformer, generate

VOCAB, HEAD_DIM = 256, 32


def measure(*, width: int = 256, n_layer: int = 4, tokens: int = 512, rounds: int = 7) -> dict[str, float]:
    """Times the writing of a whole context after one token, greedily.

    Returns:
        `cached` and `recomputed`, tokens a second, and `ratio`, the median over rounds; `eight_rows`, tokens a second of eight
        prompts together.
    """
    make = eqx.filter_jit(Transformer)
    model = make(vocab_size=VOCAB, d_model=width, n_layer=n_layer, head_dim=HEAD_DIM, key=jax.random.key(0))
    greedy, written = Sampling(temperature=0), tokens - 1

    @eqx.filter_jit
    def next_token(model, prefix, last):
        return jnp.argmax(model.unembed(model.features(prefix)[last]))

    prefix = np.zeros(tokens, np.int32)
    functions = {
        # Each token costs the same, so one stands for all.
        "recomputed": lambda: next_token(model, prefix, tokens - 1),
        "cached": lambda: generate(model, [[0]], tokens=written, sampling=greedy),
        "eight_rows": lambda: generate(model, [[row] for row in range(8)], tokens=written, sampling=greedy),
    }
    timings = interleave(functions, rounds=rounds)
    return {
        "recomputed": 1 / timings["recomputed"].median,
        "cached": written / timings["cached"].median,
        "ratio": written * timings["recomputed"].ratio_to(timings["cached"]),
        "eight_rows": 8 * written / timings["eight_rows"].median,
    }


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name}: {value:.4g}")
