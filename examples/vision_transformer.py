"""A vision transformer over width and depth together: does the best learning rate stay? In about a minute.

The images are shapes under noise, drawn on the spot. Two things about the model cannot be known from its layers and are said in
two lines: what the axes of its positional table are (`register_axes`), and which layers end the residual branches of a block
(`register_residual`), where rules of depth put their factor. It is trained at two sizes and a row of learning rates, under
CompleteP and under the standard parameterization (SP). The script succeeds if under CompleteP the best rate stays.

    python examples/vision_transformer.py
"""

import itertools
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import equimu as mu

SIDE, PATCH, HEAD, BATCH, SEEDS = 16, 4, 8, 32, 2
TOLERANCE = 0.5  # octaves by which CompleteP's best learning rate may move with each doubling of the width


class Block(eqx.Module):
    norms: list[eqx.nn.LayerNorm]
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP

    def __init__(self, d_model, *, key):
        keys = jax.random.split(key)
        self.norms = [eqx.nn.LayerNorm(d_model) for _ in range(2)]
        self.attention = eqx.nn.MultiheadAttention(d_model // HEAD, d_model, use_output_bias=True, key=keys[0])
        self.mlp = eqx.nn.MLP(d_model, d_model, 2 * d_model, 1, jax.nn.gelu, key=keys[1])

    def __call__(self, x):
        y = jax.vmap(self.norms[0])(x)
        x = x + self.attention(y, y, y)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))


class VisionTransformer(eqx.Module):
    embed: eqx.nn.Conv2d
    class_token: jax.Array
    positions: jax.Array
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    readout: eqx.nn.Linear

    def __init__(self, d_model, n_layer, *, key):
        keys = jax.random.split(key, 4 + n_layer)
        self.embed = eqx.nn.Conv2d(1, d_model, PATCH, stride=PATCH, key=keys[0])
        self.class_token = jax.random.normal(keys[1], (d_model,))
        self.positions = jax.random.normal(keys[2], ((SIDE // PATCH) ** 2 + 1, d_model))
        self.blocks = [Block(d_model, key=k) for k in keys[4:]]
        self.norm = eqx.nn.LayerNorm(d_model)
        self.readout = eqx.nn.Linear(d_model, 4, key=keys[3])

    def __call__(self, image):
        patches = self.embed(image[None]).reshape(len(self.class_token), -1).T
        x = jnp.concatenate([self.class_token[None], patches]) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x[0]))


mu.register_axes(VisionTransformer, positions=("table", "out"))
mu.register_residual(Block, "attention.output_proj", "mlp.layers[-1]")


def images(key, n):
    """Discs, squares, diamonds and crosses of random place and size, drowned in noise, and which they are."""
    keys = jax.random.split(key, 4)
    label = jax.random.randint(keys[0], (n,), 0, 4)
    radius = jax.random.uniform(keys[1], (n, 1, 1), minval=3.5, maxval=6.0)
    middle = jax.random.uniform(keys[2], (2, n, 1, 1), minval=6.5, maxval=SIDE - 7.5)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(SIDE), jnp.arange(SIDE)))[:, None]
    x, y = jnp.abs(grid - middle) / radius
    shapes = jnp.stack(
        [x**2 + y**2 < 1, jnp.maximum(x, y) < 0.9, x + y < 1.25, (jnp.minimum(x, y) < 0.3) & (x + y < 1.3)]
    )
    image = shapes[label, jnp.arange(n)].astype(jnp.float32)
    return image + 0.25 * jax.random.normal(keys[3], image.shape), label


def train(scheme, sizes, rates, steps, seed):
    """The loss on fresh images after training, at each learning rate."""
    tree = mu.parameterize(VisionTransformer, scheme, **sizes)

    def loss(model, batch):
        x, label = batch
        logits = jax.vmap(mu.scaled(tree, model))(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    def optimizer(rate):
        return mu.adamw(tree, learning_rate=rate, schedule=mu.warmup_schedule(total=steps, warmup=steps // 10))

    @eqx.filter_jit  # the learning rate is an input: one compilation for all of them
    def step(model, state, rate, key):
        grads = eqx.filter_grad(loss)(model, images(key, BATCH))
        updates, state = optimizer(rate).update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    found = []
    test = images(jax.random.key(1), 1024)
    start = eqx.filter_jit(mu.initialize)(tree, jax.random.key(seed))
    for rate in rates:
        model, state = start, optimizer(rate).init(eqx.filter(start, eqx.is_inexact_array))
        for i in range(steps):
            model, state = step(model, state, jnp.asarray(rate), jax.random.fold_in(jax.random.key(2 + seed), i))
        found.append(float(eqx.filter_jit(loss)(model, test)))
    return found


def stays(sizes, log2_rates, steps):
    """Trains at all sizes, prints the best learning rates, and tells whether CompleteP's stay."""
    cells = []
    for name, scheme in {"CompleteP": mu.completep(), "SP": mu.sp()}.items():
        for target, seed in itertools.product(sizes, range(SEEDS)):
            found = train(scheme, {"base": sizes[0], "target": target}, [2.0**r for r in log2_rates], steps, seed)
            cells += [
                mu.report.Cell(
                    parameterization=name, size=target["d_model"], along="size", learning_rate=2.0**r, seed=seed, loss=x
                )
                for r, x in zip(log2_rates, found, strict=True)
            ]
    panels = mu.report.report(cells).panels
    for panel in panels:
        print(f"ViT, {panel.parameterization}: the best learning rate {panel.verdict.sentence}")
    law = panels[0].law
    return law is not None and abs(law.slope) <= TOLERANCE


if __name__ == "__main__":
    good = stays([{"d_model": 16 * k, "n_layer": 2 * k} for k in (1, 2)], range(-8, -2), 100)
    print("PASS: under CompleteP the best learning rate stays" if good else "FAIL: the best learning rate moves")
    sys.exit(not good)
