"""Optimizers of float16 arrays: squares of gradients and epsilons of 1e-8 are zero there, so they are computed in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from equimu._types import PyTree


def with_float16_in_float32(transform: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """The same transformation, with gradients, weights and state of float16 arrays in float32; its updates are float16."""

    def init(params: PyTree) -> Any:
        return transform.init(_widened(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any) -> tuple[PyTree, Any]:
        made, state = transform.update(_widened(updates), state, None if params is None else _widened(params), **extra)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), made, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _widened(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float16 else x, tree)
