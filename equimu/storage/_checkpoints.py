"""The checkpoints of a run: saved while training goes on, restored from the newest that is what was saved."""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu._values import Count, check, path_text
from equimu.processes import Hosts
from equimu.storage._arrays import Box, described, read_arrays, verify_files, write_arrays
from equimu.storage._checkpoint_place import MANIFEST, open_place
from equimu.storage._damage import Damaged, damage, retry
from equimu.storage._host_copies import Leaf, Staging, host_copies, named_leaves
from equimu.storage._manifest import decode, encode, plain, refuse_other_arrays, refuse_other_run

# Files that are brought to the disk at once, which then does so for several in one go.
_SYNCS = 8


class Restored(NamedTuple):
    """What was restored.

    - `step`: that it was saved at.
    - `arrays`: shaped and sharded as was asked for.
    - `manifest`: that it was saved with.
    - `quarantined`: newer checkpoints that are damaged: where each is now, and what is wrong with it.
    """

    step: int
    arrays: PyTree
    manifest: Mapping[str, Any]
    quarantined: tuple[tuple[Path | str, str], ...]


class Checkpoints:
    """The checkpoints of one run, in a folder or below a URL.

    A checkpoint is there whole or not at all, whenever the process ends: it is written to `step-N.tmp`, brought to the disk,
    and renamed to `step-N`; below a URL its manifest is written last. Every array is a zarr3 array in a folder of its own,
    which other programs read too. A file that was changed, shortened, lost or swapped is found out when it is read.

    A copy of what this process writes stays in its memory from the first save on.

    With several processes, all of them call the same methods in the same order, on storage that all of them see.

    Args:
        root: folder or URL (`gs://`, `s3://`, `file://`, `memory://`).
        keep: how many of the newest to keep.
        keep_every: keep also those of each step that is a multiple of this.

    Raises:
        EquimuError: an argument that cannot be.
    """

    def __init__(self, root: str | Path, *, keep: int = 2, keep_every: int | None = None):
        check(Count, keep=keep)
        check(Count | None, keep_every=keep_every)
        self._root = path_text("the root of the checkpoints", root)
        self._place = open_place(root)
        self._hosts = Hosts(self._root, (EquimuError, Damaged))
        self._keep, self._keep_every = keep, keep_every
        self._staging = Staging()
        self._newest: int | None = None  # known to this object to be there
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def steps(self) -> list[int]:
        """The steps of the committed checkpoints, ascending.

        Raises:
            EquimuError: the place cannot be read.
        """
        return retry(f"cannot read {self._root}", self._place.committed, "is it mounted, and yours?")

    def save(self, step: int, arrays: PyTree, manifest: Mapping[str, Any]) -> None:
        """Begins a checkpoint, after the one before it is committed; writing goes on in a thread.

        A step that has a checkpoint already is left as it is.

        Args:
            step: not negative.
            arrays: pytree of JAX or NumPy arrays, typed random keys or numbers. They are copied before this returns, so they
                may be donated then. What is not sharded over processes is written by the first.
            manifest: plain JSON types, to be compared by `restore`.

        Raises:
            EquimuError: a leaf that is not an array, a manifest that is not JSON, or the save before this one failed.
        """
        self.wait()
        if step < 0:
            raise EquimuError(f"step={step} is negative; steps count from 0")
        manifest = plain(manifest)
        leaves, copy = host_copies(arrays, self._hosts.index, self._staging)
        self._thread = threading.Thread(
            target=self._in_thread, args=(step, leaves, manifest), name=f"equimu-checkpoint-{step}"
        )
        self._thread.start()
        try:
            copy()
        except BaseException:
            with contextlib.suppress(BaseException):  # fails of the same
                self.wait()
            raise

    def wait(self) -> None:
        """Waits until the checkpoint that was begun is committed.

        Raises:
            EquimuError: it could not be. What was committed before is as it was.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def restore(
        self, like: PyTree, manifest: Mapping[str, Any], *, cast: bool = False, step: int | None = None
    ) -> Restored | None:
        """Reads the newest checkpoint that is what was saved, and sets damaged newer ones aside (renames them).

        Args:
            like: pytree of `jax.ShapeDtypeStruct`, or of arrays. Leaves with a sharding come back as JAX arrays sharded so,
                whatever mesh and number of processes saved them; leaves without one as NumPy arrays.
            manifest: keys that the saved manifest must have, with these values.
            cast: whether floating-point arrays may have been saved in another dtype; they are cast.
            step: the one to read, and no other; None for the newest.

        Returns:
            None if there are no checkpoints, or not that one.

        Raises:
            EquimuError: the newest valid checkpoint is of another run or holds other arrays; there are checkpoints and none is
                valid; the place cannot be read.
        """
        self.wait()
        wanted = plain(manifest)
        steps, broken = self._first(lambda: [self.steps(), self._place.broken()], "list checkpoints")
        if step is not None:
            steps, broken = [each for each in steps if each == step], []
        damaged: list[tuple[int, str]] = []
        for each in reversed(steps):
            try:
                arrays, found = self._read(each, like, wanted, cast)
            except Damaged as reason:
                damaged.append((each, str(reason)))
                continue
            self._newest = each
            return Restored(each, arrays, found["manifest"], self._set_aside(damaged))
        if damaged:
            message = "; ".join(f"step-{each}: {reason}" for each, reason in damaged)
            raise EquimuError(
                f"no checkpoint in {self._root} is valid ({message}); repair one, or move all of them away"
            )
        if broken:
            raise EquimuError(
                f"{self._root} holds only checkpoints that were set aside as damaged ({', '.join(broken)}); "
                "repair one and rename it, or move all of them away to start anew"
            )
        return None

    def _in_thread(self, step: int, leaves: list[Leaf], manifest: Mapping[str, Any]) -> None:
        try:
            self._write(step, leaves, manifest)
        except BaseException as error:  # raised by `wait`
            self._failure = error

    def _write(self, step: int, leaves: list[Leaf], manifest: Mapping[str, Any]) -> None:
        what, hint = f"cannot save step {step} in {self._root}", "the checkpoints before it are untouched"

        def tried(work: Callable[[], Any]) -> Callable[[], Any]:
            return lambda: retry(what, work, hint)

        if self._first(tried(lambda: self._begin(step)), f"begin step {step}"):
            try:
                written = self._hosts.together(f"write step {step}", tried(lambda: self._write_own(step, leaves)))
                arrays = [described(leaf) | {"files": _merged(written, leaf.folder)} for leaf in leaves]
                content = encode(step, arrays, manifest)
                self._first(tried(lambda: self._place.commit(step, content)), f"commit step {step}")
            except BaseException:
                if self._hosts.index == 0:
                    with contextlib.suppress(Exception):  # what went wrong before is what to tell
                        self._place.clean()
                raise
        self._newest = step
        # Also where the step was there: a process that was killed right after its commit came no further.
        self._first(
            lambda: retry(
                f"step {step} is saved, but older checkpoints in {self._root} cannot be removed",
                self._thin_out,
                "remove them by hand",
            ),
            "thin out",
        )

    def _begin(self, step: int) -> bool:
        committed = self._place.committed()
        if self._newest is not None and self._newest not in committed:
            raise EquimuError(
                f"cannot save step {step}: step-{self._newest} is gone from {self._root}; has its disk been unmounted?"
            )
        if step in committed:
            return False
        self._place.begin(step)
        return True

    def _write_own(self, step: int, leaves: Sequence[Leaf]) -> dict[str, dict[str, str]]:
        with ThreadPoolExecutor(_SYNCS) as pool:
            syncing: list[Future[None]] = []

            def sync(folder: str, names: Sequence[str]) -> None:
                syncing.append(pool.submit(self._place.sync, step, folder, names))

            files = write_arrays(self._place.draft(step), leaves, sync)
            for future in syncing:
                future.result()
        return files

    def _thin_out(self) -> None:
        steps = self._place.committed()
        for step in steps[: -self._keep]:
            if self._keep_every is None or step % self._keep_every:
                self._place.retire(step)
        self._place.clean()

    def _read(self, step: int, like: PyTree, wanted: Mapping[str, Any], cast: bool) -> tuple[PyTree, Mapping[str, Any]]:
        where = f"checkpoint step-{step} in {self._root}"
        result: list[Any] = []

        def read() -> None:
            store = self._place.stored(step)
            found = decode(_read_manifest(store), step)
            refuse_other_run(found, wanted, where)
            refuse_other_arrays(found, like, where, cast=cast)
            result[:] = [_read_tree(store, like, found), found]
            # Last, since the ends of files are quick to read when the files have just been read.
            verify_files(store, found["arrays"], self._hosts.index, self._hosts.count)

        self._hosts.together(
            f"read step {step}", lambda: retry(f"cannot read {where}", read, "is it mounted, and yours?")
        )
        return result[0], result[1]

    def _set_aside(self, damaged: Sequence[tuple[int, str]]) -> tuple[tuple[Path | str, str], ...]:
        def rename() -> list[str]:
            return [str(self._place.quarantined(step)) for step, _ in damaged]

        what = f"damaged checkpoints in {self._root} cannot be renamed"
        names = self._first(lambda: retry(what, rename, "rename them by hand"), "set aside")
        return tuple((name, reason) for name, (_, reason) in zip(names, damaged, strict=True))

    def _first(self, work: Callable[[], Any], what: str) -> Any:
        """What the first process makes of some work, on all of them."""
        return self._hosts.together(what, work if self._hosts.index == 0 else lambda: None)[0]


def _merged(written: Sequence[Mapping[str, Mapping[str, str]]], folder: str) -> dict[str, str]:
    files: dict[str, str] = {}
    for host in written:
        files |= host.get(folder, {})
    return files


def _read_manifest(store: Any) -> bytes:
    try:
        read = store.read(MANIFEST).result()
    except Exception as error:
        reason = damage(error)
        if reason is None:
            raise
        raise Damaged(reason) from None
    if read.state != "value":
        raise Damaged("its manifest is missing")
    return read.value


def _read_tree(store: Any, like: PyTree, found: Mapping[str, Any]) -> PyTree:
    """The arrays of a checkpoint that `refuse_other_arrays` has found right."""
    by_path = {array["path"]: array for array in found["arrays"]}
    leaves = [(by_path[path], leaf) for path, leaf in named_leaves(like)]
    boxes = [_box(getattr(leaf, "sharding", None), tuple(array["stored_shape"])) for array, leaf in leaves]
    reads = read_arrays(store, ((array, box) for (array, _), box in zip(leaves, boxes, strict=True)))
    restored = [
        _restored(array, leaf, box, values) for (array, leaf), box, values in zip(leaves, boxes, reads, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def _box(sharding: Any, shape: tuple[int, ...]) -> Box:
    """The part of an array around all that this process' devices hold of it."""
    if sharding is None:
        return tuple(slice(0, size) for size in shape)
    parts = [_bounds(index, shape) for index in sharding.addressable_devices_indices_map(shape).values()]
    return tuple(slice(min(a for a, _ in bounds), max(b for _, b in bounds)) for bounds in zip(*parts, strict=True))


def _bounds(index: Sequence[slice], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]


def _restored(array: Mapping[str, Any], leaf: Any, box: Box, values: np.ndarray) -> Any:
    key_impl, shape = array["key_impl"], tuple(array["stored_shape"])
    if key_impl is None:
        values = values.view(np.dtype(array["dtype"])).astype(leaf.dtype, copy=False)
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return values if key_impl is None else jax.random.wrap_key_data(jnp.asarray(values), impl=key_impl)

    def shard(index: Any) -> np.ndarray:
        inside = zip(_bounds(index, shape), box, strict=True)
        return values[(*(slice(a - part.start, b - part.start) for (a, b), part in inside), ...)]  # never a scalar

    data = jax.make_array_from_callback(shape, sharding, shard)
    return data if key_impl is None else jax.random.wrap_key_data(data, impl=key_impl)
