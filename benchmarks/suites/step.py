"""The cost of everything equimu puts around a model: its whole train step against a plain JAX step of the same model.

    python -m benchmarks.suites.step

The plain step is written here with dictionaries of arrays and `optax.adamw`: no tree of rules, no `shard_map`, no metrics
but the loss. The step without a mesh is ours with `shard_map` left out. All use the same attention. A measured step also finds
the norms and what each leaf does (its diagnostics), as a run does every `log_every` steps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._timing import interleave
from equimu.attention import dot_product_attention
from equimu.data import Batch
from equimu.optim import AdamW
from equimu.runs import RunConfig, Sizes
from equimu.sharding import make_mesh, shard_batch
from equimu.tasks import LanguageModel, ModelConfig, TextConfig, summed_losses
from equimu.training import Outcome, build_tree, hyperparameters_of, program_for, update

VOCAB, HEAD_DIM = 256, 64


def measure(*, width: int = 256, n_layer: int = 4, rows: int = 8, seq: int = 256, rounds: int = 40) -> dict[str, float]:
    """Times one step of each.

    Returns:
        `plain`, `meshless`, `equimu` and `measured`, milliseconds; `ratio`, of ours to the plain step, the median over rounds;
        `mesh_ratio`, likewise to ours without the mesh; `diagnostics`, what measuring adds to a step in a run that does so
        every `log_every` steps, as a share; `tokens_per_second` of ours.
    """
    tokens = np.random.default_rng(0).integers(0, VOCAB, (rows, seq + 1)).astype(np.int32)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((rows, seq), np.float32))
    steps = {"plain": plain_step(batch, width, n_layer)} | equimu_steps(batch, width, n_layer)
    timings = interleave(steps, rounds=rounds)
    return {
        **{name: 1e3 * timing.median for name, timing in timings.items()},
        "ratio": timings["equimu"].ratio_to(timings["plain"]),
        "mesh_ratio": timings["equimu"].ratio_to(timings["meshless"]),
        "diagnostics": (timings["measured"].ratio_to(timings["equimu"]) - 1) / RunConfig().log_every,
        "tokens_per_second": rows * seq / timings["equimu"].median,
    }


def equimu_steps(batch, width, n_layer):
    """A call of the step that `equimu train` runs, on a state that it keeps; one that is measured; and one without a mesh."""
    rows, seq = batch.inputs.shape
    model = ModelConfig(head_dim=HEAD_DIM, vocab_size=VOCAB)
    config = RunConfig(
        task=LanguageModel(model=model, text=TextConfig(rows=rows, seq=seq)),
        size=Sizes(width=width, depth=n_layer),
        base=Sizes(width=HEAD_DIM),
        optimizer=AdamW(clip_norm=None),
    )
    program, numbers = program_for(config, build_tree(config, rows))
    hyper, batch = hyperparameters_of(config), shard_batch(batch, make_mesh())
    compiled = program.compiled(batch, numbers, hyper)

    def meshless(leaves, batch, numbers, hyper, measure):
        tree, state = program.rules(numbers), program.state(leaves)

        def loss(params):
            objective, cross_entropy = summed_losses(program.model(tree, params, state.buffers), batch)
            return objective / jnp.maximum(jnp.sum(batch.mask), 1), cross_entropy

        grads, summed = jax.grad(loss, has_aux=True)(state.params)
        mean = summed / jnp.maximum(jnp.sum(batch.mask), 1)
        state, metrics = update(state, Outcome(mean, grads, {}, None), program.optimizer(tree, hyper), measure)
        return jax.tree.leaves(state), metrics

    def calls(step, measured=False):
        kept = [compiled.init(numbers, hyper, jax.random.key(0))]

        def call():
            kept[0], metrics = step(kept[0], batch, numbers, hyper, np.bool_(measured))
            return kept[0], metrics.loss

        return call

    without = jax.jit(meshless, donate_argnums=0)
    without = without.lower(program.state_like, batch, numbers, hyper, np.bool_(True)).compile()
    return {
        "meshless": calls(without),
        "equimu": calls(compiled.step),
        "measured": calls(compiled.step, measured=True),
    }


def plain_step(batch, width, n_layer):
    """A call of the plain step, on a state that it keeps."""
    heads = width // HEAD_DIM

    def norm(x):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)

    def rotate(x):
        half = HEAD_DIM // 2
        angle = jnp.arange(x.shape[1])[:, None] * 10_000.0 ** (-jnp.arange(half) / half)
        cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
        a, b = x[..., :half], x[..., half:]
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    def block(x, w):
        h = norm(x)
        q, k, v = ((h @ w[name]).reshape(*x.shape[:2], heads, HEAD_DIM) for name in "qkv")
        x = x + dot_product_attention(rotate(q), rotate(k), v, scale=1 / HEAD_DIM).reshape(x.shape) @ w["o"]
        return x + jax.nn.relu(norm(x) @ w["up"]) @ w["down"], None

    def loss(params, batch):
        x, _ = jax.lax.scan(block, params["embedding"][batch.inputs], params["blocks"])
        logits = norm(x) @ params["unembedding"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets))

    def draw(name, *shape):
        return jax.random.normal(jax.random.key(len(name)), shape) * shape[-2] ** -0.5

    shapes = {"q": (width, width), "k": (width, width), "v": (width, width), "o": (width, width)}
    shapes |= {"up": (width, 4 * width), "down": (4 * width, width)}
    params = {
        "embedding": jax.random.normal(jax.random.key(0), (VOCAB, width)),
        "blocks": {name: draw(name, n_layer, *shape) for name, shape in shapes.items()},
        "unembedding": draw("unembedding", width, VOCAB) * width**-0.5,
    }
    optimizer = optax.adamw(optax.linear_schedule(2**-5, 0.0, 1000), b1=0.9, b2=0.95, weight_decay=0.0)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    batch = jax.device_put(batch)
    kept = [(params, optimizer.init(params))]

    def call():
        kept[0], value = step(kept[0], batch)
        return kept[0], value

    return call


if __name__ == "__main__":
    for width, n_layer in ((128, 2), (256, 4), (512, 4)):
        print(f"width {width}, {n_layer} layers:", measure(width=width, n_layer=n_layer))
