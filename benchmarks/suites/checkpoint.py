"""Checkpoints against plain numpy files of the same arrays, and what an asynchronous save costs the training beside it.

python -m benchmarks.suites.checkpoint
"""

import os
import pathlib
import shutil
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from equimu.storage import Checkpoints

LARGE, SMALL = (10, 2**25), (96, 2**19)  # number of arrays, bytes: a few stacked layers and many small leaves
STEPS, LOOPS = 50, 4  # in a loop that is timed; loops of either kind in a round
MINUTE = 60.0
PAIRS = {
    "save": "numpy save",
    "restore": "numpy load",
    "warm restore": "numpy warm load",
}  # what is measured beside what


def measure(*, gib: float = 1.0, rounds: int = 5, folder: str | None = None) -> dict[str, float]:
    """Times saving and restoring, each beside `np.save` with fsync and `np.load`, and a loop of steps with and without a save.

    Files are dropped from the page cache before they are read, unless the figure says `warm`. Before each timing three times
    as much memory as the state takes is touched and given back: a virtual machine whose host has taken idle memory away needs
    seconds a GiB to get it again, and whoever comes first would pay for the other.

    Args:
        gib: size of the state.
        rounds: of each.
        folder: on the disk to be measured; None for the one of temporary files.

    Returns:
        Medians in seconds; ratios to numpy's speed, of what was measured side by side, 1 being as fast; `blocked`, the seconds
        that `save` holds the loop up; `extra`, by how much longer a loop takes in which there is a save (median and
        quartiles), and `extra work`, the seconds of processors in it, which do not depend on what else the machine does;
        `cost`, the share of training time that a save a minute takes.
    """
    unit = round(gib * 2**30 / (LARGE[0] * LARGE[1] + SMALL[0] * SMALL[1]) * 2**23)  # elements of a large array
    rng = np.random.default_rng(0)
    sizes = [unit] * LARGE[0] + [unit * SMALL[1] // LARGE[1]] * SMALL[0]
    arrays = {f"leaf{i}": rng.standard_normal((size // 64, 64), dtype=np.float32) for i, size in enumerate(sizes)}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = pathlib.Path(name)
        return _files(arrays, root, rounds) | _beside_training(arrays, root, rounds)


def _files(arrays, root: pathlib.Path, rounds: int) -> dict[str, float]:
    state = jax.tree.map(jnp.asarray, arrays)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    checkpoints = Checkpoints(root / "ours")
    plain = root / "plain"
    seconds: dict[str, list[float]] = {}

    size = sum(array.nbytes for array in arrays.values())

    def timed(what: str, work) -> None:
        os.sync()
        np.ones(3 * size, np.uint8)  # what is read, and the kernel's copy of it
        begin = time.perf_counter()
        jax.block_until_ready(work())
        seconds.setdefault(what, []).append(time.perf_counter() - begin)

    def save() -> None:
        checkpoints.save(1, state, {})
        checkpoints.wait()

    def restore():
        return checkpoints.restore(like, {}).arrays

    for round_ in range(rounds):
        for kind in ("numpy", "equimu") if round_ % 2 else ("equimu", "numpy"):
            if kind == "numpy":
                shutil.rmtree(plain, ignore_errors=True)
                timed("numpy save", lambda: _write(plain, state))
            else:
                shutil.rmtree(root / "ours", ignore_errors=True)
                checkpoints = Checkpoints(root / "ours")
                timed("save", save)
        for warm in ("", "warm "):
            for kind in ("numpy", "equimu") if round_ % 2 else ("equimu", "numpy"):
                if not warm:
                    _drop(root / "ours" if kind == "equimu" else plain)
                if kind == "numpy":
                    timed(f"numpy {warm}load", lambda: _read(plain, arrays))
                else:
                    timed(f"{warm}restore", restore)
    return {what: statistics.median(times) for what, times in seconds.items()} | {
        f"{ours} speed": statistics.median(b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True))
        for ours, theirs in PAIRS.items()
    }


def _beside_training(arrays, root: pathlib.Path, rounds: int) -> dict[str, float]:
    """Loops of steps, each of which works on all cores and updates the whole state in place, in turn without and with one save.

    A loop is over when its save is, so all that a save costs is in it.
    """

    def step(state, x):
        for _ in range(8):
            x = jnp.tanh(x @ x)
        return jax.tree.map(lambda leaf: leaf * 0.999 + x[0, 0], state), x

    step = jax.jit(step, donate_argnums=(0, 1))
    state, x = jax.tree.map(jnp.array, arrays), jnp.full((1024, 1024), 1e-3)
    checkpoints = Checkpoints(root / "beside", keep=1)
    blocked: list[float] = []
    loops: dict[bool, list[tuple[float, float]]] = {False: [], True: []}

    def loop(number: int, saves: bool) -> tuple[float, float]:
        nonlocal state, x
        os.sync()
        begin, worked = time.perf_counter(), time.process_time()
        for index in range(STEPS):
            state, x = step(state, x)
            if saves and index == 2:
                jax.block_until_ready(state)
                held = time.perf_counter()
                checkpoints.save(number, state, {})
                blocked.append(time.perf_counter() - held)
        checkpoints.wait()
        jax.block_until_ready(state)
        return time.perf_counter() - begin, time.process_time() - worked

    loop(0, True)  # compiles, and gets the memory for the copies
    for number in range(1, LOOPS * rounds + 1):
        for saves in (False, True) if number % 2 else (True, False):
            loops[saves].append(loop(number, saves))
    pairs = list(zip(loops[True], loops[False], strict=True))
    low, cost, high = statistics.quantiles([one[0] - other[0] for one, other in pairs], n=4)
    return {
        "loop": statistics.median(seconds for seconds, _ in loops[False]),
        "first blocked": blocked[0],
        "blocked": statistics.median(blocked[1:]),
        "extra": cost,
        "extra low": low,
        "extra high": high,
        "extra work": statistics.median(one[1] - other[1] for one, other in pairs),
        "cost": cost / MINUTE,
    }


def _write(folder: pathlib.Path, state) -> None:
    folder.mkdir(parents=True)
    for name, array in state.items():
        with open(folder / f"{name}.npy", "wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())


def _read(folder: pathlib.Path, arrays):
    return {name: np.load(folder / f"{name}.npy") for name in arrays}


def _drop(folder: pathlib.Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name}: {value:.3g}")
