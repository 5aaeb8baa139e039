"""Inside a checked `jax.shard_map` each value has a type that says over which mesh axes it varies.

What is mixed in one loop must agree in it, so that gradients are summed over the right axes.
"""

from typing import Any, TypeVar

import jax

Tree = TypeVar("Tree")


def varying_axes(tree: object) -> frozenset[str]:
    """The mesh axes over which any of the arrays varies; empty outside of `jax.shard_map`."""
    types = [jax.typeof(leaf) for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return frozenset[str]().union(*(kind.manual_axis_type.varying for kind in types))


def vary(tree: Tree, axes: frozenset[str]) -> Tree:
    """The same arrays, typed to vary over these axes too. The transpose sums over what was added."""

    def widen(leaf: Any) -> Any:
        missing = axes - varying_axes(leaf)
        if not missing or not isinstance(leaf, jax.Array):  # a Python number fits anywhere
            return leaf
        return jax.lax.pcast(leaf, tuple(sorted(missing)), to="varying")

    return jax.tree.map(widen, tree)


def vary_alike(tree: Tree) -> Tree:
    """The same tree, all its arrays typed to vary over the axes over which any of them does."""
    return vary(tree, varying_axes(tree))
