"""Decoding against the whole forward pass, token by token, and the choice of tokens against numpy."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_nn import randomised

from equimu import EquimuError, nn
from equimu.nn import Decoder, Sampling, generate, stream
from equimu.nn._choose import choose

pytestmark = pytest.mark.usefixtures("light_compilation")

VOCAB, SEQ = 13, 9
OPTIONS = {
    "grouped, qk-norm, biases": {"n_kv_head": 2, "qk_norm": True, "use_bias": True, "norm_gain": "vector"},
    "multi-query, swiglu": {"n_kv_head": 1, "activation": "swiglu", "embedding_norm": True},
    "a window": {"attention_window": 3},
    "tied, no positions": {"tie_embeddings": True, "rotary_base": None, "attention_scale": 0.5},
}
MAKE = functools.partial(nn.Transformer, vocab_size=VOCAB, d_model=16, head_dim=4)
TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, VOCAB, SEQ), jnp.int32)


@functools.cache
def model(option, n_layer=2):
    make = functools.partial(MAKE, n_layer=n_layer, **OPTIONS[option])
    return randomised(eqx.filter_eval_shape(make, key=jax.random.key(0)))


# One block compiles faster.
writer = functools.partial(model, "grouped, qk-norm, biases", 1)


forward = eqx.filter_jit(lambda model, tokens: model(tokens))


@pytest.mark.parametrize("option", OPTIONS)
def test_decoding_equals_the_whole_forward_pass(option):
    whole = forward(model(option), TOKENS)
    decoder = Decoder(model(option))

    @eqx.filter_jit
    def step(decoder, tokens, cache, length):
        features, cache = decoder.extend(tokens, cache, length)
        return decoder.unembed(features), cache

    # What is beyond the filled part is left out, whatever it is.
    cache = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), decoder.empty_cache(SEQ + 3))
    logits, cache = step(decoder, TOKENS[:4], cache, 0)
    parts = [logits]
    for i in range(4, SEQ):
        logits, cache = step(decoder, TOKENS[i : i + 1], cache, jnp.int32(i))
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts), whole, rtol=1e-5, atol=1e-5)


def test_a_window_hides_what_is_further_away():
    found, other = model("a window", 1), TOKENS.at[0].set((TOKENS[0] + 1) % VOCAB)
    changed = np.any(forward(found, TOKENS) != forward(found, other), axis=-1)
    assert changed.tolist() == [True] * 3 + [False] * (SEQ - 3)


@pytest.mark.long
def test_greedy_tokens_are_those_of_the_forward_pass_for_unequal_prompts():
    """Each token is the most likely after all before it, by the model itself; the row beside it changes nothing."""
    found = writer()
    prompts = [TOKENS[:2].tolist(), TOKENS[2:7].tolist(), TOKENS[3:4].tolist()]
    together = generate(found, prompts, tokens=8, sampling=Sampling(temperature=0))
    for prompt, row in zip(prompts, together, strict=True):
        assert (len(row.tokens), row.ended) == (8, "tokens")
        padded = jnp.zeros(16, jnp.int32).at[: len(prompt) + 8].set(jnp.asarray(prompt + row.tokens))
        best = np.asarray(jnp.argmax(forward(found, padded), axis=-1))
        assert best[len(prompt) - 1 : len(prompt) + 7].tolist() == row.tokens
    assert generate(found, prompts, tokens=8, sampling=Sampling(temperature=0), seed=5) == together
    assert generate(found, prompts[1:2], tokens=8, sampling=Sampling(temperature=0)) == together[1:2]


def test_draws_depend_on_the_prompt_and_the_seed_alone():
    found = writer()
    one, other = TOKENS[:2].tolist(), TOKENS[2:7].tolist()
    draw = functools.partial(generate, found, tokens=8)
    first, second, again = draw([one, other, one])
    assert draw([other, one, one]) == [second, first, again] and first != again
    assert draw([one, other, one], seed=1) != [first, second, again]
    pieces = list(stream(found, [one, other, one], tokens=8, every=3))
    assert [len(piece[0].tokens) for piece in pieces] == [3, 6, 8] and pieces[-1] == [first, second, again]


def test_a_continuation_ends_at_its_token_or_with_the_context():
    found = writer()
    prompts = [TOKENS[:2].tolist(), TOKENS[2:7].tolist(), TOKENS[:2].tolist()]
    whole = generate(found, prompts, tokens=8)
    stop = whole[0].tokens[4]
    for row, cut in zip(whole, generate(found, prompts, tokens=8, stop=stop), strict=True):
        at = row.tokens.index(stop) if stop in row.tokens else None
        assert cut == (row.tokens[:at], "tokens" if at is None else "stop")
    short = generate(found, prompts, tokens=8, context=9)
    assert [(row.tokens, row.ended) for row in short] == [
        (row.tokens[:n], "context") for row, n in zip(whole, (7, 4, 7), strict=True)
    ]


def expected_shares(logits, temperature, top_k, top_p):
    """The distribution after the cuts, token by token from the most likely one."""
    logits = np.asarray(logits, np.float64) / temperature
    share = np.exp(logits - logits.max())
    share /= share.sum()
    ranked = sorted(range(len(share)), key=lambda token: (-share[token], token))[:top_k]
    among, kept, reached = sum(share[token] for token in ranked), [], 0.0
    for token in ranked:
        if top_p is not None and reached >= top_p:
            break
        kept.append(token)
        reached += share[token] / among
    found = np.zeros_like(share)
    found[kept] = share[kept] / share[kept].sum()
    return found


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, None), (0.5, None, None), (1.0, 3, None), (2.0, None, 0.7), (1.0, 5, 0.6), (1.0, None, 1e-6)],
)
def test_tokens_are_drawn_by_their_distribution(temperature, top_k, top_p):
    logits = jnp.asarray([0.3, 2.0, -1.0, 1.2, 2.0, 0.0, -4.0, 1.2])  # two equal ones, twice
    numbers = Sampling(temperature=temperature, top_k=top_k, top_p=top_p).numbers
    draws = 4000
    drawn = jax.vmap(lambda key: choose(logits, key, numbers))(jax.random.split(jax.random.key(0), draws))
    share = np.bincount(np.asarray(drawn), minlength=8) / draws
    expected = expected_shares(logits, temperature, top_k, top_p)
    assert not np.any(share[expected == 0])
    assert np.all(np.abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / draws) + 1e-9)


def test_temperature_zero_takes_the_first_of_the_most_likely():
    numbers = Sampling(temperature=0, top_k=3).numbers
    assert choose(jnp.asarray([0.0, 2.0, 2.0]), jax.random.key(0), numbers) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": []}, "there is no prompt"),
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"prompts": [[VOCAB]]}, "holds the token 13; the model has the ids 0 to 12"),
        ({"prompts": [np.array([0.5])]}, "must be a list of token ids"),
        ({"context": 3}, "a prompt of 3 tokens leaves no room in a context of 3"),
        ({"tokens": 0}, "tokens must be at least 1"),
    ],
    ids=str,
)
def test_what_cannot_be_continued_says_why(change, words):
    given = {"model": writer(), "prompts": [[1, 2, 3]], "tokens": 4} | change
    with pytest.raises(EquimuError, match=words):
        generate(**given)


@pytest.mark.parametrize(("field", "value"), [("temperature", -1), ("top_k", 0), ("top_p", 0), ("top_p", 1.5)])
def test_numbers_of_sampling_that_cannot_be(field, value):
    with pytest.raises(EquimuError, match=f"sampling.{field} must be"):
        Sampling(**{field: value})
