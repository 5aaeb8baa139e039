"""The table of backends: what each can serve, and which ones a platform prefers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array

from equimu._errors import EquimuError, nearest
from equimu.attention._blockwise import blockwise
from equimu.attention._flash import flash, flash_why_not
from equimu.attention._jax_nn import cudnn, cudnn_why_not, jax_nn, xla_why_not
from equimu.attention._opaque_call import refused
from equimu.attention._order import kernels
from equimu.attention._pallas_tpu import pallas_tpu
from equimu.attention._pallas_tpu import unsupported_reason as pallas_tpu_why_not
from equimu.attention._problem import Problem
from equimu.attention._reference import reference
from equimu.attention._splash import splash, splash_why_not
from equimu.attention._tokamax import tokamax, tokamax_why_not
from equimu.attention._visible import Visibility


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to compute attention.

    `run(q, k, v, *, scale, q_offset, q_segments, k_segments, visibility)` gets checked arguments; `unsupported_reason`
    returns the reason for which it cannot serve a problem, or None.
    """

    name: str
    run: Callable[..., Array]
    unsupported_reason: Callable[[Problem], str | None]
    platforms: tuple[str, ...] | None = None  # None: every platform
    refuses: bool = False  # its library has checks of its own, which are asked about the very shapes


def _nothing(problem: Problem) -> str | None:
    """The `unsupported_reason` of a backend that serves everything."""


_TABLE = (
    Backend(name="blockwise", run=blockwise, unsupported_reason=_nothing),
    Backend(name="cudnn", run=cudnn, unsupported_reason=cudnn_why_not, platforms=("cuda",), refuses=True),
    Backend(name="flash", run=flash, unsupported_reason=flash_why_not, platforms=("cuda",), refuses=True),
    Backend(name="jax", run=jax_nn, unsupported_reason=xla_why_not),
    Backend(name="pallas_tpu", run=pallas_tpu, unsupported_reason=pallas_tpu_why_not, platforms=("tpu",)),
    Backend(name="reference", run=reference, unsupported_reason=_nothing),
    Backend(name="splash", run=splash, unsupported_reason=splash_why_not, platforms=("tpu",)),
    Backend(name="tokamax", run=tokamax, unsupported_reason=tokamax_why_not, platforms=("cuda",), refuses=True),
)
BACKENDS: Mapping[str, Backend] = {backend.name: backend for backend in _TABLE}

# The platforms that have an order of their own; every other one has that of "default".
PLATFORMS = ("cpu", "cuda", "tpu", "default")


def order(platform: str, problem: Problem) -> tuple[str, ...]:
    """The backends that `auto` tries where it compiles for a platform; the last one serves everything."""
    if platform == "cuda":
        return (*kernels(problem), "blockwise")
    if platform == "tpu":
        # By the compiler's schedule ours takes 0.61 to 0.94 of splash's cycles there (`benchmarks.tpu_schedule`); elsewhere
        # they were not compared.
        compared = problem.dtype == jnp.bfloat16 and problem.head_dim == 128 and not problem.segments
        dense = problem.visibility == Visibility(causal=True, window=None)
        return ("pallas_tpu", "splash", "blockwise") if compared and dense else ("splash", "pallas_tpu", "blockwise")
    if platform == "cpu" and max(problem.seq_q, problem.seq_k) < 192:
        # So short that little is hidden: at 128 positions blockwise takes 0.4 to 1.2 times as long, at 64 0.5 to 1.5 times.
        return "jax", "blockwise"
    return ("blockwise",)


def choose(problem: Problem, platform: str) -> Backend:
    """The backend that `auto` takes on a platform."""
    able = (BACKENDS[name] for name in order(platform, problem))
    return next(backend for backend in able if refusal(backend, problem, platform) is None)


def choose_by_platform(problem: Problem) -> Mapping[str, Backend]:
    """The backend that `auto` takes on each platform that has an order of its own, and by "default".

    Where the mesh names the platform, only that one is asked: each further one would be traced as well.
    """
    if problem.platform is not None:
        return {"default": choose(problem, problem.platform)}
    return {platform: choose(problem, platform) for platform in PLATFORMS}


def refusal(backend: Backend, problem: Problem, platform: str) -> str | None:
    """Why the backend cannot serve the problem on the platform, or None."""
    if backend.platforms is not None and platform not in backend.platforms:
        return f"it runs on {', '.join(backend.platforms)}, not on {platform}"
    return backend.unsupported_reason(problem) or (_refused(backend, problem) if backend.refuses else None)


@functools.cache
def _refused(backend: Backend, problem: Problem) -> str | None:
    """What the backend's library says where it refuses the shapes of the problem, or None."""
    q, kv = (problem.seq_q, problem.heads), (problem.seq_k, problem.kv_heads)
    shapes = [jax.ShapeDtypeStruct((1, *shape, problem.head_dim), problem.dtype) for shape in (q, kv, kv)]

    def attend(q: Array, k: Array, v: Array) -> Array:
        ids = jnp.zeros(k.shape[:-2], jnp.int32) if problem.segments else None
        return backend.run(
            q,
            k,
            v,
            scale=1.0,
            q_offset=problem.q_offset,
            q_segments=ids,
            k_segments=ids,
            visibility=problem.visibility,
        )

    return refused(attend, *shapes)


def find(name: str) -> Backend:
    """The backend of that name.

    Raises:
        EquimuError: there is none.
    """
    if name not in BACKENDS:
        raise EquimuError(f"backend {name!r} is unknown; {nearest(name, ['auto', *BACKENDS])}")
    return BACKENDS[name]
