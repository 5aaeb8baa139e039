"""From arrays to the few numbers of a site or leaf, in numpy: compiling this would take most of the time."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from equimu._values import Real
from equimu.diagnostics._about import About

Statistics: TypeAlias = dict[str, np.ndarray]


def each_of(statistics: Callable[..., dict[str, Real]], *arrays: Sequence[Any]) -> Statistics:
    rows = [statistics(*map(wide, each)) for each in zip(*arrays, strict=True)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def each_rms(arrays: Sequence[Any]) -> np.ndarray:
    return np.array([_rms(wide(array)) for array in arrays])


def over_steps(steps: Sequence[Statistics]) -> Statistics:
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


def wide(x: Any) -> np.ndarray:
    array = np.asarray(x)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.abs(x) ** 2))) if x.size else 0.0


def of_site(now: np.ndarray, start: np.ndarray) -> dict[str, Real]:
    return {
        "output": _rms(now),
        "output_abs": float(np.mean(np.abs(now))),
        "change": _rms(now - start),
        "change_abs": float(np.mean(np.abs(now - start))),
    }


def of_leaf(
    stored: np.ndarray,
    gradient: np.ndarray,
    update: np.ndarray,
    undecayed: np.ndarray,
    used: np.ndarray,
    used_after: np.ndarray,
    used_undecayed: np.ndarray,
) -> dict[str, Real]:
    decay = _decay(stored, update - undecayed)
    move = (used_after if np.isnan(decay) else used_undecayed) - used
    # Over the entries that have a gradient: rows of a table that the batch does not read stay where they are.
    has = gradient != 0
    size, largest = _rms(move[has]), float(np.max(np.abs(move[has]), initial=0.0))
    return {
        "update": size,
        "flatness": size / largest if largest > 0 else 0.0,
        "decay": decay,
        "gradient": _rms(gradient[has]),
    }


def _decay(stored: np.ndarray, owed: np.ndarray) -> Real:
    """By what share of itself a leaf decays; NaN if what an update owes to the weights is not a share of them.

    Steps that are relative to the weights, such as Adafactor's, owe them more than a decay.
    """
    square = float(np.sum(np.abs(stored) ** 2))
    if stored.size < 2 or square == 0 or not owed.any():
        return 0.0
    share = -float(np.real(np.vdot(stored, owed))) / square
    return share if _rms(owed + share * stored) <= 0.1 * _rms(owed) else np.nan


# --- layers of a stack


def with_layers(
    shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, About]
) -> tuple[dict[str, tuple[int, ...]], dict[str, About]]:
    """Sites with those of their layers behind them: the mean over a stack hides what one layer of it does."""
    sites: dict[str, tuple[int, ...]] = {}
    about: dict[str, About] = {}
    for name, shape in shapes.items():
        one = known[name]
        sites[name], about[name] = shape, one
        for layer in range(_layers(shape, one)):
            sites[f"{name} (layer {layer})"] = tuple(size for axis, size in enumerate(shape) if axis not in one.layers)
            about[f"{name} (layer {layer})"] = dataclasses.replace(one, layers=(), layer_of=name)
    return sites, about


def _layers(shape: tuple[int, ...], about: About) -> int:
    count = math.prod(shape[axis] for axis in about.layers)
    return count if count > 1 else 0


def layered(arrays: Sequence[Any], about: Sequence[About]) -> list[np.ndarray]:
    """The values of `with_layers`."""
    found: list[np.ndarray] = []
    for array, one in zip(map(np.asarray, arrays), about, strict=True):
        found.append(array)
        if _layers(array.shape, one):
            front = np.moveaxis(array, one.layers, range(len(one.layers)))
            found.extend(front.reshape(-1, *front.shape[len(one.layers) :]))
    return found
