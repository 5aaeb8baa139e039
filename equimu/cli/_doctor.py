"""`equimu doctor`."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimu._version import __version__
from equimu.cli._command import Printing

_LIBRARIES = ("jax", "jaxlib", "equinox", "optax", "jaxtyping", "beartype", "numpy", "tensorstore", "grain", "tyro")
_NOT_FOR_USERS = ("test", "docs")  # extras
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([^]]*)\])?([^;]*)(?:;(.*))?")
_EXTRA = re.compile(r"extra == ['\"]([\w-]+)['\"]")
# What attention backends are asked about.
_SEQ, _HEADS, _HEAD_DIM = 4096, 8, 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor(Printing):
    """The flags of `equimu doctor`."""

    def __call__(self) -> None:
        """Looks at the machine and prints what it found."""
        found = findings()
        print(json.dumps(found, indent=1) if self.json else "\n".join(_lines(found)))


def findings() -> dict[str, Any]:
    """What this machine has, in plain JSON types."""
    import jax
    import jax.numpy as jnp

    from equimu.attention import explain
    from equimu.data import default_cache

    x = jax.ShapeDtypeStruct((1, _SEQ, _HEADS, _HEAD_DIM), jnp.bfloat16)
    attention = explain(x, x, x, scale=0.1)
    devices = jax.devices()
    cache = default_cache()
    return {
        "equimu": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name)) is not None},
        "excluded": _excluded(importlib.metadata.requires("equimu") or []),
        "extras": _extras(importlib.metadata.requires("equimu") or []),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processors": os.cpu_count(),
        },
        "attention": {"auto": attention.chosen, "others": dict(attention.others)},
        "cache": {"folder": str(cache), "bytes": _size(cache), "free": shutil.disk_usage(_existing(cache)).free},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _excluded(requirements: Sequence[str]) -> list[str]:
    """The installed versions that the package's metadata leave out, since they compute wrong numbers."""
    wrong: list[str] = []
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is not None and "extra" not in (match[4] or ""):
            left_out = re.findall(r"!=\s*([\w.]+)", match[3])
            names = (match[1], "jaxlib") if match[1] == "jax" else (match[1],)
            wrong += [f"{name} {version}" for name in names if (version := _version(name)) in left_out]
    return wrong


def _extras(requirements: Sequence[str]) -> dict[str, list[str]]:
    """Of each extra the packages that are not installed."""
    missing: dict[str, list[str]] = {}
    for requirement in requirements:
        extra = _EXTRA.search(requirement)
        if extra is not None and extra[1] not in _NOT_FOR_USERS:
            missing.setdefault(extra[1], []).extend(_missing(requirement))
    return missing


def _missing(requirement: str) -> list[str]:
    """The packages of a requirement that are not installed: of `jax[cuda13]`, jax or those that its extra asks for."""
    match = _REQUIREMENT.match(requirement)
    if match is None:
        return []
    name, extras = match[1], re.findall(r"[\w-]+", match[2] or "")
    try:
        needed = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return [name]
    own = [each for each in needed if (extra := _EXTRA.search(each)) is not None and extra[1] in extras]
    return [package for each in own for package in _missing(each)]


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def _size(folder: Path) -> int:
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(above, name)).st_size
            except OSError:  # removed meanwhile
                continue
    return total


def _lines(found: Mapping[str, Any]) -> list[str]:
    devices, cache, attention = found["devices"], found["cache"], found["attention"]
    lines = [f"equimu {found['equimu']}, Python {found['python']}", found["system"], ""]
    lines += _wrapped("libraries", [f"{name} {version}" for name, version in found["libraries"].items()])
    lines += [
        f"WRONG NUMBERS: {version} computes some on the CPU; install another version" for version in found["excluded"]
    ]
    present = [name for name, missing in found["extras"].items() if not missing]
    lines += _wrapped("extras", present or ["none"])
    lines += _wrapped("not installed", [name for name, missing in found["extras"].items() if missing])
    lines += ["", f"devices: {devices['count']} × {devices['kind']} ({devices['platform']})"]
    lines += [f"processors: {devices['processors']}", ""]
    lines += [f"attention: auto takes {attention['auto']} ({_SEQ} positions, head_dim {_HEAD_DIM}, bfloat16)"]
    for name, reason in attention["others"].items():
        lines += _wrapped(f"  {name}", [reason])
    gib = 2**30
    lines += ["", f"token stores: {cache['folder']}"]
    lines += [f"  {cache['bytes'] / gib:.2f} GiB, {cache['free'] / gib:.0f} GiB of the disk are free"]
    return lines


def _wrapped(title: str, items: Sequence[str]) -> list[str]:
    """A title and what belongs to it, in lines of 80 columns."""
    text = f"{title}: {', '.join(items)}"
    return textwrap.wrap(text, 80, subsequent_indent=" " * (len(title) - len(title.lstrip()) + 4)) if items else []
