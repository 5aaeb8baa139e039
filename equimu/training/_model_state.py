"""The `eqx.nn.State` of a model inside `shard_map`, where the type of an array says where it lies."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from equimu._varying import vary, varying_axes


@jax.tree_util.register_pytree_node_class
class MappedState(eqx.nn.State):
    """A state that takes new values whose types say something else of the mesh than those of the old ones.

    Equinox compares all that the types of arrays say, and inside `shard_map` no constant is of the type of an argument.
    """

    def set(self, item: Any, value: Any) -> "MappedState":
        """As that of `eqx.nn.State`."""
        old = self.get(item)
        value = jax.tree.map(jnp.asarray, value)
        if _shapes(old) != _shapes(value):
            super().set(item, value)  # says so
        values, keys = self.tree_flatten()
        super().set(item, old)  # of no use from here on, as Equinox has it
        new = dict(zip(keys, values, strict=True)) | {item.marker: vary(value, varying_axes(old))}
        return _made(keys, list(new.values()))

    def substate(self, pytree: Any) -> "MappedState":
        """As that of `eqx.nn.State`."""
        return mapped_state(super().substate(pytree))

    def update(self, substate: eqx.nn.State) -> "MappedState":
        """As that of `eqx.nn.State`."""
        return mapped_state(super().update(plain_state(substate)))


def mapped_state(state: Any) -> Any:
    """A copy of a state for use inside `shard_map`; None for None."""
    if state is None:
        return None
    values, keys = state.tree_flatten()
    return _made(keys, values)


def plain_state(state: Any) -> Any:
    """The state as Equinox's own."""
    if state is None:
        return None
    values, keys = state.tree_flatten()
    return eqx.nn.State.tree_unflatten(keys, values)


def _made(keys: Any, values: Any) -> Any:
    return MappedState.tree_unflatten(keys, values)


def _shapes(tree: Any) -> Any:
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
