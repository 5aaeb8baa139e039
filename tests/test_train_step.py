"""Loss and gradient over meshes of one to eight devices against one device, and both against formulas in numpy."""

import functools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equimu import EquimuError, LanguageModel
from equimu.data import Batch
from equimu.sharding import make_mesh, shard_batch
from equimu.tasks import cross_entropy_sum, summed_losses
from equimu.training import TrainState, evaluation, loss_and_gradient, update
from equimu.training._step import Outcome

pytestmark = pytest.mark.usefixtures("light_compilation")

VOCAB, ROWS, SEQ = 11, 8, 5


class Bigram(eqx.Module):
    """Small enough to compile at once: logits are a row of a table, bent."""

    table: jax.Array

    def __call__(self, tokens):
        return jnp.tanh(self.table[tokens])


def mesh_of(*shape):
    return make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])


def bigram():
    return Bigram(jnp.asarray(np.random.default_rng(0).normal(size=(VOCAB, VOCAB)), jnp.float32))


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
def compiled(make, mesh, accumulate=1, **options):
    _, static = eqx.partition(make(), eqx.is_inexact_array)
    apply = lambda params, buffers: eqx.combine(params, static)  # noqa: E731
    return jax.jit(loss_and_gradient(LanguageModel(**options), apply, mesh, accumulate=accumulate))


def run(make, data, mesh, **options):
    params = eqx.filter(make(), eqx.is_inexact_array)
    outcome = compiled(make, mesh, **options)(params, shard_batch(data, mesh), None, None, None)
    assert outcome.metrics == {} and outcome.state is None
    return float(outcome.loss), [np.asarray(g) for g in jax.tree.leaves(outcome.grads)]


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
    found = run(bigram, batch(kind), mesh_of(*MESHES[mesh]), loss_denominator=denominator)
    assert_same(found, plain(bigram, batch(kind), denominator))


@pytest.mark.parametrize("denominator", ["mask", "positions"])
@pytest.mark.parametrize(("mesh", "parts"), [((1, 1), 2), ((1, 1), 4), ((2, 1), 4), ((2, 2), 2)])
def test_accumulation_gives_the_loss_and_gradient_of_the_whole_batch(mesh, parts, denominator):
    found = run(bigram, batch("ragged"), mesh_of(*mesh), accumulate=parts, loss_denominator=denominator)
    assert_same(found, plain(bigram, batch("ragged"), denominator))


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
        loss, (found,) = run(bigram, data, mesh_of(2), loss_denominator=denominator)
        assert loss == pytest.approx(summed / data.mask.sum(), rel=1e-5)  # reported by the mask in any case
        np.testing.assert_allclose(found, gradient / divisor, rtol=1e-4, atol=1e-7)
    mesh = mesh_of(2, 2)
    evaluate = jax.jit(evaluation(LanguageModel(), lambda params, buffers: params, mesh))
    found = evaluate(model, *shard_batch((data, np.ones(ROWS, np.float32)), mesh), None, None, None)
    total, counted = found.pop("loss")
    assert found == {}
    assert float(total) == pytest.approx(summed, rel=1e-5) and float(counted) == data.mask.sum()


def test_batch_that_counts_nothing_has_no_loss_and_no_gradient():
    for denominator in ("mask", "positions"):
        loss, (gradient,) = run(bigram, batch("nothing"), mesh_of(2), loss_denominator=denominator)
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
    outcome = Outcome(jnp.float32(1.5), gradient, {"accuracy": jnp.float32(0.5)}, jnp.ones(2))
    state, metrics = update(TrainState(model, optimizer.init(model), jnp.int32(3)), outcome, optimizer)
    assert metrics.metrics == {"accuracy": 0.5} and state.state is outcome.state
    np.testing.assert_allclose(state.params.table, [[-0.5, 0.0], [2.0, 4.0]])
    assert int(state.step) == 4 and float(metrics.loss) == 1.5
    assert float(metrics.grad_norm) == pytest.approx(3.0)
    assert float(metrics.update_rms) == pytest.approx(np.sqrt((0.5**2 + 1 + 0 + 1) / 4))


def test_clipping_after_the_mesh_uses_the_norm_of_all_devices():
    """Inside `shard_map` each device would clip by the norm of its own rows."""
    data, model, mesh = batch("ragged"), bigram(), mesh_of(4, 2)
    _, (gradient,) = plain(bigram, data, "mask")
    clip = float(np.linalg.norm(gradient)) / 2
    optimizer = optax.chain(optax.clip_by_global_norm(clip), optax.sgd(1.0))

    @jax.jit
    def step(model, data):
        outcome = loss_and_gradient(LanguageModel(), lambda params, buffers: params, mesh)(
            model, data, None, None, None
        )
        return update(TrainState(model, optimizer.init(model), jnp.int32(0)), outcome, optimizer)

    state, metrics = step(model, shard_batch(data, mesh))
    np.testing.assert_allclose(model.table - state.params.table, gradient / 2, rtol=1e-4, atol=1e-6)
    assert float(metrics.grad_norm) == pytest.approx(2 * clip, rel=1e-5)


def test_rows_that_do_not_divide_are_an_error():
    with pytest.raises(EquimuError, match="4 rows on each device cannot be computed in 3 equal micro-batches"):
        run(bigram, batch("full"), mesh_of(2), accumulate=3)


@pytest.mark.parametrize("shape", [(16, 1, 1), (3, 3, 1), (2, 2, 1), (8, 1, 2)])
def test_mesh_that_does_not_fit_the_devices_is_an_error(shape):
    with pytest.raises(
        EquimuError, match=rf"a mesh of {'×'.join(map(str, shape))} .* is one of \d+ devices, there are 8"
    ):
        make_mesh(*shape)
    with pytest.raises(EquimuError, match="data must be at least 1, got 0"):
        make_mesh(0, 1, 1)


def test_mesh_is_of_all_devices_or_of_one():
    assert make_mesh(2, 2, 2).size == make_mesh(8).size == 8
    assert make_mesh().devices.tolist() == [[[jax.devices()[0]]]]


# --- logits in chunks, and z-loss


class Readout(eqx.Module):
    """The least that has its logits made in chunks: features, and a readout behind them."""

    mesh_aware: ClassVar[bool] = True
    table: jax.Array
    weight: jax.Array
    vocab_size: int = eqx.field(static=True)

    def features(self, tokens):
        return jnp.tanh(self.table[tokens])

    def readout(self):
        return jax.tree_util.Partial(_product, self.weight)


def _product(weight, x):
    return jnp.matmul(x, weight.astype(x.dtype), preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))


def readout(dtype, vocab=VOCAB):
    rng = np.random.default_rng(0)
    return Readout(*(jnp.asarray(rng.normal(size=s), dtype) for s in ((vocab, 4), (4, vocab))), vocab)


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("chunk", [1, 7, 40, None])
def test_loss_in_chunks_is_the_loss_of_all_logits(chunk, z_loss):
    """Of 40 positions; they need not divide into chunks."""
    data = batch("ragged")
    with jax.enable_x64(True):
        model = readout(jnp.float64)

        def plain(model):
            logits = jnp.tanh(model.table[data.inputs]) @ model.weight
            log_z = jnp.log(jnp.sum(jnp.exp(logits), -1))
            picked = jnp.sum(logits * jax.nn.one_hot(data.targets, VOCAB, dtype=logits.dtype), -1)
            return jnp.sum(data.mask * (log_z - picked + z_loss * log_z**2)), jnp.sum(data.mask * (log_z - picked))

        chunked = functools.partial(summed_losses, batch=data, z_loss=z_loss, chunk=chunk)
        for found, expected in zip(
            *(jax.tree.leaves(jax.value_and_grad(f, has_aux=True)(model)) for f in (chunked, plain)), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
        # what is reported, and the loss of an evaluation, are without the z-loss
        objective, reported = chunked(model)
        assert float(objective - reported) == pytest.approx(
            z_loss and float(plain(model)[0] - plain(model)[1]), rel=1e-9
        )


def test_gradient_of_the_readout_adds_up_in_float32():
    """In bfloat16 the sum over many chunks would stop growing: 256 + 1 is 256 there."""
    ones = np.ones((1024, 1), np.int32)
    data = Batch(0 * ones, 0 * ones, ones.astype(np.float32))
    model = Readout(jnp.full((2, 1), 20, jnp.bfloat16), jnp.zeros((1, 2), jnp.bfloat16), 2)
    slope = jax.jit(jax.grad(lambda m: summed_losses(m, data, chunk=1)[0]))(model)
    np.testing.assert_allclose(np.asarray(slope.weight, np.float32), [[-512, 512]])


def test_many_logits_are_cut_by_themselves():
    vocab, rows = 2**16, 16
    shape = jax.ShapeDtypeStruct((rows, 128), jnp.int32)
    data = Batch(shape, shape, jax.ShapeDtypeStruct((rows, 128), jnp.float32))
    model = jax.eval_shape(lambda: readout(jnp.float32, vocab))
    text = jax.jit(jax.grad(lambda m, data: summed_losses(m, data)[0])).lower(model, data).as_text()
    assert f"tensor<{2**25 // vocab}x{vocab}xf32>" in text and f"tensor<{rows * 128}x{vocab}xf32>" not in text
