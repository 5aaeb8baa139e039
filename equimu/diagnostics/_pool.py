"""Blocks of a list as one: what a deeper model has more of is comparable as its mean over blocks only."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from equimu.diagnostics._measure import Measured


def pooled(measured: Sequence[Measured]) -> list[Measured]:
    """The same with sites and leaves that all sizes have.

    A deeper model made of a list of blocks has more of them: what stands in each block is then one site or leaf,
    `blocks[*].norm` for example, of the root mean square over blocks.
    """
    measured = _with_common_layers(measured)
    lengths = [_lengths([*one.sites, *one.leaves]) for one in measured]
    varying = {path for one in lengths for path in one if any(one[path] != other.get(path) for other in lengths)}

    def rename(name: str) -> str:
        return _INDEX.sub(lambda m: "[*]" if _INDEX.sub("[*]", name[: m.start()]) in varying else m[0], name)

    return [_pool(one, rename) for one in measured] if varying else list(measured)


def _with_common_layers(measured: Sequence[Measured]) -> Sequence[Measured]:
    """The same without single layers of stacks that are not equally deep at all sizes."""
    if all(one.sites.keys() == measured[0].sites.keys() for one in measured):
        return measured
    return [
        _picked(one, [index for index, name in enumerate(one.sites) if not one.about[name].layer_of])
        for one in measured
    ]


def _picked(one: Measured, where: Sequence[int]) -> Measured:
    names = [list(one.sites)[index] for index in where]
    return dataclasses.replace(
        one,
        sites={name: one.sites[name] for name in names},
        about={name: one.about[name] for name in names},
        **{name: getattr(one, name)[..., where] for name in _OF_SITES},
    )


def _lengths(names: Sequence[str]) -> dict[str, int]:
    """How long each list in a model is, by its path."""
    found: dict[str, int] = {}
    for name in names:
        for m in _INDEX.finditer(name):
            path = _INDEX.sub("[*]", name[: m.start()])
            found[path] = max(found.get(path, 0), int(m[1]) + 1)
    return found


def first_of_pool(name: str) -> str:
    """A site or leaf that a name stands for."""
    return name.replace("[*]", "[0]")


def _pool(one: Measured, rename: Callable[[str], str]) -> Measured:
    def group(names: Sequence[str]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            found.setdefault(rename(name), []).append(index)
        return found

    def mean_square(values: np.ndarray, groups: dict[str, list[int]]) -> np.ndarray:
        return np.stack([np.sqrt(np.mean(values[..., where] ** 2, axis=-1)) for where in groups.values()], axis=-1)

    sites, leaves, shapes = group(list(one.sites)), group(one.leaves), list(one.sites.values())
    about = [dataclasses.replace(each, layer_of=rename(each.layer_of)) for each in one.about.values()]
    return dataclasses.replace(
        one,
        sites={name: shapes[where[0]] for name, where in sites.items()},
        about={name: about[where[0]] for name, where in sites.items()},
        leaves=tuple(leaves),
        **{name: mean_square(getattr(one, name), sites) for name in _OF_SITES},
        **{name: mean_square(getattr(one, name), leaves) for name in _OF_LEAVES},
    )


_INDEX = re.compile(r"\[(\d+)\]")
_OF_SITES = ("output", "output_abs", "change", "change_abs")
_OF_LEAVES = ("weight", "stored", "update", "flatness", "decay", "gradient")
