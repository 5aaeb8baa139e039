"""Small checkpoints, and what the tests of checkpoints share."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from equimu import EquimuError
from equimu.storage import Checkpoints

MANIFEST = {"config": "c0ffee", "rules": {"w": {"lr": 0.5, "role": "hidden"}}}


def like_of(tree, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), tree)


def bits(leaf):
    array = np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
    return str(leaf.dtype), array.shape, array.tobytes()


def assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert bits(one) == bits(other)


def small(seed=0):
    a, b = np.random.default_rng(seed).standard_normal((2, 4, 6))
    return {"a": jnp.asarray(a, jnp.float32), "b": jnp.asarray(b, jnp.float32), "n": jnp.int32(seed)}


def saved(root, *steps, manifest=MANIFEST, **options):
    """Checkpoints of `small(step)` at each step."""
    checkpoints = Checkpoints(root, **options)
    for step in steps:
        checkpoints.save(step, small(step), manifest)
    checkpoints.wait()
    return checkpoints


def names(root):
    return sorted(path.name for path in Path(root).iterdir())


def refused(words, work):
    with pytest.raises(EquimuError, match=words) as error:
        work()
    assert "\n" not in str(error.value)


def on(devices, spec, memory=None):
    shape = {8: (4, 2), 4: (2, 2), 2: (2, 1), 1: (1, 1)}[devices]
    mesh = jax.make_mesh(shape, ("x", "y"), devices=jax.devices()[:devices])
    return NamedSharding(mesh, spec)
