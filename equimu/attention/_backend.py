"""What an attention backend is: a function, and what it says of itself."""

import dataclasses
from collections.abc import Callable

from jaxtyping import Array

from equimu.attention._problem import Problem


def serves_all(problem: Problem) -> str | None:
    """The `unsupported_reason` of a backend that serves every call."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel whose operations a compiled program does not tell.

    Attributes:
        name: the `name` of its `pallas_call`, which is part of its name in compiled programs.
        products: how many matrix products it makes for each pair of a query and a key that it sees: 2 forward (the score,
            and the sum of the values), 5 in a backward kernel that makes the gradients of queries, keys and values.
    """

    name: str
    products: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to compute attention. `register_backend` gives it to everything that takes the name of a backend.

    Attributes:
        name: by which configs and the command line call it.
        run: `run(q, k, v, *, scale, q_offset, q_segments, k_segments, visibility)`, which gives the output, an array of the
            shape and the dtype of `q`. Its arguments are checked, and fit together:

            - `q`: `[*batch, seq_q, heads, head_dim]`; `k` and `v`: `[*batch, seq_k, kv_heads, head_dim]`, of the dtype of `q`.
              Query head `h` reads key/value head `h // (heads // kv_heads)`.
            - `scale`: what the scores are multiplied by; a number, or a traced scalar.
            - `q_offset`: the position of the first query among the keys; an int, or a traced scalar.
            - `q_segments`, `k_segments`: whole numbers `[*batch, seq_q]` and `[*batch, seq_k]`, or both None. A query sees keys
              of its own segment alone.
            - `visibility`: what a query sees by position. `visibility.causal` and `visibility.window` are fields;
              `visibility.mask(q_positions, k_positions)` is True where a key is seen.

            A query that sees no key gives zeros. It must be differentiable with respect to `q`, `k`, `v` and `scale`, and is
            called inside of `jax.jit`, `jax.vmap` and a checked `jax.shard_map`, where all arrays vary over the same axes of
            the mesh; a kernel must say so of what it makes.
        unsupported_reason: gets the `Problem` that a call poses (shapes, dtype, visibility, and what is known of the device);
            returns why `run` cannot serve it, as the rest of a sentence, or None.
        platforms: on which it runs, as JAX names them: `"cpu"`, `"cuda"`, `"rocm"`, `"tpu"`; None for all.
        preferred_on: the platforms on which `backend="auto"` takes it before this library's own wherever it can serve; by
            default on none.
        refuses: whether `run` raises `NotImplementedError` or a similar error for shapes that it does not take. It is then
            traced once for each shape, before it is chosen.
        kernels: those of its programs, so that `equimu plan` knows their operations; of others it counts none.
    """

    name: str
    run: Callable[..., Array]
    unsupported_reason: Callable[[Problem], str | None] = serves_all
    platforms: tuple[str, ...] | None = None
    preferred_on: tuple[str, ...] = ()
    refuses: bool = False
    kernels: tuple[Kernel, ...] = ()
