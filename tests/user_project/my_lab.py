"""What a user of the library writes, type-checked strictly: a layer, a parameterization, an optimizer, an attention backend, a
machine, a logger and tasks."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

import equimu as mu
from equimu.attention import Backend, Problem, Visibility
from equimu.parameterization import fan_in, width_ratio


class Gated(eqx.Module):
    """A gated layer with a gain of its own."""

    value: eqx.nn.Linear
    gate: eqx.nn.Linear
    gain: Float[Array, " width"]

    def __init__(self, width: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.value = eqx.nn.Linear(width, width, key=keys[0])
        self.gate = eqx.nn.Linear(width, width, key=keys[1])
        self.gain = jnp.ones(width)

    def __call__(self, x: Float[Array, " width"]) -> Float[Array, " width"]:
        return self.gain * self.value(x) * jax.nn.sigmoid(self.gate(x))


mu.register_axes(Gated, gain=("out",))


class Classifier(eqx.Module):
    """Two linear layers around a gated one."""

    embed: eqx.nn.Linear
    gated: Gated
    readout: eqx.nn.Linear

    def __init__(self, width: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.embed = eqx.nn.Linear(4, width, key=keys[0])
        self.gated = Gated(width, key=keys[1])
        self.readout = eqx.nn.Linear(width, 2, key=keys[2])

    def __call__(self, x: Float[Array, "4"]) -> Float[Array, "2"]:
        return self.readout(self.gated(jax.nn.relu(self.embed(x))))


def mine(power: float = 1.0, *, optimizer: mu.parameterization.Family = "adam") -> mu.Parameterization:
    """μP with another power on the hidden learning rates."""
    return mu.Parameterization(
        name=f"mine-{power:g}",
        optimizer=optimizer,
        input=mu.Row(init_std=fan_in**-0.5),
        hidden=mu.Row(lr=width_ratio**-power),
        output=mu.Row(init_std=1 / fan_in, lr=1 / width_ratio),
    )


mu.register_parameterization("mine", mine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nadam(mu.Optimizer):
    """Adam with Nesterov's momentum."""

    family = "adam"

    b2: float = 0.95

    def transformation(self, tree: Any, **common: Any) -> optax.GradientTransformationExtraArgs:
        """By optax, with the tree's learning rates."""
        rate, schedule = common["learning_rate"], common["schedule"]

        def one(rule: mu.Rule) -> optax.GradientTransformation:
            return optax.chain(optax.scale_by_adam(b2=self.b2, nesterov=True), optax.scale(-rate * rule.lr))

        return optax.with_extra_args_support(
            optax.chain(mu.multi_transform(tree, one), optax.scale_by_schedule(schedule))
        )


mu.register_optimizer("nadam", Nadam)


def plain_attention(
    q: Float[Array, "*batch seq_q heads head_dim"],
    k: Float[Array, "*batch seq_k kv_heads head_dim"],
    v: Float[Array, "*batch seq_k kv_heads head_dim"],
    *,
    scale: float | Float[Array, ""],
    q_offset: int | Int[Array, ""],
    q_segments: Int[Array, "*batch seq_q"] | None,
    k_segments: Int[Array, "*batch seq_k"] | None,
    visibility: Visibility,
) -> Float[Array, "*batch seq_q heads head_dim"]:
    """Softmax attention by the formula, of as many heads of keys as of queries."""
    scores = scale * jnp.einsum("...qhd,...khd->...hqk", q, k)
    seen = visibility.mask(q_offset + jnp.arange(q.shape[-3])[:, None], jnp.arange(k.shape[-3]))
    return jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1), v)


def why_not(problem: Problem) -> str | None:
    """What `plain_attention` cannot do."""
    return (
        "it takes neither segments nor shared heads" if problem.segments or problem.heads != problem.kv_heads else None
    )


mu.register_backend(Backend(name="plain", run=plain_attention, unsupported_reason=why_not))
mu.register_machine(
    mu.Machine(
        name="cluster", memory=80 * 2**30, flops=989e12, bandwidth=3.35e12, interconnect=450e9, source="the vendor"
    )
)


class LastLoss:
    """Writes the newest row, in words, into a file beside the runs."""

    def begin(self, identity: Mapping[str, Any], folder: Path, step: int, /) -> None:
        self.file = folder.parent / "progress.txt"
        self.file.write_text(f"{identity['config']['task']['name']} from step {step}\n")

    def row(self, row: Mapping[str, Any], /) -> None:
        with self.file.open("a") as file:
            file.write(f"step {row['step']}: {row.get('loss')}\n")

    def end(self, status: str, /) -> None:
        with self.file.open("a") as file:
            file.write(f"{status}\n")


mu.register_logger("last-loss", LastLoss)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder(mu.LanguageModel):
    """The decoder on text, with what this file registers."""


@dataclasses.dataclass(frozen=True)
class Quadrants(mu.Task):
    """Whether two coordinates have one sign."""

    rows: int = 16
    smoothing: float = 0.0

    def make(self, width: int = 16, *, key: PRNGKeyArray) -> Classifier:
        return Classifier(width, key=key)

    def data(self) -> mu.data.Data:
        x = np.random.default_rng(0).normal(size=(512, 4)).astype(np.float32)
        label = (x[:, 0] * x[:, 1] > 0).astype(np.int32)
        return mu.data.arrays(x, label, rows=self.rows)

    def loss(self, model: Classifier, batch: tuple[Float[Array, "rows 4"], Int[Array, " rows"]]) -> mu.Losses:
        x, label = batch
        logits = jax.vmap(model)(x)
        target = optax.smooth_labels(jax.nn.one_hot(label, 2), self.smoothing)
        right = jnp.argmax(logits, axis=1) == label
        return mu.Losses(optax.softmax_cross_entropy(logits, target), metrics={"accuracy": right})


def best_rate(out: str) -> float | None:
    """The learning rate that a sweep carries over, as log2."""
    runs = mu.sweep(Quadrants(), over={"width": (8, 16)}, panels=("mine", mine(0.5)), steps=20, out=out)
    return mu.report(runs).panels[0].carried
