"""Ways to compute the steps of several cells of one shape on this machine.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python -m benchmarks.suites.cells

One after the other; in as many threads as there are cores, as a sweep does on a CPU; as one call that is vectorised, as it does
on an accelerator; and as one call that takes them in turn (`jax.lax.map`).
"""

import concurrent.futures

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import interleave
from equimu.data import Batch
from equimu.runs import RunConfig, Sizes
from equimu.sharding import make_mesh, shard_batch
from equimu.sweeps import cores
from equimu.tasks import LanguageModel, ModelConfig, TextConfig
from equimu.training import build_tree, hyperparameters_of, program_for

ROWS, SEQ, STEPS = 8, 64, 4


def measure(width: int, cells: int = 8, rounds: int = 10) -> dict[str, float]:
    """Times of a step of one cell, in milliseconds, by the way it is computed.

    Args:
        width: of their model.
        cells: computed together.
        rounds: of the measurement.
    """
    task = LanguageModel(model=ModelConfig(head_dim=32, unroll=2), text=TextConfig(rows=ROWS, seq=SEQ))
    config = RunConfig(task=task, size=Sizes(width=width), base=Sizes(width=32))
    program, numbers = program_for(config, build_tree(config, ROWS))
    hyper = hyperparameters_of(config)
    tokens = np.random.default_rng(0).integers(0, 256, (ROWS, SEQ + 1)).astype(np.int32)
    plain = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((ROWS, SEQ), np.float32))
    batch, measured = shard_batch(plain, make_mesh()), np.bool_(False)
    compiled = program.compiled(batch, numbers, hyper)

    def begin():
        return compiled.init(numbers, hyper, jax.random.key(0))

    states = [begin() for _ in range(cells)]

    def train(cell):
        for _ in range(STEPS):
            states[cell], metrics = compiled.step(states[cell], batch, numbers, hyper, measured)
            float(metrics.loss)

    def in_turn():
        for cell in range(cells):
            train(cell)

    pool = concurrent.futures.ThreadPoolExecutor(cores())

    def together(step):
        step = jax.jit(step, donate_argnums=0)
        kept = [[jnp.stack([x] * cells) for x in begin()]]

        def call():
            for _ in range(STEPS):
                kept[0], metrics = step(kept[0])
                float(metrics.loss[0])

        return call

    def one(state):
        return program.functions.step(state, batch, numbers, hyper, measured)

    ways = {
        "in turn": in_turn,
        "threads": lambda: list(pool.map(train, range(cells))),
        "vectorised": together(jax.vmap(one)),
        "lax.map": together(lambda states: jax.lax.map(one, states)),
    }
    return {name: 1e3 * timing.median / (cells * STEPS) for name, timing in interleave(ways, rounds=rounds).items()}


if __name__ == "__main__":
    print("| width | in turn | threads | vectorised | lax.map |")
    print("|---:|---:|---:|---:|---:|")
    for width in (32, 64, 128, 256):
        found = measure(width)
        print(f"| {width} | {' | '.join(f'{milliseconds:.2f} ms' for milliseconds in found.values())} |", flush=True)
