"""Makes the figure of `guides/what-is-mup.md`: `python docs/make_figures.py`, a minute or two on two CPU cores.

The same small transformer at four widths takes three steps of Adam with one learning rate, under the standard
parameterization and under μP. What is drawn is by how much the outputs of its parts have changed: rows of a coordinate check.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import optax

import equimu as mu

WIDTHS = (64, 128, 256, 512)
SITES = {"blocks.attention.query": "queries", "blocks.mlp.up": "inside the MLP", "unembedding": "logits"}
FILE = Path(__file__).parent / "images" / "changes.png"


def loss(model, batch):
    inputs, targets = batch
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(inputs), targets).mean()


def changes(parameterization: mu.Parameterization) -> dict[str, tuple[float, ...]]:
    """Of each site, the root mean square of its change after three steps, for each width."""
    make = functools.partial(mu.nn.Transformer, vocab_size=64, n_layer=2, head_dim=16)
    tokens = jax.random.randint(jax.random.key(0), (3, 8, 33), 0, 64)
    check = mu.coord_check(
        make,
        parameterization,
        base={"d_model": WIDTHS[0]},
        sizes=[{"d_model": width} for width in WIDTHS],
        loss=loss,
        batches=[(each[:, :-1], each[:, 1:]) for each in jnp.asarray(tokens)],
        optimizer=lambda tree: mu.adamw(tree, learning_rate=2**-7),
        steps=3,
        seeds=range(3),
    )
    rows = [row for row in check.rows if row.quantity == "change" and row.step == 3]
    return {site: next(row.values for row in rows if row.name == site) for site in SITES}


def main() -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
    tables = {"standard parameterization": mu.sp(), "μP": mu.mup()}
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        for (site, values), mark in zip(changes(table).items(), "osD", strict=True):
            ax.plot(WIDTHS, values, marker=mark, label=SITES[site])
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.set_xticks(WIDTHS, [str(width) for width in WIDTHS])
        ax.set_title(title, loc="left", fontweight="bold", fontsize=10)
        ax.set_xlabel("width")
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("change of the output (RMS)\nafter three steps")
    axes[0].legend(frameon=False)
    figure.savefig(FILE, dpi=160)


if __name__ == "__main__":
    main()
