"""From a config to the objects it speaks of: constructor, parameterization, tree, optimizer."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import optax

from equimu._errors import EquimuError
from equimu._types import PyTree, Scalar
from equimu.nn import Transformer
from equimu.optim import adamw, lion, sgd, warmup_schedule
from equimu.parameterization import Family, Parameterization, fan_in, mup, parameterize, sp, tpv
from equimu.train._config import ModelConfig, OptimizerConfig, ParameterizationConfig, RunConfig

_TPV_TABLES: dict[str, Literal[3, 8, 9]] = {"tpv3": 3, "tpv8": 8, "tpv9": 9}
_FAMILIES: dict[str, Family] = {"adamw": "adam", "lion": "sign", "sgd": "sgd"}


def build_make(config: RunConfig, vocab_size: int) -> Callable[..., Transformer]:
    """The model's constructor, with everything fixed but `d_model` and the key."""
    model: ModelConfig = config.model
    scales = {"1/head_dim": 1 / model.head_dim, "1/sqrt(head_dim)": model.head_dim**-0.5}
    scale = model.attention_scale
    return functools.partial(
        Transformer,
        vocab_size=vocab_size,
        n_layer=model.n_layer,
        head_dim=model.head_dim,
        n_kv_head=model.n_kv_head,
        d_ff_multiple=model.d_ff_multiple,
        activation=model.activation,
        rotary_base=model.rotary_base,
        attention_scale=scales[scale] if isinstance(scale, str) else scale,
        norm_gain=model.norm_gain,
        norm_eps=model.norm_eps,
        embedding_norm=model.embedding_norm,
        qk_norm=model.qk_norm,
        use_bias=model.use_bias,
        zero_query=model.zero_query,
        zero_residual=model.zero_residual,
        zero_unembedding=config.parameterization.unembedding == "zero",
        tie_embeddings=model.tie_embeddings,
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
        unroll=model.unroll,
        attention_backend=model.attention_backend,
    )


def build_parameterization(config: ParameterizationConfig, optimizer: str) -> Parameterization:
    """The table of laws, for the optimizer of that name."""
    family = _FAMILIES[optimizer]
    if config.name == "sp":
        table = sp(optimizer=family)
    elif config.name == "mup":
        table = mup(config.form, optimizer=family, eps=config.eps)
    else:
        table = tpv(_TPV_TABLES[config.name], form=config.form, optimizer=family, eps=config.eps)
    if config.unembedding == "standard":
        table = table.replace("output", init_std=fan_in**-0.5)
    for text in config.tune:
        place, _, value = text.partition("=")
        where, _, number = place.rpartition(".")
        try:
            table = table.tune(where, **{number: float(value)})
        except ValueError as error:
            raise EquimuError(f"tune {text!r} is not of the form output.multiplier=4 ({error})") from None
    return table


def build_tree(config: RunConfig, vocab_size: int) -> PyTree:
    """The tree of rules of a run's model."""
    return parameterize(
        build_make(config, vocab_size),
        build_parameterization(config.parameterization, config.optimizer.name),
        base={"d_model": config.parameterization.base_width},
        target={"d_model": config.model.width},
    )


def build_optimizer(
    config: OptimizerConfig,
    tree: PyTree,
    *,
    learning_rate: Scalar,
    weight_decay: Scalar,
    steps: Any,
    warmup: Any,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer; what a sweep varies is given apart from the config, so that it can be traced."""
    common: dict[str, Any] = dict(
        learning_rate=learning_rate,
        # a decay of zero is left out of the program
        weight_decay=weight_decay if config.weight_decay else 0.0,
        decay=config.weight_decay_rule,
        schedule=warmup_schedule(total=steps, warmup=warmup, decay=config.decay, floor=config.floor),
        clip_norm=config.clip_norm,
        mu_dtype=jnp.dtype(config.first_moment_dtype),
    )
    if config.name == "adamw":
        return adamw(tree, b1=config.b1, b2=config.b2, eps=config.eps, **common)
    if config.name == "lion":
        return lion(tree, b1=config.b1, b2=config.b2, **common)
    return sgd(tree, momentum=config.momentum or None, **common)
