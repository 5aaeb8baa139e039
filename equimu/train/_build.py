"""From a config to the objects it speaks of: constructor, parameterization, tree, optimizer."""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import optax

from equimu._errors import EquimuError
from equimu._types import PyTree, Scalar
from equimu.nn import Transformer
from equimu.optim import adafactor, adamw, lion, muon, sgd, warmup_schedule
from equimu.parameterization import (
    Family,
    Parameterization,
    completed_p,
    completep,
    depth_mup,
    everett,
    fan_in,
    mean_field,
    mup,
    ntk,
    parameterize,
    sp,
    spectral,
    tpv,
    umup,
)
from equimu.train._config import ModelConfig, OptimizerConfig, ParameterizationConfig, RunConfig

_FAMILIES: dict[str, Family] = {
    "adamw": "adam",
    "lion": "sign",
    "sgd": "sgd",
    "adafactor": "adafactor",
    "muon": "muon",
}
# Name -> the table, from the fields of the config that it knows, and the keywords `optimizer`, `decay` and (of all but the
# first two) `eps`.
_TABLES: dict[str, Callable[..., Parameterization]] = {
    "sp": lambda config, eps, **common: sp(**common),
    "ntk": lambda config, eps, **common: ntk(**common),
    "mup": lambda config, **common: mup(config.form, **common),
    "tpv3": lambda config, **common: tpv(3, form=config.form, **common),
    "tpv8": lambda config, **common: tpv(8, form=config.form, **common),
    "tpv9": lambda config, **common: tpv(9, form=config.form, **common),
    "mean-field": lambda config, **common: mean_field(**common),
    "everett-sp": lambda config, **common: everett("sp", config.alignment, **common),
    "everett-ntk": lambda config, **common: everett("ntk", config.alignment, **common),
    "everett-mup": lambda config, **common: everett("mup", config.alignment, **common),
    "everett-mean-field": lambda config, **common: everett("mean-field", config.alignment, **common),
    "spectral": lambda config, **common: spectral(config.form, **common),
    "depth-mup": lambda config, **common: depth_mup(**common),
    "completep": lambda config, **common: completep(config.alpha, **common),
    "completed-p": lambda config, **common: completed_p(config.alpha, **common),
    "umup": lambda config, **common: umup(**common),
}


def build_make(config: RunConfig, vocab_size: int) -> Callable[..., Transformer]:
    """The model's constructor, with everything fixed but `d_model`, `n_layer` and the key."""
    model: ModelConfig = config.model
    scales = {"1/head_dim": 1 / model.head_dim, "1/sqrt(head_dim)": model.head_dim**-0.5}
    scale = model.attention_scale
    return functools.partial(
        Transformer,
        vocab_size=vocab_size,
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


def build_parameterization(config: ParameterizationConfig, optimizer: OptimizerConfig) -> Parameterization:
    """The table of laws, for an optimizer."""
    table = _TABLES[config.name](
        config, optimizer=_FAMILIES[optimizer.name], decay=optimizer.weight_decay_rule, eps=config.eps
    )
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
    rules, model = config.parameterization, config.model
    rows, steps = config.data.rows, config.steps
    base_rows, base_steps = rules.base_rows or rows, rules.base_steps or steps
    return parameterize(
        build_make(config, vocab_size),
        build_parameterization(rules, config.optimizer),
        base={"d_model": rules.base_width, "n_layer": rules.base_n_layer or model.n_layer},
        target={"d_model": model.width, "n_layer": model.n_layer},
        batch_ratio=Fraction(rows, base_rows),
        length_ratio=Fraction(rows * steps, base_rows * base_steps),
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
        schedule=warmup_schedule(total=steps, warmup=warmup, decay=config.decay, floor=config.floor),
        clip_norm=config.clip_norm,
        mu_dtype=jnp.dtype(config.first_moment_dtype),
    )
    if config.name == "adamw":
        return adamw(tree, b1=config.b1, b2=config.b2, eps=config.eps, **common)
    if config.name == "lion":
        return lion(tree, b1=config.b1, b2=config.b2, **common)
    if config.name == "adafactor":
        return adafactor(tree, **common)
    if config.name == "muon":
        return muon(tree, beta=config.momentum, b1=config.b1, b2=config.b2, eps=config.eps, **common)
    return sgd(tree, momentum=config.momentum or None, **common)
