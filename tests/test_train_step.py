"""Loss and gradient over meshes of one to eight devices against one device, and both against formulas in numpy."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equimu import EquimuError, nn
from equimu.data import Batch
from equimu.train import (
    TrainState,
    cross_entropy_sum,
    evaluation,
    loss_and_gradient,
    make_mesh,
    shard_batch,
    update,
)

VOCAB, ROWS, SEQ = 11, 8, 5


class Bigram(eqx.Module):
    """Small enough to compile at once: logits are a row of a table, bent."""

    table: jax.Array

    def __call__(self, tokens):
        return jnp.tanh(self.table[tokens])


def bigram():
    return Bigram(jnp.asarray(np.random.default_rng(0).normal(size=(VOCAB, VOCAB)), jnp.float32))


@functools.cache
def transformer():
    make = functools.partial(nn.Transformer, vocab_size=VOCAB, d_model=8, n_layer=2, head_dim=4, use_bias=True)
    return eqx.filter_jit(make)(key=jax.random.key(0))


def batch(kind):
    rng = np.random.default_rng(1)
    inputs, targets = (rng.integers(0, VOCAB, (ROWS, SEQ)).astype(np.int32) for _ in range(2))
    masks = {
        "full": np.ones((ROWS, SEQ)),
        "ragged": rng.random((ROWS, SEQ)) < 0.6,
        # rows of padding alone: on some meshes whole devices count nothing
        "padded rows": np.arange(ROWS)[:, None] < np.array([[3] * SEQ]),
        "nothing": np.zeros((ROWS, SEQ)),
    }
    return Batch(inputs, targets, masks[kind].astype(np.float32))


@functools.cache
def compiled(make, mesh, **options):
    _, static = eqx.partition(make(), eqx.is_inexact_array)
    return jax.jit(loss_and_gradient(lambda params: eqx.combine(params, static), mesh, **options))


def run(make, data, mesh, **options):
    params = eqx.filter(make(), eqx.is_inexact_array)
    loss, grads = compiled(make, mesh, **options)(params, shard_batch(data, mesh))
    return float(loss), [np.asarray(g) for g in jax.tree.leaves(grads)]


@functools.cache
def plain_program(denominator):
    def loss(model, data):
        logits = jax.vmap(model)(data.inputs)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, data.targets)
        counted = jnp.sum(data.mask * each)
        return counted / (data.mask.sum() if denominator == "mask" else data.mask.size), counted / data.mask.sum()

    return eqx.filter_jit(eqx.filter_grad(loss, has_aux=True))


def plain(make, data, denominator):
    """One device, one program, no mesh: the reported loss and the gradient of the differentiated one."""
    grads, reported = plain_program(denominator)(make(), data)
    return float(reported), [np.asarray(g) for g in jax.tree.leaves(grads)]


def assert_same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


MESHES = {"1": (1, 1), "2 data": (2, 1), "2 fsdp": (1, 2), "2×2": (2, 2), "4×2": (4, 2)}


@pytest.mark.parametrize("kind", ["ragged", "padded rows"])
@pytest.mark.parametrize("denominator", ["mask", "positions"])
@pytest.mark.parametrize("mesh", MESHES)
def test_mesh_gives_the_loss_and_gradient_of_one_device(mesh, denominator, kind):
    found = run(bigram, batch(kind), make_mesh(*MESHES[mesh]), denominator=denominator)
    assert_same(found, plain(bigram, batch(kind), denominator))


@pytest.mark.parametrize("denominator", ["mask", "positions"])
@pytest.mark.parametrize(("mesh", "parts"), [((1, 1), 2), ((1, 1), 4), ((2, 1), 4), ((2, 2), 2)])
def test_accumulation_gives_the_loss_and_gradient_of_the_whole_batch(mesh, parts, denominator):
    found = run(bigram, batch("ragged"), make_mesh(*mesh), accumulate=parts, denominator=denominator)
    assert_same(found, plain(bigram, batch("ragged"), denominator))


def test_transformer_on_all_three_axes_equals_one_device():
    found = run(transformer, batch("ragged"), make_mesh(2, 2, 2), accumulate=2)
    assert_same(found, plain(transformer, batch("ragged"), "mask"))


@pytest.mark.parametrize("kind", ["full", "ragged", "padded rows"])
def test_loss_and_its_denominators_are_their_formulas(kind):
    data, model = batch(kind), bigram()
    logits = np.tanh(np.asarray(model.table, np.float64)[data.inputs])
    picked = np.take_along_axis(logits, data.targets[..., None], -1)[..., 0]
    summed = (data.mask * (np.log(np.exp(logits).sum(-1)) - picked)).sum()
    # the slope of the table: (softmax - one-hot) · tanh', gathered by the input tokens
    soft = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    slope = data.mask[..., None] * (soft - np.eye(VOCAB)[data.targets]) * (1 - logits**2)
    gradient = np.zeros((VOCAB, VOCAB))
    np.add.at(gradient, data.inputs, slope)
    for denominator, divisor in (("mask", data.mask.sum()), ("positions", ROWS * SEQ)):
        loss, (found,) = run(bigram, data, make_mesh(2), denominator=denominator)
        assert loss == pytest.approx(summed / data.mask.sum(), rel=1e-5)  # reported by the mask in any case
        np.testing.assert_allclose(found, gradient / divisor, rtol=1e-4, atol=1e-7)
    mesh = make_mesh(2, 2)
    total, counted = jax.jit(evaluation(lambda params: params, mesh))(model, shard_batch(data, mesh))
    assert float(total) == pytest.approx(summed, rel=1e-5) and float(counted) == data.mask.sum()


def test_batch_that_counts_nothing_has_no_loss_and_no_gradient():
    for denominator in ("mask", "positions"):
        loss, (gradient,) = run(bigram, batch("nothing"), make_mesh(2), denominator=denominator)
        assert loss == 0 and np.all(gradient == 0)


def test_cross_entropy_survives_large_logits():
    logits = jnp.asarray([[1e4, 0.0, -1e4]])
    ones = jnp.ones(1)
    assert float(cross_entropy_sum(logits, jnp.asarray([1]), ones)) == pytest.approx(1e4)
    assert float(cross_entropy_sum(logits, jnp.asarray([0]), ones)) == 0
    assert float(cross_entropy_sum(logits, jnp.asarray([1]), 0 * ones)) == 0


def test_update_applies_the_optimizer_and_reports_global_norms():
    model = Bigram(jnp.arange(4.0).reshape(2, 2))
    gradient = Bigram(jnp.asarray([[1.0, 2.0], [0.0, -2.0]]))
    optimizer = optax.sgd(0.5)
    state, metrics = update(
        TrainState(model, optimizer.init(model), jnp.int32(3)), jnp.float32(1.5), gradient, optimizer
    )
    np.testing.assert_allclose(state.params.table, [[-0.5, 0.0], [2.0, 4.0]])
    assert int(state.step) == 4 and float(metrics.loss) == 1.5
    assert float(metrics.grad_norm) == pytest.approx(3.0)
    assert float(metrics.update_rms) == pytest.approx(np.sqrt((0.5**2 + 1 + 0 + 1) / 4))


def test_clipping_behind_the_mesh_uses_the_norm_of_all_devices():
    """Inside `shard_map` each device would clip by the norm of its own rows."""
    data, model, mesh = batch("ragged"), bigram(), make_mesh(4, 2)
    _, (gradient,) = plain(bigram, data, "mask")
    clip = float(np.linalg.norm(gradient)) / 2
    optimizer = optax.chain(optax.clip_by_global_norm(clip), optax.sgd(1.0))

    @jax.jit
    def step(model, data):
        loss, grads = loss_and_gradient(lambda params: params, mesh)(model, data)
        return update(TrainState(model, optimizer.init(model), jnp.int32(0)), loss, grads, optimizer)

    state, metrics = step(model, shard_batch(data, mesh))
    np.testing.assert_allclose(model.table - state.params.table, gradient / 2, rtol=1e-4, atol=1e-6)
    assert float(metrics.grad_norm) == pytest.approx(2 * clip, rel=1e-5)


def test_rows_that_do_not_divide_are_an_error():
    with pytest.raises(EquimuError, match="4 rows a device cannot be worked off in 3 equal parts"):
        run(bigram, batch("full"), make_mesh(2), accumulate=3)


@pytest.mark.parametrize("shape", [(16, 1, 1), (3, 3, 1), (0, 1, 1)])
def test_mesh_that_does_not_fit_the_devices_is_an_error(shape):
    with pytest.raises(EquimuError, match=rf"a mesh of {'×'.join(map(str, shape))} needs \d+ devices, there are 8"):
        make_mesh(*shape)
