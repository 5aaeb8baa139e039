"""Saved on eight devices, restored on one, two and four, and by two processes of two: identical arrays, the same batches."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.campaign._batches import continued
from benchmarks.campaign._children import Child, free_address
from benchmarks.campaign._result import Result

_AXES = (None, "x", "y", ("x", "y"))
_SHAPES = {1: (1, 1), 2: (2, 1), 4: (2, 2), 8: (4, 2)}


_TARGETS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 2))  # processes, devices of each


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """As many pytrees, of random shapes and shardings, for each number of devices; and a run for each."""
    saved = _in_processes(1, 8, folder, lambda: _save(count, seed, folder))
    results: list[Result] = []
    for processes, devices in _TARGETS:
        failures = saved or _in_processes(processes, devices, folder, lambda: _restore(count, seed, folder))
        what = f"8 devices → {_told(processes, devices)}: pytrees"
        outcome = "identical arrays"
        results.append(Result(part="mesh", what=what, count=count, outcome=outcome, failures=tuple(failures)))
    for (processes, devices), (steps, failures) in continued(folder, _TARGETS).items():
        what = f"8 devices → {_told(processes, devices)}: steps of a run"
        outcome = "the same batches by the hash of each row"
        results.append(Result(part="mesh", what=what, count=steps, outcome=outcome, failures=tuple(failures)))
    return results


def _told(processes: int, devices: int) -> str:
    return f"{f'{processes} processes × ' * (processes > 1)}{devices}"


def _in_processes(processes: int, devices: int, folder: Path, work: Any) -> list[str]:
    address = free_address()

    def started(index: int) -> None:
        import jax

        jax.config.update("jax_num_cpu_devices", devices)
        if processes > 1:
            jax.distributed.initialize(address, processes, index, cluster_detection_method="deactivate")
        work()

    children = [Child(lambda index=index: started(index), folder / f"{index}.txt") for index in range(processes)]
    codes = [child.wait(300) for child in children]
    return [child.output()[-500:] for child, code in zip(children, codes, strict=True) if code != 0]


def _tree(seed: int) -> tuple[dict[str, np.ndarray], np.random.Generator]:
    """Arrays of a seed, and what draws their shardings."""
    import ml_dtypes

    rng = np.random.default_rng(seed)
    dtypes = (np.float32, ml_dtypes.bfloat16, np.int32, np.uint8)
    shapes = [tuple(8 * rng.integers(1, 4, rng.integers(0, 4))) for _ in range(6)]
    return {f"{i}": (100 * rng.standard_normal(s)).astype(dtypes[i % 4]) for i, s in enumerate(shapes)}, rng


def _sharding(rng: np.random.Generator, rank: int) -> Any:
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.make_mesh(_SHAPES[jax.device_count()], ("x", "y"))
    axes = [None] * rank
    if rank:  # an axis of the mesh splits one axis of the array at most
        axes[int(rng.integers(rank))] = _AXES[int(rng.integers(4))]  # pyright: ignore
    return NamedSharding(mesh, PartitionSpec(*axes))


def _save(count: int, seed: int, folder: Path) -> None:
    import jax

    from equimu.storage import Checkpoints

    checkpoints = Checkpoints(folder / "checkpoints", keep=count)
    for number in range(count):
        tree, rng = _tree(seed + number)
        checkpoints.save(number, {k: jax.device_put(v, _sharding(rng, v.ndim)) for k, v in tree.items()}, {})
    checkpoints.wait()


def _restore(count: int, seed: int, folder: Path) -> None:
    import jax

    from equimu.storage import Checkpoints

    rng = np.random.default_rng(seed + jax.device_count())  # the same on all processes
    for number in range(count):
        tree, _ = _tree(seed + number)
        like = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=_sharding(rng, v.ndim)) for k, v in tree.items()}
        restored = Checkpoints(folder / "checkpoints").restore(like, {}, step=number)
        assert restored is not None
        for name, array in restored.arrays.items():
            assert array.sharding == like[name].sharding and array.dtype == tree[name].dtype
            for shard in array.addressable_shards:
                assert np.asarray(shard.data).tobytes() == tree[name][shard.index].tobytes(), (
                    os.getpid(),
                    number,
                    name,
                )
