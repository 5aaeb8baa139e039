"""Checkpoints on a disk that damages them: damage is found, and nothing wrong comes out."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import MANIFEST, assert_same, like_of, names, refused, saved, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equimu import EquimuError
from equimu.storage import Checkpoints

pytestmark = pytest.mark.usefixtures("no_waiting")


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
