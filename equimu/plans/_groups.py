"""Which devices take part in a collective with one another, read from its text, and which of them are in one host."""

import functools
import math
import re
from collections.abc import Sequence

import numpy as np

Groups = tuple[tuple[int, ...], ...]

_LISTED = re.compile(r"replica_groups=\{(\{[\d,]*\}(?:,\{[\d,]*\})*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(\{\d+,\d+\}(?:,\{\d+,\d+\})*)\}")
_ARRAY = r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
_COUNTED = re.compile(rf"replica_groups={_ARRAY}")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^)]*(?:\([^)]*\))?[^)]*)\))? ?\{([^}]*)\}")
_DEVICES = re.compile(r"num_partitions=(\d+)")


@functools.lru_cache(maxsize=256)
def groups_of(attributes: str) -> Groups:
    """The groups of a collective, by the numbers of their devices; pairs that send to one another are groups of two.

    They are written as lists, `{{0,1},{2,3}}`, as an array whose rows are groups, `[2,2]<=[4]`, or by the axes of a mesh, whose
    devices may stand in another order: `mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'b'}`.
    """
    if found := _PAIRS.search(attributes) or _LISTED.search(attributes):
        return tuple(_numbers(group) for group in re.findall(r"\{([\d,]*)\}", found[1]))
    if found := _COUNTED.search(attributes):
        return _rows(_array(*found.groups()))
    if found := _MESH.search(attributes):
        return _along_axes(*found.groups())
    if found := _DEVICES.search(attributes):
        return (tuple(range(int(found[1]))),)
    return ((0,),)


def group_size(attributes: str) -> int:
    """How many devices take part in each of the groups of a collective; 2 for pairs that send to one another."""
    return len(groups_of(attributes)[0])


def in_a_host(attributes: str, hosts: Sequence[int]) -> int | None:
    """The members that a group has in a host, at least, where any of the groups has members in several; else None.

    Args:
        attributes: of the collective.
        hosts: of each device; none if all devices are joined alike.
    """
    if not hosts:
        return None
    found: list[int] = []
    for group in groups_of(attributes):
        of_group = [hosts[device] for device in group]
        own = {host: of_group.count(host) for host in of_group}
        found += own.values() if len(own) > 1 else ()
    return min(found, default=None)


def _along_axes(axes: str, device_ids: str | None, grouped: str) -> Groups:
    """Groups along the axes of a mesh, or along parts of them: of `'b':(2)4` four, where two stand before them."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    parts = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in _parts(grouped)}
    split: list[int] = []
    own: list[int] = []
    for name, size in sizes.items():
        before, along = parts.get(name, (size, 1))
        own.append(len(split) + 1)
        split += [before, along, size // before // along]
    others = [axis for axis in range(len(split)) if axis not in own]
    devices = _mesh_devices(device_ids, math.prod(sizes.values())).reshape(split)
    members = math.prod(split[axis] for axis in own)
    return _rows(devices.transpose(others + own).reshape(-1, members))


def _parts(grouped: str) -> list[tuple[str, str, str]]:
    return re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", grouped)


def _mesh_devices(device_ids: str | None, number: int) -> np.ndarray:
    """The devices of a mesh, one after the other; in their own order where the ids are not those of all."""
    found = re.match(_ARRAY, device_ids or "")
    ids = np.array(_numbers(device_ids or "")) if found is None else _array(*found.groups()).ravel()
    return ids if len(ids) == number else np.arange(number)


def _array(shape: str, counted: str, order: str | None) -> np.ndarray:
    """An array of the numbers from 0 on: counted in one shape, with its axes in another order, and cut into a shape."""
    numbers = np.arange(math.prod(_numbers(counted))).reshape(_numbers(counted))
    return numbers.transpose(None if order is None else _numbers(order)).reshape(_numbers(shape))


def _rows(array: np.ndarray) -> Groups:
    return tuple(tuple(int(device) for device in row) for row in array)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
