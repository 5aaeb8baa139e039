"""A vision transformer, checked over width and over depth before anything is tuned on it. In about a minute.

The images are shapes under noise, drawn on the spot. Two things about the model cannot be known from its layers and are said in
two lines: what the axes of its positional table are (`register_axes`), and which layers end the residual branches of a block
(`register_residual`), where rules of depth put their factor. The script learns the shapes under CompleteP, and then asks
whether everything in the model behaves, as it grows wider and deeper, as CompleteP says. It succeeds if that is so.

    python examples/vision_transformer.py
"""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import equimu as mu

SIDE, PATCH, HEAD, BATCH = 16, 4, 8, 32


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


def loss(model, batch):
    x, label = batch
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), label).mean()


def train(scheme, sizes, rate, steps):
    """The loss on fresh images before training and behind it."""
    tree = mu.parameterize(VisionTransformer, scheme, **sizes)
    optimizer = mu.adamw(tree, learning_rate=rate, schedule=mu.warmup_schedule(total=steps, warmup=steps // 10))

    @eqx.filter_jit
    def step(model, state, key):
        grads = eqx.filter_grad(lambda m: loss(mu.scaled(tree, m), images(key, BATCH)))(model)
        updates, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    start = model = eqx.filter_jit(mu.initialize)(tree, jax.random.key(0))
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    for i in range(steps):
        model, state = step(model, state, jax.random.key(2 + i))
    test = images(jax.random.key(1), 512)
    return [float(loss(mu.scaled(tree, m), test)) for m in (start, model)]


def check(base, sizes, seeds=3):
    """Whether the model behaves as CompleteP says at these sizes, with the words of the check."""
    made = mu.coord_check(
        VisionTransformer,
        mu.completep(),
        base=base,
        sizes=sizes,
        loss=loss,
        batches=[images(jax.random.key(0), BATCH)],
        optimizer=lambda tree: mu.adamw(tree, learning_rate=2**-9),
        seeds=range(seeds),
    )
    return made.passed, made.verdict


if __name__ == "__main__":
    base = {"d_model": 16, "n_layer": 2}
    before, after = train(mu.completep(), {"base": base, "target": {"d_model": 32, "n_layer": 4}}, 2**-6, 150)
    print(f"ViT, CompleteP: loss {before:.2f} before training, {after:.2f} behind it")
    checks = {
        "width": check(base, [{"d_model": width} for width in (16, 32, 64)]),
        "depth": check(base, [{"n_layer": depth} for depth in (2, 4, 8)]),
    }
    for along, (_, verdict) in checks.items():
        print(f"over {along}: {verdict}")
    good = after < before / 2 and all(passed for passed, _ in checks.values())
    print("PASS: it learns, and behaves as CompleteP says" if good else "FAIL: see above")
    sys.exit(not good)
