"""A decoder, its batches and its step on meshes of eight devices."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from equimu import LanguageModel, nn
from equimu.data import Batch
from equimu.sharding import make_mesh
from equimu.training import (
    loss_and_gradient,
)

VOCAB, ROWS, SEQ, STEPS = 24, 32, 8, 5


# Eight heads for tensor=8; two key/value heads, fewer than that.
LLAMA = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "n_layer": 2,
    "head_dim": 4,
    "n_kv_head": 2,
    "activation": "swiglu",
    "d_ff_multiple": 2.0,
    "norm_gain": "vector",
    "attention_backend": "reference",  # it compiles faster
}


def mesh_of(shape):
    return make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])


def shapes_of(**options):
    return eqx.filter_eval_shape(functools.partial(nn.Transformer, **(LLAMA | options)), key=jax.random.key(0))


def randomised(shapes, seed=0):
    """Every array drawn anew, so that no constant start hides a mistake."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3 + (x.ndim == 1), x.dtype), shapes)


def batches(n=STEPS, vocab=VOCAB):
    rng = np.random.default_rng(1)
    made = (rng.integers(0, vocab, (2, ROWS, SEQ)).astype(np.int32) for _ in range(n))
    return [Batch(i, t, (rng.random((ROWS, SEQ)) < 0.7).astype(np.float32)) for i, t in made]


def outcome_of(apply, mesh, *, accumulate=1, **task):
    """The step's gradient of a language model without keys, buffers and state, as a function of parameters and batch."""
    gradient = loss_and_gradient(LanguageModel(**task), lambda params, _: apply(params), mesh, accumulate=accumulate)
    return lambda params, data: gradient(params, data, None, None, None)
