"""What a transformer writes after prompts."""

import collections
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from equimu._errors import EquimuError, counted
from equimu._values import Count, Index, Seed, Size, check, shown
from equimu.nn._choose import Numbers, Sampling, choose
from equimu.nn._decoder import Cache, Decoder
from equimu.nn._transformer import Transformer

_NOTHING = -1  # in the place of a token, after a row's end


class Continuation(NamedTuple):
    """What was written after one prompt.

    - `tokens`: without the one that ends it.
    - `ended`: by the token `"stop"`, by the number of `"tokens"` that was asked for, or by the end of the `"context"`.
    """

    tokens: list[int]
    ended: Literal["stop", "tokens", "context"]


class _State(NamedTuple):
    """Of all rows, before a token is chosen: its logits, what was read, how many tokens may still come, and keys."""

    logits: Float[Array, "batch vocab"]
    cache: Cache
    length: Int[Array, " batch"]
    left: Int[Array, " batch"]
    keys: Array


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int] | np.ndarray],
    *,
    tokens: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    stop: int | None = None,
    context: int | None = None,
) -> list[Continuation]:
    """Continues prompts, all together.

    What is written after a prompt depends on the prompt, the seed and `sampling` alone (but for rounding), not on the prompts
    beside it. The same prompt given several times has several continuations.

    Args:
        model: with its multipliers applied, as `equimu.scaled` and `equimu.fold` do; on one device.
        prompts: token ids of each, one at least: a list, or an array of shape (tokens,).
        tokens: to write at most.
        sampling: how they are chosen; by default at temperature 1.
        seed: of what is drawn.
        stop: a token that ends a continuation.
        context: positions that the model is good for, those of the prompt included; None for no such limit.

    Returns:
        A continuation of each prompt.

    Raises:
        EquimuError: an argument that cannot be: no prompt, an empty one, ids outside of the vocabulary, a `top_k` of more than
            there are, or a prompt that leaves no room in the context.
    """
    pieces = stream(
        model, prompts, tokens=tokens, every=tokens, sampling=sampling, seed=seed, stop=stop, context=context
    )
    return list(pieces)[-1]


def stream(
    model: Transformer,
    prompts: Sequence[Sequence[int] | np.ndarray],
    *,
    tokens: int,
    every: int = 8,
    sampling: Sampling | None = None,
    seed: int = 0,
    stop: int | None = None,
    context: int | None = None,
) -> Iterator[list[Continuation]]:
    """As `generate`, piece by piece.

    Args:
        model, prompts, tokens, sampling, seed, stop, context: as of `generate`, of the same shapes.
        every: tokens of a piece; each piece waits for the device.

    Yields:
        The continuations so far.

    Raises:
        EquimuError: as of `generate`.
    """
    check(Count, tokens=tokens, every=every)
    check(Sampling | None, sampling=sampling)
    check(Seed, seed=seed)
    check(Size | None, context=context)
    check(Index | None, stop=stop)
    top_k = None if sampling is None else sampling.top_k
    if top_k is not None and top_k > model.vocab_size:
        raise EquimuError(
            f"top_k={top_k} is more than the {model.vocab_size} tokens there are; give fewer, or leave it out"
        )
    ids = [_checked(prompt, number, model.vocab_size) for number, prompt in enumerate(prompts)]
    if not ids:
        raise EquimuError("there is no prompt; give one at least")
    limits = [_limit(prompt, tokens, context) for prompt in ids]
    return _stream(
        model, ids, limits, (Sampling() if sampling is None else sampling).numbers, seed, stop, every, tokens
    )


def _stream(
    model: Transformer,
    prompts: list[np.ndarray],
    limits: list[int],
    numbers: Numbers,
    seed: int,
    stop: int | None,
    every: int,
    tokens: int,
) -> Iterator[list[Continuation]]:
    decoder = eqx.filter_jit(Decoder)(model)
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    padded = np.zeros((len(prompts), max(lengths)), np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    keys = _keys(prompts, seed)
    room = max(length + limit for length, limit in zip(lengths, limits, strict=True))
    state = _begin(decoder, padded, lengths, np.array(limits, np.int32), keys, int(room))
    ending = np.int32(_NOTHING - 1 if stop is None else stop)
    written: list[list[int]] = [[] for _ in prompts]
    while True:
        state, new = _advance(decoder, state, numbers, ending, min(every, max(limits)))
        for row, more in zip(written, np.asarray(new), strict=True):
            row += [token for token in more.tolist() if token != _NOTHING]
        yield [_continuation(row, limit, stop, tokens) for row, limit in zip(written, limits, strict=True)]
        if not np.any(np.asarray(state.left) > 0):
            return


@eqx.filter_jit
def _begin(decoder: Decoder, prompts: Any, lengths: Any, limits: Any, keys: Array, room: int) -> _State:
    """All prompts read, each filled up behind its end."""
    caches = jax.vmap(lambda _: decoder.empty_cache(room))(lengths)
    features, caches = jax.vmap(lambda prompt, cache: decoder.extend(prompt, cache, 0))(prompts, caches)
    last = jnp.take_along_axis(features, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return _State(decoder.unembed(last), caches, lengths, limits, keys)


@eqx.filter_jit
def _advance(decoder: Decoder, state: _State, numbers: Numbers, stop: Any, count: int) -> tuple[_State, Array]:
    """So many tokens more for each row, with `_NOTHING` behind its end."""

    def goes_on(carry: tuple[Array, _State, Array]) -> Bool[Array, ""]:
        done, state, _ = carry
        return (done < count) & jnp.any(state.left > 0)

    def write(carry: tuple[Array, _State, Array]) -> tuple[Array, _State, Array]:
        done, state, written = carry
        alive = state.left > 0
        keys = jax.vmap(jax.random.fold_in)(state.keys, state.length)
        token = jax.vmap(choose, in_axes=(0, 0, None))(state.logits, keys, numbers)
        written = written.at[:, done].set(jnp.where(alive, token, _NOTHING))
        features, cache = jax.vmap(decoder.extend)(token[:, None], state.cache, state.length)
        left = jnp.where(alive & (token != stop), state.left - 1, 0)
        logits = decoder.unembed(features[:, 0])
        return done + 1, _State(logits, cache, state.length + alive, left, state.keys), written

    nothing = jnp.full((state.length.size, count), _NOTHING, jnp.int32)
    _, state, written = jax.lax.while_loop(goes_on, write, (jnp.int32(0), state, nothing))
    return state, written


def _continuation(row: list[int], limit: int, stop: int | None, tokens: int) -> Continuation:
    if row and row[-1] == stop:
        return Continuation(row[:-1], "stop")
    return Continuation(list(row), "tokens" if limit == tokens else "context")


def _keys(prompts: list[np.ndarray], seed: int) -> Array:
    """A key for each prompt: by what it is, and how many equal ones stand before it, so that its place does not matter."""
    seen: collections.Counter[bytes] = collections.Counter()
    names: list[tuple[int, int]] = []
    for prompt in prompts:
        content = prompt.tobytes()
        names.append((zlib.crc32(content), seen[content]))
        seen[content] += 1
    hashes, places = np.array(names, np.uint32).T
    key = jax.random.key(seed)
    return jax.vmap(lambda name, place: jax.random.fold_in(jax.random.fold_in(key, name), place))(hashes, places)


def _checked(prompt: Any, number: int, vocab_size: int) -> np.ndarray:
    array = np.asarray(prompt)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise EquimuError(f"prompt {number} must be a list of token ids, got {shown(prompt)}")
    if not array.size:
        raise EquimuError(f"prompt {number} is empty; give one token at least, such as the one that begins a document")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise EquimuError(f"prompt {number} holds the token {wrong}; the model has the ids 0 to {vocab_size - 1}")
    return array.astype(np.int32)


def _limit(prompt: np.ndarray, tokens: int, context: int | None) -> int:
    """How many tokens may follow a prompt."""
    if context is None:
        return tokens
    if len(prompt) >= context:
        raise EquimuError(
            f"a prompt of {counted(len(prompt), 'token')} leaves no room in a context of {context}; shorten it, "
            "or give a larger context"
        )
    return min(tokens, context - len(prompt))
