"""python -m benchmarks.third_party: models of other packages, untouched, parameterized, checked and trained for some steps.

They are not dependencies: `pip install --no-deps esm2quinox jaxonlayers equimo einops loguru lz4 banax` (equimo asks for jax
0.11.1 or newer). A package that is not there is left out. What `parameterize` refuses comes with a line to write; the line is
written, and then it has to pass.
"""

import dataclasses
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import equimu as mu

STEPS, SEEDS = 20, range(3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """One model: its package, its constructor, a loss, batches, and sizes."""

    package: str
    make: Callable[..., Any]
    loss: Callable[[Any, Any], Any]
    batches: list[Any]
    base: Mapping[str, int]
    sizes: tuple[Mapping[str, int], ...]
    table: mu.Parameterization


def _protein(width: int, *, key: Any) -> Any:
    from esm2quinox import ESM2

    return ESM2(num_layers=2, embed_size=width, num_heads=width // 8, token_dropout=False, key=key)


def _protein_loss(model: Any, tokens: Any) -> Any:
    logits = jax.vmap(lambda sequence: model(sequence).logits)(tokens)
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens).mean()


class Encoder(eqx.Module):
    """An encoder of jaxonlayers between two layers of Equinox."""

    embedding: eqx.nn.Linear
    encoder: Any
    readout: eqx.nn.Linear

    def __init__(self, width: int, *, key: Any):
        from jaxonlayers.layers import TransformerEncoder

        keys = jax.random.split(key, 3)
        self.embedding = eqx.nn.Linear(8, width, key=keys[0])
        self.encoder = TransformerEncoder(
            width, width // 8, num_layers=2, dim_feedforward=2 * width, dropout_p=0.0, inference=True, key=keys[1]
        )
        self.readout = eqx.nn.Linear(width, 10, key=keys[2])

    def __call__(self, x: Any) -> Any:
        x = jax.vmap(self.embedding)(x)
        return jax.vmap(self.readout)(self.encoder(x, key=jax.random.key(0)))


class Selective(eqx.Module):
    """A selective state-space layer of jaxonlayers between two layers of Equinox."""

    embedding: eqx.nn.Linear
    mixer: Any
    readout: eqx.nn.Linear

    def __init__(self, width: int, *, key: Any):
        from jaxonlayers.layers import SelectiveStateSpace

        keys = jax.random.split(key, 3)
        self.embedding = eqx.nn.Linear(8, width, key=keys[0])
        self.mixer = SelectiveStateSpace(width, width, dt_rank=4, d_state=2, key=keys[1])
        self.readout = eqx.nn.Linear(width, 10, key=keys[2])

    def __call__(self, x: Any) -> Any:
        x = jax.nn.silu(jax.vmap(self.embedding)(x))
        return jax.vmap(self.readout)(x + self.mixer(x))


def _image_net(width: int, *, key: Any) -> Any:
    from equimo.vision.models.convnext import ConvNeXt

    dims = [width, 2 * width]
    return ConvNeXt(depths=[1, 1], dims=dims, num_classes=10, layer_scale_init_value=0.1, key=key)


def _label_loss(model: Any, batch: Any) -> Any:
    logits = jax.vmap(lambda x: model(x))(batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


def _image_loss(model: Any, batch: Any) -> Any:
    logits = jax.vmap(lambda x: model(x, key=jax.random.key(0), inference=True))(batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


def subjects() -> list[Subject]:
    """One of each package."""
    rng = np.random.default_rng(0)
    tokens = [jnp.asarray(rng.integers(4, 24, (4, 16))) for _ in range(2)]
    sequences = [
        (jnp.asarray(rng.standard_normal((4, 12, 8)), jnp.float32), jnp.asarray(rng.integers(0, 10, (4, 12))))
        for _ in range(2)
    ]
    images = [
        (jnp.asarray(rng.standard_normal((8, 3, 16, 16)), jnp.float32), jnp.asarray(rng.integers(0, 10, 8)))
        for _ in range(2)
    ]
    widths = tuple({"width": width} for width in (32, 64, 128))
    common: dict[str, Any] = {"base": {"width": 32}, "sizes": widths}
    made = [
        Subject(package="esm2quinox", make=_protein, loss=_protein_loss, batches=tokens, table=mu.tpv(8), **common),
        Subject(package="jaxonlayers", make=Encoder, loss=_label_loss, batches=sequences, table=mu.mup(), **common),
        Subject(package="jaxonlayers", make=Selective, loss=_label_loss, batches=sequences, table=mu.mup(), **common),
        Subject(package="equimo", make=_image_net, loss=_image_loss, batches=images, table=mu.mup(), **common),
    ]
    return [one for one in made if importlib.util.find_spec(one.package)]


def lines_to_write(subject: Subject) -> list[str]:
    """The lines of a refusal, each written; empty where nothing is refused."""
    try:
        mu.parameterize(subject.make, subject.table, base=subject.base, target=subject.base | dict(subject.sizes[-1]))
    except mu.EquimuError as error:
        found = [
            line[line.index("equimu.register_axes(") :] for line in str(error).split("\n") if "register_axes(" in line
        ]
        if not found:
            raise
        model = subject.make(**subject.base, key=jax.random.key(0))
        for line in found:
            exec(line, _classes(model) | {"equimu": mu})
        return found
    return []


def _classes(node: Any) -> dict[str, type]:
    """The classes of all modules of a model, by name."""
    found = {type(node).__name__: type(node)}
    children = jax.tree.leaves(node, is_leaf=lambda x: x is not node)
    for child in children:
        if isinstance(child, eqx.Module | list | tuple | dict):
            found |= _classes(child)
    return found


def train(subject: Subject) -> tuple[float, float]:
    """The loss at the start and after some steps, at the largest size."""
    table = subject.table.with_start("constructor")
    tree = mu.parameterize(subject.make, table, base=subject.base, target=subject.base | dict(subject.sizes[-1]))
    model = mu.initialize(tree, jax.random.key(0))
    optimizer = mu.adamw(tree, learning_rate=2**-8)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model: Any, state: Any, batch: Any) -> Any:
        value, gradient = eqx.filter_value_and_grad(lambda m: subject.loss(mu.scaled(tree, m), batch))(model)
        updates, state = optimizer.update(gradient, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, value

    losses: list[float] = []
    for _ in range(STEPS):
        model, state, value = step(model, state, subject.batches[0])
        losses.append(float(value))
    return losses[0], losses[-1]


def main() -> int:
    """Prints a table and, below, the lines that were to be written and what is off; returns how many did not train."""
    print(f"| package | model | lines to write | uses that disagree | coordinate check | loss over {STEPS} steps |")
    print("|---|---|---|---|---|---|")
    written: list[str] = []
    verdicts: list[str] = []
    failed = 0
    for subject in subjects():
        lines = lines_to_write(subject)
        written += lines
        tree = mu.parameterize(
            subject.make, subject.table, base=subject.base, target=subject.base | dict(subject.sizes[1])
        )
        odd = mu.check_uses(tree, subject.loss, subject.batches[0])
        check = mu.coord_check(
            subject.make,
            subject.table.with_start("constructor"),
            base=subject.base,
            sizes=subject.sizes,
            loss=subject.loss,
            batches=subject.batches,
            optimizer=lambda tree: mu.adamw(tree, learning_rate=2**-10),
            seeds=SEEDS,
        )
        before, after = train(subject)
        failed += not after < before
        print(
            f"| {subject.package} | {subject.make.__name__.strip('_')} | {len(lines)} | {len(odd)} | "
            f"{'passed' if check.passed else 'off'} | {before:.3f} to {after:.3f} |",
            flush=True,
        )
        verdicts += [] if check.passed else [f"{subject.package}: {check.verdict}"]
    print("\n" + "\n\n".join([*(f"    {line}" for line in written), *verdicts]))
    return failed


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main() != 0)
