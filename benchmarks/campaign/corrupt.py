"""Random damage to checkpoints and token stores: found, or harmless by equal bits."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.campaign._children import isolated
from benchmarks.campaign._result import Result

KINDS = ("flip", "truncation", "deletion", "swap")


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """Half of them on checkpoints, half on token stores."""
    results = isolated(lambda: _checkpoints(count - count // 2, seed, folder), folder)
    return [results, isolated(lambda: _stores(count // 2, seed + 1, folder), folder)]


def _damage(rng: np.random.Generator, kind: str, files: list[Path]) -> str:
    path, other = (files[i] for i in rng.choice(len(files), 2, replace=False))
    content = path.read_bytes()
    if kind == "flip":
        at = int(rng.integers(len(content)))
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :])
    elif kind == "truncation":
        path.write_bytes(content[: int(rng.integers(len(content)))])
    elif kind == "deletion":
        path.unlink()
    else:
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    return f"{kind} of {path.parent.name}/{path.name}" + (f" and {other.parent.name}/{other.name}" * (kind == "swap"))


def _campaign(
    what: str,
    count: int,
    seed: int,
    place: Path,
    read: Callable[[Path], Any],
    damaged: str,
    equal: Callable[[Any], bool],
) -> Result:
    """Damages copies of a place; `read` returns what it holds, or None if it says that it is damaged."""
    rng = np.random.default_rng(seed)
    found = harmless = 0
    failures: list[str] = []
    copy = place.with_name(place.name + "-copy")
    for number in range(count):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(place, copy)
        files = sorted(path for path in copy.rglob(damaged) if path.is_file())
        message = _damage(rng, KINDS[number % len(KINDS)], files)
        try:
            content = read(copy)
        except Exception as error:
            failures.append(f"{message}: {type(error).__name__}: {error}")
            continue
        if content is None:
            found += 1
        elif equal(content):
            harmless += 1
        else:
            failures.append(f"{message}: read as if nothing had happened")
    shutil.rmtree(copy)
    outcome = f"{found} found, {harmless} harmless by equal bits, {len(failures)} silently read or unclear"
    return Result(part="corrupt", what=what, count=count, outcome=outcome, failures=tuple(failures))


def _checkpoints(count: int, seed: int, folder: Path) -> Result:
    import jax

    from equimu.storage import Checkpoints

    rng = np.random.default_rng(seed)
    tree = {f"leaf{i}": rng.standard_normal((8, 32)).astype(np.float32) for i in range(4)} | {"step": np.int32(7)}
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    place = folder / "checkpoints"
    checkpoints = Checkpoints(place)
    checkpoints.save(1, jax.tree.map(np.zeros_like, tree), {"config": "a"})
    checkpoints.save(2, tree, {"config": "a"})
    checkpoints.wait()

    def read(copy: Path) -> Any:
        restored = Checkpoints(copy).restore(like, {"config": "a"})
        assert restored is not None
        if restored.step == 2:
            return restored.arrays
        assert len(restored.quarantined) == 1 and (copy / "step-2.broken").is_dir()
        return None

    def equal(arrays: Any) -> bool:
        return all(arrays[name].tobytes() == tree[name].tobytes() for name in tree)

    # Damage to the newest; the older one is what is to be read then.
    return _campaign("checkpoints", count, seed, place, read, "step-2/**/*", equal)


def _stores(count: int, seed: int, folder: Path) -> Result:
    from equimu import EquimuError
    from equimu.data import ByteTokenizer, open_store, read_corpus, write_store
    from equimu.storage import ArrayWriter, cached_chunks

    ArrayWriter.shard, ArrayWriter.chunk = 2**12, 2**10  # several files, several chunks each
    rng = np.random.default_rng(seed)
    text = folder / "documents"
    text.mkdir()
    for number in range(60):
        (text / f"{number}.txt").write_text(" ".join(map(str, rng.integers(0, 10**6, 60))))
    place = folder / "store"
    write_store(place, read_corpus(str(text)), ByteTokenizer(), validation=0.2)

    def read(copy: Path) -> Any:
        cached_chunks.cache_clear()  # as a new process would
        try:
            store = open_store(copy, ByteTokenizer())
            return [store.tokens(s).tobytes() + store.offsets(s).tobytes() for s in ("train", "validation")]
        except EquimuError as error:
            assert "\n" not in str(error) and str(copy) in str(error)
            return None

    good = read(place)
    return _campaign("token stores", count, seed, place, read, "*", lambda content: content == good)
