"""Checkpoints that two processes write and read together."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import names, on
from jax.sharding import PartitionSpec

from equimu.storage import Checkpoints

pytestmark = pytest.mark.usefixtures("no_waiting")


PROGRAM = """
    import hashlib, sys
    import jax
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), cluster_detection_method="deactivate")
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    from equimu import EquimuError
    from equimu.storage import Checkpoints, _checkpoints

    task, root = sys.argv[4:]
    mesh = jax.make_mesh((2, 2), ("x", "y"))
    values = {"w": np.arange(64.0, dtype=np.float32).reshape(8, 8), "r": np.arange(5, dtype=np.int32), "s": np.float32(3)}
    specs = {"w": P("x", "y"), "r": P(), "s": P()}
    like = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=NamedSharding(mesh, specs[k])) for k, v in values.items()}
    tree = {k: jax.make_array_from_callback(v.shape, like[k].sharding, lambda i, v=v: v[i]) for k, v in values.items()}
    checkpoints = Checkpoints(root)
    if task == "save":
        for step in (1, 2, 3):
            checkpoints.save(step, tree, {"config": "x"})
        checkpoints.wait()
    if task == "fail":
        write = _checkpoints.write_arrays
        def fails(*args):
            raise OSError(28, "No space left on device")
        if jax.process_index() == 1:
            _checkpoints.write_arrays = fails
        checkpoints.save(9, tree, {"config": "x"})
        try:
            checkpoints.wait()
        except EquimuError as error:
            print("TOLD", error)
        _checkpoints.write_arrays = write
    restored = checkpoints.restore(like, {"config": "x"})
    for key, value in values.items():
        for shard in restored.arrays[key].addressable_shards:
            np.testing.assert_array_equal(shard.data, value[shard.index])
    print("RESTORED", restored.step, checkpoints.steps(), len(restored.quarantined))
"""


def in_processes(tmp_path, count, task, root):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, program, address, str(count), str(index), task, root],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for index in range(count)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    return [[line for line in out.splitlines() if line.isupper() or line.split(" ")[0].isupper()] for out, _ in outputs]


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Saved by two processes of two devices; restored by them, and here by one of eight; damage is found by all."""
    root = tmp_path / "c"
    assert in_processes(tmp_path, 2, "save", str(root)) == [["RESTORED 3 [2, 3] 0"]] * 2
    assert names(root) == ["step-2", "step-3"]
    assert len(list((root / "step-3").glob("*-w/c.*"))) == 4
    like = {"w": jax.ShapeDtypeStruct((8, 8), np.float32), "r": jax.ShapeDtypeStruct((5,), np.int32)}
    like["s"] = jax.ShapeDtypeStruct((), np.float32)
    for spec, devices in ((PartitionSpec("y"), 4), (PartitionSpec(), 1), (PartitionSpec("x", "y"), 8)):
        like["w"] = jax.ShapeDtypeStruct((8, 8), np.float32, sharding=on(devices, spec))
        restored = Checkpoints(root).restore(like, {"config": "x"})
        np.testing.assert_array_equal(restored.arrays["w"], np.arange(64.0).reshape(8, 8))
    told, restored = zip(*in_processes(tmp_path, 2, "fail", str(root)), strict=True)
    assert all("No space left on device" in line for line in told) and "process 1" in told[0]
    assert set(restored) == {"RESTORED 3 [2, 3] 0"} and names(root) == ["step-2", "step-3"]
    flipped = next((root / "step-3").glob("*-w/c.1.1"))
    flipped.write_bytes(b"\0" * flipped.stat().st_size)
    assert in_processes(tmp_path, 2, "restore", str(root)) == [["RESTORED 2 [2] 1"]] * 2
    assert names(root) == ["step-2", "step-3.broken"]
    # and the other way: saved by one process of eight devices
    tree = {"w": jnp.arange(64.0).reshape(8, 8), "r": jnp.arange(5), "s": jnp.float32(3)}
    tree["w"] = jax.device_put(tree["w"], on(8, PartitionSpec("x", "y")))
    checkpoints = Checkpoints(root)
    checkpoints.save(5, tree, {"config": "x"})
    checkpoints.wait()
    assert in_processes(tmp_path, 2, "restore", str(root)) == [["RESTORED 5 [2, 5] 0"]] * 2
