"""The backends by name, users' own among them, and which ones a platform prefers."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from equimu._errors import EquimuError, nearest
from equimu._values import check, check_function, checked, shown
from equimu.attention._backend import Backend, Kernel
from equimu.attention._blockwise import blockwise
from equimu.attention._flash import flash, flash_why_not
from equimu.attention._jax_nn import CUDNN_KERNELS, cudnn, cudnn_why_not, jax_nn, xla_why_not
from equimu.attention._opaque_call import refused
from equimu.attention._order import kernels
from equimu.attention._pallas_tpu import pallas_tpu
from equimu.attention._pallas_tpu import unsupported_reason as pallas_tpu_why_not
from equimu.attention._pallas_tpu_kernels import BACKWARD, FORWARD
from equimu.attention._problem import Problem
from equimu.attention._reference import reference
from equimu.attention._splash import KERNELS as SPLASH_KERNELS
from equimu.attention._splash import splash, splash_why_not
from equimu.attention._tokamax import TOKAMAX_KERNELS, tokamax, tokamax_why_not
from equimu.attention._visible import Visibility

_TABLE = (
    Backend(name="blockwise", run=blockwise),
    Backend(
        name="cudnn",
        run=cudnn,
        unsupported_reason=cudnn_why_not,
        platforms=("cuda",),
        refuses=True,
        kernels=CUDNN_KERNELS,
    ),
    Backend(name="flash", run=flash, unsupported_reason=flash_why_not, platforms=("cuda",), refuses=True),
    Backend(name="jax", run=jax_nn, unsupported_reason=xla_why_not),
    Backend(
        name="pallas_tpu",
        run=pallas_tpu,
        unsupported_reason=pallas_tpu_why_not,
        platforms=("tpu",),
        kernels=(FORWARD, BACKWARD),
    ),
    Backend(name="reference", run=reference),
    Backend(name="splash", run=splash, unsupported_reason=splash_why_not, platforms=("tpu",), kernels=SPLASH_KERNELS),
    Backend(
        name="tokamax",
        run=tokamax,
        unsupported_reason=tokamax_why_not,
        platforms=("cuda",),
        refuses=True,
        kernels=TOKAMAX_KERNELS,
    ),
)
AUTO = "auto"
Platform = Literal["cpu", "cuda", "rocm", "tpu"]
_REGISTERED: dict[str, Backend] = {backend.name: backend for backend in _TABLE}
_OWN = frozenset(_REGISTERED)


def register_backend(backend: Backend) -> None:
    """Adds an attention backend, which is then called by its name like this library's own.

    `dot_product_attention(..., backend="mine")` takes it, and so does `--model.attention-backend mine` of a task whose file
    registers it. `backend="auto"` takes it on the platforms that it is `preferred_on`, of several such the one that was
    registered last. Registering a name again replaces its backend; programs that were compiled before keep the former.

    Args:
        backend: whose name is not one of this library's.

    Raises:
        EquimuError: the name is taken, or a field is not what `Backend` says.

    Example:
        >>> register_backend(Backend(name="mine", run=my_attention, platforms=("cuda",), preferred_on=("cuda",)))
    """
    check(Backend, backend=backend)
    name = checked("the name of a backend", backend.name, str)
    if name in _OWN or name == AUTO:
        raise EquimuError(f"{name!r} is an attention backend of equimu's own; choose another name")
    if not name or name != name.strip() or name.startswith("-"):
        raise EquimuError(f"an attention backend cannot have the name {name!r}; write a word, e.g. 'mine'")
    check_function("run", backend.run, "of q, k, v and keywords")
    check_function("unsupported_reason", backend.unsupported_reason, "of a Problem")
    check(tuple[Platform, ...], preferred_on=backend.preferred_on)
    check(tuple[Platform, ...] | None, platforms=backend.platforms)
    check(tuple[Kernel, ...], kernels=backend.kernels)
    never = sorted(set(backend.preferred_on) - set(backend.platforms or backend.preferred_on))
    if never:
        raise EquimuError(
            f"backend {name!r} is preferred on {', '.join(never)}, and runs on {shown(backend.platforms)} alone; add it to "
            "platforms"
        )
    _REGISTERED.pop(name, None)  # what is registered last stands last
    _REGISTERED[name] = backend


def backends() -> Mapping[str, Backend]:
    """All attention backends by name, those that were registered among them; a view, which cannot be changed."""
    return MappingProxyType(_REGISTERED)


def backend_names() -> tuple[str, ...]:
    """What can be given as a backend: `auto`, and the names of all."""
    return (AUTO, *_REGISTERED)


def kernel_products() -> Mapping[str, int]:
    """The matrix products of each declared kernel for a pair of a query and a key, by its name."""
    return {kernel.name: kernel.products for backend in _REGISTERED.values() for kernel in backend.kernels}


# The platforms that have an order of their own; every other one has that of "default".
PLATFORMS = ("cpu", "cuda", "tpu", "default")


def order(platform: str, problem: Problem) -> tuple[str, ...]:
    """The backends that `auto` tries where it compiles for a platform; the last one serves everything."""
    preferred = [backend.name for backend in _REGISTERED.values() if platform in backend.preferred_on]
    return (*reversed(preferred), *_own_order(platform, problem))


def _own_order(platform: str, problem: Problem) -> tuple[str, ...]:
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
    able = (_REGISTERED[name] for name in order(platform, problem))
    return next(backend for backend in able if refusal(backend, problem, platform) is None)


def choose_by_platform(problem: Problem) -> Mapping[str, Backend]:
    """The backend that `auto` takes on each platform that has an order of its own, and by "default".

    Where the mesh names the platform, only that one is asked: each further one would be traced as well.
    """
    if problem.platform is not None:
        return {"default": choose(problem, problem.platform)}
    preferred = {platform for backend in _REGISTERED.values() for platform in backend.preferred_on}
    return {platform: choose(problem, platform) for platform in dict.fromkeys((*PLATFORMS, *sorted(preferred)))}


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
    if name not in _REGISTERED:
        raise EquimuError(f"backend {name!r} is unknown; {nearest(name, backend_names())}")
    return _REGISTERED[name]
