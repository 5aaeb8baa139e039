"""The cost of a tree of rules in the optimizer: `equimu.adamw`, in many groups, against one plain `optax.adamw`.

python -m benchmarks.suites.optimizer
"""

import functools

import equinox as eqx
import jax
import optax

import equimu as mu
from benchmarks._timing import interleave

BETAS = {"b1": 0.9, "b2": 0.95}


def measure(*, width: int = 512, n_layer: int = 4, rounds: int = 60) -> dict[str, float]:
    """Times one update of all parameters of a transformer under μP.

    Returns:
        `plain` and `equimu`, milliseconds; `ratio`, the median over rounds; `groups`, how many rules differ.
    """
    make = functools.partial(
        mu.nn.Transformer, vocab_size=256, n_layer=n_layer, head_dim=64, use_bias=True, norm_gain="vector"
    )
    tree = mu.parameterize(make, mu.mup(decay="standard"), base={"d_model": 64}, target={"d_model": width})
    params = eqx.filter(mu.initialize(tree, jax.random.key(0)), eqx.is_inexact_array)
    optimizers = {
        "plain": optax.adamw(2**-6, **BETAS, weight_decay=1e-4),
        "equimu": mu.adamw(tree, learning_rate=2**-6, **BETAS, weight_decay=1e-4),
    }
    calls = {name: _update(optimizer, params) for name, optimizer in optimizers.items()}
    timings = interleave(calls, rounds=rounds)
    return {
        **{name: 1e3 * timing.median for name, timing in timings.items()},
        "ratio": timings["equimu"].ratio_to(timings["plain"]),
        "groups": len(optimizers["equimu"].init(params)[0].groups),
    }


def _update(optimizer, params):
    """A call of one update, on parameters and a state that it keeps and donates, as a train step does."""
    grads = jax.tree.map(lambda x: 1e-3 * x, params)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(kept, grads):
        params, state = kept
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(lambda x: x.copy(), params)
    kept = [(params, optimizer.init(params))]

    def call():
        kept[0] = update(kept[0], grads)
        return kept[0]

    return call


if __name__ == "__main__":
    print(measure())
