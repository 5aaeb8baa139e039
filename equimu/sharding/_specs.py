"""Where the arrays of a model and of its optimizer's state lie on a mesh: a tree of partition specs, from the declared axes."""

from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from equimu._types import PyTree, is_array_or_shape
from equimu.declarations import Leaf, locate
from equimu.parameterization import is_rule, rules_of
from equimu.sharding._mesh import FSDP, TENSOR
from equimu.sharding._shards import Shard, is_mesh_aware


def partition_specs(model: PyTree, mesh: Mesh | AbstractMesh) -> PyTree:
    """A partition spec in the place of each array.

    - `tensor` takes the axis that the module declares to be split, if its parts divide over the devices and the model is
      mesh-aware. No other model shares work there: all devices along `tensor` then do the same.
    - `fsdp` takes the largest other axis that it divides, of those declared and no stack. Vectors are left whole: what a device
      would save is less than a collective is worth. So are arrays without a declaration.
    - `data` takes nothing: its devices have the same arrays.

    Args:
        model: its tree of rules, which has the declarations; or its arrays or their shapes, of which they are looked up.
        mesh: with the axes of `make_mesh`.
    """
    tensor = mesh.shape[TENSOR] if is_mesh_aware(model) else 1
    rules = rules_of(model)
    leaves = iter([rule.leaf for rule in rules] or locate(model))
    has_leaf = is_rule if rules else is_array_or_shape
    return jax.tree.map(lambda x: _spec(next(leaves), mesh.shape[FSDP], tensor) if has_leaf(x) else None, model)


def _spec(leaf: Leaf, fsdp: int, tensor: int) -> PartitionSpec:
    entries: list[str | None] = [None] * len(leaf.shape)
    if leaf.axes is None or not leaf.declared:
        return PartitionSpec(*entries)
    if leaf.axes.split is not None and tensor > 1:
        axis, parts = leaf.axes.split
        if parts % tensor == 0:
            entries[leaf.stacks + axis] = TENSOR
    inner = [leaf.stacks + i for i, word in enumerate(leaf.axes.words) if word != "stack"]
    free = [i for i in inner if entries[i] is None and leaf.shape[i] % fsdp == 0]
    if fsdp > 1 and len(inner) > 1 and free:
        entries[max(free, key=lambda i: leaf.shape[i])] = FSDP
    return PartitionSpec(*entries)


def shards(model: PyTree, specs: PyTree) -> PyTree:
    """A model inside `shard_map`, each array that is spread over `fsdp` as a `Shard`.

    Args:
        model: of the device's parts of the arrays.
        specs: of the arrays; the model may have more leaves, functions and constants, that no spec belongs to.
    """

    def mark(leaf: Any, spec: PartitionSpec | None) -> Any:
        if spec is None or FSDP not in spec:
            return leaf
        return Shard(leaf, spec.index(FSDP) - len(spec))

    return jax.tree.map(mark, model, specs)


def state_specs(optimizer: optax.GradientTransformation, params: PyTree, specs: PyTree, mesh: Mesh) -> PyTree:
    """The partition specs of an optimizer's state: of what is shaped like a parameter, the parameter's.

    With explicit axes JAX carries the shardings of arrays in their types, so tracing the optimizer's `init` tells.

    Args:
        optimizer: any.
        params: shapes of the parameters.
        specs: of the parameters.
        mesh: the mesh.
    """
    explicit = AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=(AxisType.Explicit,) * len(mesh.axis_names))

    def typed(shape: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=NamedSharding(explicit, spec))

    with jax.sharding.use_abstract_mesh(explicit):
        state = jax.eval_shape(optimizer.init, jax.tree.map(typed, params, specs))
    return jax.tree.map(lambda x: PartitionSpec() if x.sharding is None else x.sharding.spec, state)


def with_specs(shapes: PyTree, specs: PyTree, mesh: Mesh) -> PyTree:
    """The shapes of arrays, with the shardings that the specs mean on a mesh."""
    return jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)), shapes, specs
    )
