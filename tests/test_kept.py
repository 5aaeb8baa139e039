"""What a block keeps for its backward pass on a GPU, and the two steps that are compiled there: the numbers do not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equimu.data import Batch
from equimu.nn import Transformer, _transformer
from equimu.plans._saved_activations import saved_bytes
from equimu.runs import RunConfig, Sizes
from equimu.sharding import make_mesh, shard_batch
from equimu.tasks import LanguageModel, ModelConfig, TextConfig
from equimu.training import Programs, _program, build_tree, hyperparameters_of, program_for
from equimu.training._functions import StepPair

pytestmark = pytest.mark.usefixtures("light_compilation")

VOCAB, ROWS, SEQ, WIDTH = 64, 4, 32, 32
MODELS = {
    "relu": {},
    "swiglu": {"activation": "swiglu", "norm_gain": "vector", "qk_norm": True, "use_bias": True, "n_kv_head": 1},
    "bfloat16": {"activation": "gelu", "dtype": "bfloat16", "attention_backend": "blockwise"},
}


def as_on_gpu(monkeypatch, yes):
    monkeypatch.setattr(_transformer, "_on_gpu", lambda: yes)
    monkeypatch.setattr(Transformer, "unrolled_on_gpu", 0)  # a scan, in whose program what is kept can be read


def step_of(model, mesh):
    """A program, and the arguments of its step."""
    config = RunConfig(
        task=LanguageModel(model=model, text=TextConfig(rows=ROWS, seq=SEQ)),
        size=Sizes(width=WIDTH, depth=3),
        base=Sizes(width=WIDTH),
    )
    program, numbers = program_for(config, build_tree(config, ROWS), mesh, Programs())  # of its own
    tokens = np.random.default_rng(0).integers(0, VOCAB, (ROWS, SEQ + 1)).astype(np.int32)
    batch = shard_batch(Batch(tokens[:, :-1], tokens[:, 1:], np.ones((ROWS, SEQ), np.float32)), mesh)
    return program, batch, numbers, hyperparameters_of(config)


def after_a_step(program, batch, numbers, hyper, measure):
    functions = program.compiled(batch, numbers, hyper)
    state = functions.init(numbers, hyper, jax.random.key(0))
    return functions.step(state, batch, numbers, hyper, np.bool_(measure))


def alike(one, other, share):
    """Each array, up to a share of its largest entry: the programs differ, and with them the order of their sums."""
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=share * np.max(np.abs(b[np.isfinite(b)]), initial=0))


@pytest.mark.long
@pytest.mark.parametrize(("name", "fsdp"), [("relu", 1), ("swiglu", 2), ("bfloat16", 1)])
def test_recomputing_what_is_cheap_changes_what_is_kept_and_no_number(monkeypatch, name, fsdp):
    model = ModelConfig(vocab_size=VOCAB, head_dim=16, **MODELS[name])
    mesh = make_mesh(1, fsdp, 1, devices=jax.devices()[:fsdp])
    found = {}
    for on_gpu in (False, True):
        as_on_gpu(monkeypatch, on_gpu)
        arguments = step_of(model, mesh)
        state, metrics = after_a_step(*arguments, True)
        kept = saved_bytes(arguments[0].traced_step(*arguments[1:]).jaxpr)
        found[on_gpu] = kept, metrics.loss, metrics.grad_norm, state
    assert found[True][0] < 0.9 * found[False][0]
    if model.dtype == "bfloat16":  # whose rounding follows the fusions: the norm of the gradient, not each entry
        alike(found[True][1:3], found[False][1:3], 1e-3)
    else:
        alike(found[True][1:], found[False][1:], 1e-5)


def test_attention_is_not_computed_again(monkeypatch):
    def products(on_gpu):
        as_on_gpu(monkeypatch, on_gpu)
        model = Transformer(
            vocab_size=VOCAB, d_model=32, n_layer=2, head_dim=16, attention_backend="blockwise", key=jax.random.key(0)
        )
        tokens = jnp.zeros(2048, jnp.int32)  # more than one block of the attention
        text = jax.jit(jax.grad(lambda m: m(tokens).sum(), allow_int=True)).lower(model).as_text()
        return text.count("stablehlo.dot_general"), text.count("stablehlo.while")

    assert products(True) == products(False)


@pytest.mark.parametrize("measure", [True, False])
def test_a_step_that_measures_and_one_that_does_not_are_one_step(monkeypatch, measure):
    model, mesh = ModelConfig(vocab_size=VOCAB, head_dim=16), make_mesh(1, 1, 1, devices=jax.devices()[:1])
    found = []
    for both in (False, True):
        kinds = (True, False) if both else (None,)
        monkeypatch.setattr(_program, "step_kinds", lambda mesh, kinds=kinds: kinds)
        arguments = step_of(model, mesh)
        found.append(after_a_step(*arguments, measure))
        assert isinstance(arguments[0].compiled(*arguments[1:]).step, StepPair) == both
    assert np.isfinite(found[1][1].grad_norm) == measure
    alike(*found, 1e-5)
