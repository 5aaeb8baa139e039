"""Checkpoints: whatever goes in comes out, on any mesh; whatever happens to a file or a process, nothing wrong comes out."""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from equimu import EquimuError
from equimu.storage import Checkpoints, _checkpoint_place, _checkpoints, _damage, _host_copies, commits

MANIFEST = {"config": "c0ffee", "rules": {"w": {"lr": 0.5, "role": "hidden"}}}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(_damage, "WAITS", (0.0, 0.0))


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


# What goes in comes out


DTYPES = [
    *("bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "bfloat16", "float32", "complex64"),
    *("float8_e4m3fn", "float8_e5m2", "int4", "uint4"),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_pattern_of_a_dtype(tmp_path, dtype):
    dtype = np.dtype(dtype) if dtype in np.sctypeDict else np.dtype(getattr(ml_dtypes, dtype))
    raw = np.random.default_rng(0).integers(0, 256, 4096 * dtype.itemsize, np.uint8)
    if dtype.itemsize == 1 and dtype.name in ("bool", "int4", "uint4"):
        raw = raw % 2 if dtype.name == "bool" else np.arange(-8, 8).astype(dtype).view(np.uint8)
    tree = {"x": jnp.asarray(raw.view(dtype)), "host": raw.view(dtype)}  # NaNs with their payloads, infinities, -0
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, tree, {})
    restored = checkpoints.restore(
        {"x": like_of(tree["x"]), "host": jax.ShapeDtypeStruct(raw.view(dtype).shape, dtype)}, {}
    )
    assert isinstance(restored.arrays["host"], np.ndarray)
    assert bits(restored.arrays["host"]) == bits(tree["host"])
    if not dtype.name.startswith("float8"):  # a copy between devices may make a float8's NaN another NaN
        assert bits(restored.arrays["x"]) == bits(tree["x"])


class Net(eqx.Module):
    weight: jax.Array
    bias: jax.Array | None
    activation: object = jax.nn.relu
    name: str = eqx.field(static=True, default="net")


def test_modules_optimizer_states_and_keys(tmp_path):
    model = Net(jax.random.normal(jax.random.key(0), (3, 5)), None)
    params = eqx.filter(model, eqx.is_array)
    tree = {
        "params": params,
        "optimizer": optax.adamw(1e-3).init(params),
        "key": jax.random.key(1),
        "keys": jax.random.split(jax.random.key(2, impl="rbg"), 4),
        "empty": jnp.zeros((0, 3)),
        "nothing": None,
        "scalar": jnp.float32(2.5),
        "tuple": (jnp.arange(3), [jnp.ones((2, 2), bool)]),
    }
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(12, tree, MANIFEST)
    restored = checkpoints.restore(like_of(tree), MANIFEST)
    assert (restored.step, restored.manifest, restored.quarantined) == (12, MANIFEST, ())
    assert_same(restored.arrays, tree)
    assert jax.random.key_impl(restored.arrays["keys"]) == "rbg"
    jax.random.normal(restored.arrays["key"])


def test_numbers_of_python_and_numpy(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, {"int": 3, "float": 0.1, "bool": True, "numpy": np.float32(7)}, {})
    like = {"int": np.int64(0), "float": np.float64(0), "bool": np.bool_(0), "numpy": np.float32(0)}
    assert checkpoints.restore(like, {}).arrays == {"int": 3, "float": 0.1, "bool": True, "numpy": 7}


def test_every_array_is_one_that_other_programs_read(tmp_path):
    import tensorstore as ts

    tree = small(3)
    saved(tmp_path, 3)
    for folder in (tmp_path / "step-3").glob("0000-*"):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
        np.testing.assert_array_equal(ts.open(spec).result().read().result(), tree["a"])
        return
    raise AssertionError("the first array has no folder")


def test_large_shards_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(_host_copies, "CHUNK_BYTES", 64)
    monkeypatch.setattr("equimu.storage._arrays._WRITTEN_AT_ONCE", 100)
    monkeypatch.setattr("equimu.storage._arrays._READ_AT_ONCE", 100)
    tree = {"x": jnp.arange(16.0 * 3 * 4).reshape(16, 3, 4), "odd": jnp.arange(77.0)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, tree, {})
    assert_same(checkpoints.restore(like_of(tree), {}).arrays, tree)
    files = [path for path in (tmp_path / "step-0").glob("*-x/c.*")]
    assert len(files) == 16 and all(path.stat().st_size == 48 + 4 for path in files)


SPECS = [
    PartitionSpec(*axes) for axes in itertools.product((None, "x", "y", ("x", "y")), repeat=2) if axes[0] != axes[1]
]
SPECS = [spec for spec in SPECS if ("x", "y") not in (spec[0], spec[1]) or None in (spec[0], spec[1])]


def on(devices, spec, memory=None):
    shape = {8: (4, 2), 4: (2, 2), 2: (2, 1), 1: (1, 1)}[devices]
    mesh = jax.make_mesh(shape, ("x", "y"), devices=jax.devices()[:devices])
    return NamedSharding(mesh, spec)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_saved_on_eight_devices_restored_on_fewer(tmp_path, spec, devices):
    values = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    array = jax.device_put(values, on(8, spec))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, [array], {})
    checkpoints.wait()
    shards = len({str(index) for index in array.sharding.devices_indices_map(array.shape).values()})
    assert len(list((tmp_path / "step-0").glob("0000-*/c.*"))) == shards  # one file a shard, replicas not written
    for other in (PartitionSpec(), PartitionSpec(("x", "y")), PartitionSpec("y", "x")):
        sharding = on(devices, other)
        restored = Checkpoints(tmp_path).restore([jax.ShapeDtypeStruct((16, 8), np.float32, sharding=sharding)], {})
        assert restored.arrays[0].sharding == sharding
        np.testing.assert_array_equal(restored.arrays[0], values)


def test_floating_point_is_cast_only_if_asked_for(tmp_path):
    checkpoints = saved(tmp_path, 1)
    like = like_of(small()) | {
        "a": jax.ShapeDtypeStruct((4, 6), jnp.bfloat16, sharding=SingleDeviceSharding(jax.devices()[0]))
    }
    with pytest.raises(EquimuError, match=r"\['a'\] is float32, not bfloat16"):
        checkpoints.restore(like, MANIFEST)
    restored = checkpoints.restore(like, MANIFEST, cast=True)
    assert bits(restored.arrays["a"]) == bits(small(1)["a"].astype(jnp.bfloat16))
    with pytest.raises(EquimuError, match=r"\['n'\] is int32, not float32"):
        checkpoints.restore(like_of(small()) | {"n": jax.ShapeDtypeStruct((), np.float32)}, MANIFEST, cast=True)


def test_one_step_may_be_asked_for(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    (tmp_path / "step-1" / "0000-a" / "c.0.0").unlink()
    assert_same(checkpoints.restore(like_of(small()), MANIFEST, step=2).arrays, small(2))
    assert checkpoints.restore(like_of(small()), MANIFEST, step=3) is None
    refused("no checkpoint in .* is valid .step-1: ", lambda: checkpoints.restore(like_of(small()), MANIFEST, step=1))
    assert names(tmp_path) == ["step-1", "step-2"]


def test_what_is_saved_may_be_donated(tmp_path, monkeypatch):
    """The arrays are overwritten as soon as `save` has returned, before anything of them is written."""
    go = threading.Event()
    write = _checkpoints.write_arrays
    monkeypatch.setattr(_checkpoints, "write_arrays", lambda *args: go.wait(30) and write(*args))
    scramble = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    tree, host = small(5), {"h": np.arange(4.0)}
    wanted = jax.tree.map(lambda x: np.array(x), tree)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, [tree, host], {})
    assert checkpoints.steps() == []
    jax.block_until_ready(scramble(tree))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(tree))  # the copy keeps no hold on the devices' memory
    host["h"][:] = -1
    go.set()
    restored = checkpoints.restore([like_of(small()), {"h": jax.ShapeDtypeStruct((4,), np.float64)}], {})
    assert_same(restored.arrays, [wanted, {"h": np.arange(4.0)}])


@pytest.mark.parametrize("root", ["{}", "memory://{}"])
def test_a_save_leaves_those_before_it_as_they_are(tmp_path, root):
    """Though the copies of one save are made in the memory of those of the save before."""
    checkpoints = Checkpoints(root.format(tmp_path), keep=3)
    for step in (1, 2, 3):  # large enough that tensorstore refers to the memory instead of copying it
        checkpoints.save(step, {"w": jnp.full(2**18, step, jnp.float32), "n": np.int32(step)}, {})
    like = {"w": np.empty(2**18, np.float32), "n": np.int32(0)}
    for step in (1, 2, 3):
        found = checkpoints.restore(like, {}, step=step).arrays
        assert np.all(found["w"] == step) and found["n"] == step


def test_what_is_restored_may_be_donated(tmp_path):
    checkpoints = saved(tmp_path, 2)
    arrays = checkpoints.restore(like_of(small()), MANIFEST).arrays
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2, tree), donate_argnums=0)
    assert_same(step(step(arrays)), jax.tree.map(lambda x: x * 4, small(2)))


# Which are kept


@pytest.mark.parametrize("root", ["{}", "file://{}", "memory://{}"])
@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [50, 60]),
        ({"keep": 1}, [60]),
        ({"keep": 9}, [10, 20, 30, 40, 50, 60]),
        ({"keep_every": 20}, [20, 40, 50, 60]),
    ],
    ids=str,
)
def test_the_newest_and_every_nth_are_kept(tmp_path, root, options, kept):
    root = root.format(tmp_path / f"a b{len(options)}{options.get('keep')}")
    checkpoints = saved(root, 10, 20, 30, 40, 50, 60, **options)
    assert checkpoints.steps() == Checkpoints(root).steps() == kept
    assert checkpoints.restore(like_of(small()), MANIFEST).step == 60


def test_a_step_is_saved_once(tmp_path):
    checkpoints = saved(tmp_path, 1)
    before = (tmp_path / "step-1" / "manifest.json").read_bytes()
    checkpoints.save(1, small(9), {"other": 1})
    checkpoints.wait()
    assert (tmp_path / "step-1" / "manifest.json").read_bytes() == before


def test_no_checkpoints_are_none(tmp_path):
    assert Checkpoints(tmp_path / "nothing").restore(small(), {}) is None
    assert Checkpoints(tmp_path / "nothing").steps() == []
    assert not (tmp_path / "nothing").exists()
    assert Checkpoints("memory://nothing/here").restore(small(), {}) is None


def test_the_content_of_the_folder(tmp_path):
    (tmp_path / "step-07").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-3.tmp").mkdir()
    (tmp_path / "step-3.tmp" / "half").write_text("of a killed process")
    assert Checkpoints(tmp_path).steps() == []
    saved(tmp_path, 5)
    assert names(tmp_path) == ["notes.txt", "step-07", "step-5"]
    assert names(tmp_path / "step-5") == ["0000-a", "0001-b", "0002-n", "manifest.json"]
    assert names(tmp_path / "step-5" / "0000-a") == ["c.0.0", "zarr.json"]
    content = json.loads((tmp_path / "step-5" / "manifest.json").read_text())
    assert content["step"] == 5 and content["manifest"] == MANIFEST
    assert content["versions"]["jax"] == jax.__version__
    assert [(array["path"], array["shape"], array["dtype"]) for array in content["arrays"]] == [
        ("['a']", [4, 6], "float32"),
        ("['b']", [4, 6], "float32"),
        ("['n']", [], "int32"),
    ]


# What is refused


def refused(words, work):
    with pytest.raises(EquimuError, match=words) as error:
        work()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"config": "beef"}, 'step-2 .* is of another run: config is "c0ffee" there, "beef" here'),
        ({"rules": {"w": {"lr": 0.25, "role": "hidden"}}}, "rules.w.lr is 0.5 there, 0.25 here"),
        ({"rules": {"w": {"lr": 0.5}}}, 'rules.w.role is "hidden" there, nothing here'),
        ({"seed": [1]}, r"seed is nothing there, \[1\] here"),
        ({str(i): i for i in range(9)}, "and 6 more"),
    ],
)
def test_another_run_is_refused_by_name(tmp_path, manifest, words):
    checkpoints = saved(tmp_path, 1, 2)
    refused(words, lambda: checkpoints.restore(like_of(small()), manifest))
    assert names(tmp_path) == ["step-1", "step-2"]  # sound, so not set aside
    assert checkpoints.restore(like_of(small()), {"config": "c0ffee"}).step == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda like: like | {"a": jax.ShapeDtypeStruct((4, 7), np.float32)},
            r"\['a'\] has shape \(4, 6\), not \(4, 7\)",
        ),
        (lambda like: like | {"z": like["a"]}, r"\['z'\] is missing"),
        (lambda like: {"a": like["a"], "b": like["b"]}, r"\['n'\] is not wanted"),
        (lambda like: like | {"n": jax.ShapeDtypeStruct((), np.int64)}, r"\['n'\] is int32, not int64"),
        (lambda like: like | {"n": jax.eval_shape(lambda: jax.random.key(0))}, r"\['n'\] is int32, not key<fry>"),
        (lambda like: like | {"n": "three"}, r"not a str at \['n'\]"),
        (lambda like: list(like.values()), r"\['a'\] is not wanted.*and 3 more"),
    ],
)
def test_other_arrays_are_refused_by_path(tmp_path, change, words):
    checkpoints = saved(tmp_path, 1)
    refused(words, lambda: checkpoints.restore(change(like_of(small())), MANIFEST))
    assert names(tmp_path) == ["step-1"]


def test_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("equimu.storage._manifest.FORMAT", 99)
    checkpoints = saved(tmp_path, 1)
    monkeypatch.undo()
    refused("has format 99 .*reads format 1", lambda: checkpoints.restore(like_of(small()), MANIFEST))


def test_arguments_that_cannot_be(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    cases = [
        (lambda: Checkpoints(tmp_path, keep=0), "keep must be at least 1, got 0"),
        (lambda: Checkpoints(tmp_path, keep_every=0), "keep_every must be at least 1"),
        (lambda: Checkpoints("nope://x/y"), "cannot open 'nope://x/y'"),
        (lambda: checkpoints.save(-1, small(), {}), "step=-1 is negative"),
        (lambda: checkpoints.save(1, {"f": jax.nn.relu}, {}), r"\['f'\] is a .*eqx.filter"),
        (lambda: checkpoints.save(1, {"s": "text"}, {}), r"\['s'\] is a str"),
        (lambda: checkpoints.save(1, {"o": np.array([None])}, {}), r"\['o'\] is a ndarray"),
        (lambda: checkpoints.save(1, small(), {"a": object()}), "plain JSON types"),
        (lambda: checkpoints.save(1, small(), {"a": float("nan")}), "plain JSON types"),
    ]
    for work, words in cases:
        refused(words, work)
    assert not (tmp_path / "c").exists()


# Damage


def damage_flip(rng, files):
    path = files[rng.integers(len(files))]
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(bytes(content))


def damage_truncation(rng, files):
    path = files[rng.integers(len(files))]
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content))])


def damage_growth(rng, files):
    path = files[rng.integers(len(files))]
    path.write_bytes(path.read_bytes() + rng.bytes(1 + rng.integers(9)))


def damage_deletion(rng, files):
    files[rng.integers(len(files))].unlink()


def damage_swap(rng, files):
    one, other = rng.choice(len(files), 2, replace=False)
    content = files[one].read_bytes()
    files[one].write_bytes(files[other].read_bytes())
    files[other].write_bytes(content)


DAMAGES = [damage_flip, damage_truncation, damage_growth, damage_deletion, damage_swap]


@pytest.mark.parametrize("damage", DAMAGES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_damage_is_found_or_harmless(tmp_path_factory, damage, seed):
    """The newest of two: what comes out is its own bits, or the older one's with a report of what is wrong with it."""
    root = tmp_path_factory.mktemp("damaged")
    saved(root, 1, 2)
    files = sorted(path for path in (root / "step-2").rglob("*") if path.is_file())
    damage(np.random.default_rng(seed), files)
    restored = Checkpoints(root).restore(like_of(small()), MANIFEST)
    assert_same(restored.arrays, small(restored.step))
    if restored.step == 1:
        ((path, reason),) = restored.quarantined
        assert names(root) == ["step-1", "step-2.broken"] and path == str(root / "step-2.broken")
        assert reason and "\n" not in reason
    else:
        assert names(root) == ["step-1", "step-2"] and restored.quarantined == ()
    shutil.rmtree(root)


@pytest.mark.parametrize("name", ["0000-a/c.0.0", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_what_matters_is_found(tmp_path, damage, name):
    saved(tmp_path, 1, 2)
    others = {"0000-a/c.0.0": "0001-b/c.0.0", "manifest.json": "../step-1/manifest.json"}
    damage(
        np.random.default_rng(0),
        [tmp_path / "step-2" / name] + [tmp_path / "step-2" / others[name]] * (damage is damage_swap),
    )
    if damage is damage_swap and name == "manifest.json":
        refused(
            "no checkpoint in .* is valid .*is that of step 1",
            lambda: Checkpoints(tmp_path).restore(like_of(small()), {}),
        )
    else:
        assert Checkpoints(tmp_path).restore(like_of(small()), MANIFEST).step == 1
        assert names(tmp_path) == ["step-1", "step-2.broken"]


def test_every_byte_of_a_small_checkpoint(tmp_path):
    """One bit of each byte of each file in turn."""
    checkpoints = Checkpoints(tmp_path)
    tree = {"x": jnp.arange(5.0)}
    checkpoints.save(1, tree, {})
    checkpoints.wait()
    found = 0
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for at in range(0, len(content), 1 if path.name == "c.0" else 17):
            broken = bytearray(content)
            broken[at] ^= 1 << at % 8
            path.write_bytes(bytes(broken))
            try:
                assert_same(checkpoints.restore(like_of(tree), {}).arrays, tree)
                assert path.name != "c.0", at
            except EquimuError as error:
                assert "no checkpoint in" in str(error) and "\n" not in str(error)
                found += 1
        path.write_bytes(content)
    assert found > 24
    assert_same(checkpoints.restore(like_of(tree), {}).arrays, tree)


def test_without_a_sound_one_nothing_is_moved_and_nothing_started_over(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / f"step-{step}" / "manifest.json").write_text("{}")
    for _ in range(2):
        refused(
            "no checkpoint in .* is valid .step-2: the manifest cannot be read; step-1: .*move all",
            lambda: checkpoints.restore(like_of(small()), MANIFEST),
        )
        assert names(tmp_path) == ["step-1", "step-2"]
    for step in (1, 2):
        (tmp_path / f"step-{step}").rename(tmp_path / f"step-{step}.broken")
    refused("only checkpoints that were set aside", lambda: checkpoints.restore(like_of(small()), MANIFEST))


def test_what_was_set_aside_stays_when_the_step_is_saved_again(tmp_path):
    for round_ in range(3):
        checkpoints = saved(tmp_path, *([1] if round_ == 0 else []), 2)
        (tmp_path / "step-2" / "0000-a" / "c.0.0").write_bytes(b"%d" % round_)
        assert checkpoints.restore(like_of(small()), MANIFEST).step == 1
    assert names(tmp_path) == ["step-1", "step-2.broken", "step-2.broken-2", "step-2.broken-3"]
    assert [(tmp_path / name / "0000-a" / "c.0.0").read_bytes() for name in names(tmp_path)[1:]] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("lost", ["manifest.json", "0000-a/c.0.0", "0000-a/zarr.json"])
def test_damage_below_a_url(lost):
    root = f"memory://damage/{lost}"
    checkpoints = saved(root, 1, 2)
    place = checkpoints._place._root
    place.write(f"step-2/{lost}", None).result()
    restored = checkpoints.restore(like_of(small()), MANIFEST)
    assert restored.step == 1 and restored.quarantined[0][0] == f"{root}/step-2.broken"
    assert_same(restored.arrays, small(1))
    kept = [key.decode() for key in place.list().result() if key.startswith(b"step-2.broken/")]
    assert (
        len(kept) == 6 and f"step-2.broken/{lost}" not in kept
    )  # manifest and three arrays of two files, less the lost one
    saved(root, 2)
    assert Checkpoints(root).restore(like_of(small()), MANIFEST).step == 2


# Death


class Killed(BaseException):
    pass


class Calls:
    """Stands in for the calls on the file system: kills before the n-th, after which nothing reaches the disk any more."""

    def __init__(self, monkeypatch, at):
        self.count, self.at = 0, at
        for name in ("make_folder", "write", "sync", "rename", "remove"):
            monkeypatch.setattr(commits, name, self._wrapped(getattr(commits, name), name))

    def _wrapped(self, call, name):
        def wrapped(*args):
            if self.count >= self.at:
                # Half of what a call does may be done: a file may be half written, a folder half removed.
                if self.count == self.at and name == "write":
                    args[0].write_bytes(args[1][: len(args[1]) // 2])
                if self.count == self.at and name == "remove":
                    next(path for path in args[0].rglob("*") if path.is_file()).unlink()
                self.count += 1
                raise Killed
            self.count += 1
            return call(*args)

        return wrapped


def calls_of_a_save(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        saved(tmp_path / "count", 1, 2)
        calls = Calls(patch, 10**9)
        saved(tmp_path / "count", 3)
    return calls.count


def test_a_kill_between_any_two_calls_of_a_commit(tmp_path, monkeypatch):
    """From a third save with two kept: the newest is 2 or 3, whole, and the next save leaves nothing behind."""
    count = calls_of_a_save(tmp_path, monkeypatch)
    assert count >= 15
    newest = []
    for at in range(count):
        root = tmp_path / str(at)
        saved(root, 1, 2)
        with monkeypatch.context() as patch:
            Calls(patch, at)
            with pytest.raises(Killed):
                saved(root, 3)
        again = Checkpoints(root)
        restored = again.restore(like_of(small()), MANIFEST)
        assert restored.quarantined == ()
        assert_same(restored.arrays, small(restored.step))
        newest.append(restored.step)
        again.save(4, small(4), MANIFEST)
        again.wait()
        assert names(root) == sorted(["step-4", f"step-{restored.step}"])
    assert newest == sorted(newest) and set(newest) == {2, 3}


def test_a_save_that_is_repeated_after_a_kill_leaves_nothing_behind(tmp_path, monkeypatch):
    """The last save of a run is: there is no later one that would clean up."""
    for at in range(calls_of_a_save(tmp_path, monkeypatch)):
        root = tmp_path / str(at)
        saved(root, 1, 2)
        with monkeypatch.context() as patch:
            Calls(patch, at)
            with pytest.raises(Killed):
                saved(root, 3)
        saved(root, 3)
        assert names(root) == ["step-2", "step-3"]


def test_a_kill_between_any_two_writes_below_a_url(monkeypatch):
    class Store:
        """An object store that dies at the n-th write."""

        def __init__(self, real, left):
            self.real, self.left = real, left

        def write(self, *args):
            if self.left[0] == 0:
                raise Killed
            self.left[0] -= 1
            return self.real.write(*args)

        def __getattr__(self, name):
            return getattr(self.real, name)

        def __truediv__(self, path):
            return self.real / path

    newest = []
    for at in itertools.count():
        root = f"memory://kill/{at}"
        saved(root, 1, 2)
        dying = Checkpoints(root)
        dying._place._root = Store(dying._place._root, [at])
        dying.save(3, small(3), MANIFEST)
        try:
            dying.wait()
        except Killed:
            again = Checkpoints(root)
            restored = again.restore(like_of(small()), MANIFEST)
            assert restored.quarantined == ()
            assert_same(restored.arrays, small(restored.step))
            newest.append(restored.step)
            again.save(4, small(4), MANIFEST)
            again.wait()
            assert again.steps() == [restored.step, 4]
            folders = {key.decode().split("/")[0] for key in again._place._root.list().result()}
            assert folders == {f"step-{restored.step}", "step-4"}
        else:
            break
    assert newest == sorted(newest) and set(newest) == {2, 3} and at > 8


# Trouble with the storage


class Fails:
    """A call that fails so often, with such an error."""

    def __init__(self, call, number, times):
        self.call, self.number, self.times = call, number, times

    def __call__(self, *args):
        if self.times > 0:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number), str(args[0]))
        return self.call(*args)


@pytest.mark.parametrize("name", ["make_folder", "write", "sync", "rename", "remove"])
def test_trouble_that_passes_is_waited_for(tmp_path, monkeypatch, name):
    saved(tmp_path, 1, 2)
    monkeypatch.setattr(commits, name, Fails(getattr(commits, name), errno.ESTALE, 2))
    saved(tmp_path, 3)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-2", "step-3"]
    assert_same(Checkpoints(tmp_path).restore(like_of(small()), MANIFEST).arrays, small(3))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("name", ["make_folder", "write", "sync", "rename"])
def test_trouble_that_stays_is_one_line(tmp_path, monkeypatch, name, number):
    saved(tmp_path, 1, 2)
    monkeypatch.setattr(commits, name, Fails(getattr(commits, name), number, 10**9))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, small(3), MANIFEST)
    refused(f"cannot save step 3 in .*: {os.strerror(number)}.*are untouched", checkpoints.wait)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-1", "step-2"]  # nothing is left over
    checkpoints.save(3, small(3), MANIFEST)  # told once; the next may succeed
    assert checkpoints.restore(like_of(small()), MANIFEST).step == 3


def test_the_next_save_tells_of_the_failure_before_it(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)
    monkeypatch.setattr(commits, "rename", Fails(commits.rename, errno.EROFS, 1))
    checkpoints.save(2, small(2), MANIFEST)
    refused("cannot save step 2", lambda: checkpoints.save(3, small(3), MANIFEST))


def test_a_checkpoint_that_cannot_be_removed(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)
    monkeypatch.setattr(commits, "remove", Fails(commits.remove, errno.EACCES, 1))
    refused("step 3 is saved, but older checkpoints .* cannot be removed", lambda: saved(tmp_path, 3))
    assert Checkpoints(tmp_path).restore(like_of(small()), MANIFEST).step == 3


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]).returncode != 0:
        pytest.skip("mounting a small disk takes a superuser")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def test_a_full_disk(tiny_disk):
    tree = {"x": jnp.arange(200_000.0)}
    checkpoints = Checkpoints(tiny_disk / "c", keep=9)
    checkpoints.save(1, tree, {})
    checkpoints.save(2, tree, {})
    checkpoints.save(3, tree, {})
    refused("cannot save step 3 in .*: .*No space left on device.*are untouched", checkpoints.wait)
    assert names(tiny_disk / "c") == ["step-1", "step-2"]
    restored = checkpoints.restore(like_of(tree), {})
    assert restored.step == 2
    assert_same(restored.arrays, tree)


def test_a_vanished_disk(tiny_disk):
    checkpoints = saved(tiny_disk / "c", 1)
    subprocess.run(["umount", tiny_disk], check=True)
    checkpoints.save(2, small(2), MANIFEST)
    refused("step-1 is gone from .*unmounted", checkpoints.wait)
    assert names(tiny_disk) == []


def test_a_disk_that_cannot_be_written(tiny_disk):
    checkpoints = saved(tiny_disk / "c", 1)
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    checkpoints.save(2, small(2), MANIFEST)
    refused("cannot save step 2 in .*: Read-only file system", checkpoints.wait)
    assert checkpoints.restore(like_of(small()), MANIFEST).step == 1


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("in the way")
    checkpoints = Checkpoints(tmp_path / "file" / "c")
    checkpoints.save(1, small(), {})
    refused("cannot save step 1 in .*: Not a directory", checkpoints.wait)
    refused("cannot read .*: Not a directory", lambda: checkpoints.restore(small(), {}))


# Several processes


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


def test_places_are_told_apart():
    assert isinstance(_checkpoint_place.open_place("file:///a%20b/c"), _checkpoint_place.LocalPlace)
    assert _checkpoint_place.open_place("file:///a%20b/c")._root == Path("/a b/c")
    assert isinstance(_checkpoint_place.open_place("a#b"), _checkpoint_place.LocalPlace)
    assert isinstance(_checkpoint_place.open_place("memory://a"), _checkpoint_place.RemotePlace)
