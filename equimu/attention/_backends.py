"""The table of backends: what each can serve, and which one a platform prefers."""

import dataclasses
from collections.abc import Callable, Mapping

from jaxtyping import Array

from equimu._errors import EquimuError, nearest
from equimu.attention._blockwise import blockwise
from equimu.attention._problem import Problem
from equimu.attention._reference import reference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to compute attention.

    `run(q, k, v, *, scale, q_offset, q_segments, k_segments, visibility)` gets checked arguments; `why_not`
    returns the reason for which it cannot serve a problem, or None.
    """

    name: str
    run: Callable[..., Array]
    why_not: Callable[[Problem], str | None]
    platforms: tuple[str, ...] | None = None  # None: every platform


def _nothing(problem: Problem) -> str | None:
    """The `why_not` of a backend that serves everything."""


_TABLE = (
    Backend(name="blockwise", run=blockwise, why_not=_nothing),
    Backend(name="reference", run=reference, why_not=_nothing),
)
BACKENDS: Mapping[str, Backend] = {backend.name: backend for backend in _TABLE}

# What `auto` tries, in this order, where it compiles for a platform; "default" for every other platform.
ORDER: Mapping[str, tuple[str, ...]] = {"default": ("blockwise",)}


def refusal(backend: Backend, problem: Problem, platform: str) -> str | None:
    """Why the backend cannot serve the problem on the platform, or None."""
    if backend.platforms is not None and platform not in backend.platforms:
        return f"it runs on {', '.join(backend.platforms)} only, not on {platform}"
    return backend.why_not(problem)


def find(name: str) -> Backend:
    """The backend of that name.

    Raises:
        EquimuError: there is none.
    """
    if name not in BACKENDS:
        raise EquimuError(f"backend {name!r} is unknown; {nearest(name, ['auto', *BACKENDS])}")
    return BACKENDS[name]


def choose(problem: Problem, platform: str) -> tuple[Backend, Mapping[str, str]]:
    """The backend that `auto` takes on a platform, and why it passed over those it prefers."""
    passed: dict[str, str] = {}
    for name in ORDER.get(platform, ORDER["default"]):
        reason = refusal(BACKENDS[name], problem, platform)
        if reason is None:
            return BACKENDS[name], passed
        passed[name] = reason
    raise AssertionError(f"the last backend in the order of {platform} must serve everything: {passed}")
