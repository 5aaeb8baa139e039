"""The rows of a batch on the devices of a mesh: which each process reads, and where they lie."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Integer

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu.sharding._mesh import BATCH, BATCH_AXES


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """A batch of numpy arrays on the mesh's devices, rows spread over `data` and `fsdp`.

    Raises:
        EquimuError: the rows do not divide over these devices.
    """
    rows = len(jax.tree.leaves(batch)[0])
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % devices != 0:
        raise EquimuError(
            f"{rows} rows do not divide over {devices} devices (data {mesh.shape['data']} × fsdp {mesh.shape['fsdp']})"
        )
    return jax.device_put(batch, NamedSharding(mesh, BATCH))


def rows_of_process(mesh: Mesh, rows: int) -> Integer[np.ndarray, " own"] | None:
    """The rows of a batch that this process' devices need, ascending; None for all.

    Args:
        mesh: of all processes.
        rows: of a batch.

    Raises:
        EquimuError: the rows do not divide among the devices.
    """
    parts = int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
    if rows % parts != 0:
        sizes = "×".join(str(mesh.shape[axis]) for axis in BATCH_AXES)
        raise EquimuError(
            f"a batch of {rows} rows cannot be spread evenly over {sizes} devices (runtime.data × runtime.fsdp); "
            f"make rows a multiple of {parts}"
        )
    if jax.process_count() == 1:
        return None
    places = NamedSharding(mesh, BATCH).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in places if index is not None]))


def place_batch(batch: PyTree, mesh: Mesh, rows: Integer[np.ndarray, " own"] | None, whole: int) -> PyTree:
    """This process' rows of a batch, as its part of the batch on the devices of all.

    Args:
        batch: a pytree of numpy arrays with these rows.
        mesh: of the run.
        rows: which they are, as `rows_of_process` gave them.
        whole: rows of the batch.
    """
    if rows is None:
        return shard_batch(batch, mesh)
    sharding = NamedSharding(mesh, BATCH)

    def place(array: Any) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            wanted = range(whole)[index[0]]
            first = int(np.searchsorted(rows, wanted.start))
            return array[first : first + len(wanted)]

        return jax.make_array_from_callback((whole, *array.shape[1:]), sharding, part)

    return jax.tree.map(place, batch)
