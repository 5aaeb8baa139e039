"""Checkpoints: whatever goes in comes out, on any mesh; what is not of the run, or cannot be saved, is refused."""

import itertools
import json
import threading
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from checkpoints import MANIFEST, assert_same, bits, like_of, names, on, refused, saved, small
from jax.sharding import PartitionSpec, SingleDeviceSharding

from equimu import EquimuError
from equimu.storage import Checkpoints, _checkpoint_place, _checkpoints, _host_copies

pytestmark = pytest.mark.usefixtures("no_waiting")


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


def test_places_are_told_apart():
    assert isinstance(_checkpoint_place.open_place("file:///a%20b/c"), _checkpoint_place.LocalPlace)
    assert _checkpoint_place.open_place("file:///a%20b/c")._root == Path("/a b/c")
    assert isinstance(_checkpoint_place.open_place("a#b"), _checkpoint_place.LocalPlace)
    assert isinstance(_checkpoint_place.open_place("memory://a"), _checkpoint_place.RemotePlace)
