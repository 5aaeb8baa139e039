"""Packed rows: a document in a row of several has the loss and the gradient that it has alone, on any mesh."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import VOCAB, mesh_of, outcome_of, randomised, shapes_of

from equimu import EquimuError, LanguageModel
from equimu.data import ByteTokenizer, Loader, PackedBatch, read_corpus, write_store
from equimu.nn import SelfAttention, _attention, rotary
from equimu.sharding import partition_specs, shard_batch, with_specs
from equimu.tasks import ModelConfig, TextConfig, summed_losses

pytestmark = pytest.mark.usefixtures("light_compilation")

BOS, EOD, SEQ = 0, 1, 16
LENGTHS = [[5, 1, 10], [16], [2, 2, 3, 9], [7, 9]]


@pytest.fixture(scope="module")
def packed():
    """Rows of documents of these lengths, with beginning- and end-of-document apart."""
    rng = np.random.default_rng(3)
    rows = []
    for lengths in LENGTHS:
        targets = [np.append(rng.integers(2, VOCAB, n - 1), EOD) for n in lengths]
        inputs = [np.append(BOS, document[:-1]) for document in targets]
        rows.append(
            [
                np.concatenate(x)
                for x in (inputs, targets, np.ones((1, SEQ)), np.repeat(range(len(lengths)), lengths)[None])
            ]
        )
    arrays = [np.stack(x) for x in zip(*rows, strict=True)]
    return PackedBatch(*(x.astype(t) for x, t in zip(arrays, ("i4", "i4", "f4", "i4"), strict=True)))


def documents(batch):
    """The documents of all rows, each a row of its own with padding behind it, and which of its positions are its own."""
    cut = [
        (inputs[ids == number], targets[ids == number])
        for inputs, targets, ids in zip(batch.inputs, batch.targets, batch.segment_ids, strict=True)
        for number in np.unique(ids)
    ]
    inputs, targets = (
        np.stack([np.pad(row, (0, SEQ - len(row)), constant_values=EOD) for row in rows])
        for rows in zip(*cut, strict=True)
    )
    return inputs, targets, np.arange(SEQ) < np.array([[len(row)] for row, _ in cut])


def one_by_one(model, batch):
    """The summed losses of all documents, each read alone, without segment ids."""
    inputs, targets, own = documents(batch)
    logits = jax.nn.log_softmax(jax.vmap(model)(jnp.asarray(inputs)))
    return -jnp.where(own, jnp.take_along_axis(logits, jnp.asarray(targets)[..., None], -1)[..., 0], 0).sum()


def in_float64(options):
    """The decoder and its arrays in float64; to be used where x64 is on."""
    drawn = randomised(shapes_of(**options))
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)) if eqx.is_inexact_array(x) else x, drawn)


def furthest(found, expected):
    """The largest difference of two trees, relative to the largest entry of each array."""
    pairs = [[np.asarray(x, np.float64) for x in pair] for pair in zip(found, expected, strict=True)]
    return max(np.abs(a - b).max() / (np.abs(b).max() or 1) for a, b in pairs)


def loss_and_slopes(loss, options):
    """The loss of the decoder, and the gradient of each of its arrays, in float64."""
    with jax.enable_x64(True):
        value, grads = eqx.filter_jit(eqx.filter_value_and_grad(loss))(in_float64(options))
        assert value.dtype == jnp.float64
        return [np.asarray(x) for x in (value, *jax.tree.leaves(grads))]


@pytest.fixture(scope="module")
def alone(packed):
    """What the documents of `packed` give one by one, by the options of the decoder."""
    known = {}

    def of(**options):
        options = {name: value for name, value in options.items() if name not in ("remat", "attention_backend")}
        key = tuple(sorted(options.items()))
        if key not in known:
            known[key] = loss_and_slopes(lambda model: one_by_one(model, packed), options)
        return known[key]

    return of


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"remat": True, "attention_backend": "auto"},
        pytest.param({"n_kv_head": 1, "tie_embeddings": True, "qk_norm": True}, marks=pytest.mark.slow),
        pytest.param({"remat": "projections", "attention_backend": "blockwise"}, marks=pytest.mark.slow),
        pytest.param({"n_kv_head": None, "activation": "relu", "rotary_base": None}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_packed_rows_are_documents_one_by_one(packed, alone, options):
    found = loss_and_slopes(lambda model: summed_losses(model, packed)[0], options)
    assert furthest(found, alone(**options)) < 1e-10


def test_without_segment_ids_documents_see_one_another(packed, alone):
    one_segment = packed._replace(segment_ids=np.zeros_like(packed.segment_ids))
    with jax.enable_x64(True):
        loss = eqx.filter_jit(lambda model: summed_losses(model, one_segment)[0])(in_float64({}))
    assert abs(float(loss) / alone()[0] - 1) > 1e-3


def test_positions_begin_at_0_in_each_document(packed, monkeypatch):
    """Scores know differences of positions only, so this shows in what is rotated, and not in losses."""
    seen = []

    def rotated(x, positions, *, base):
        seen.append(np.asarray(positions))
        return rotary(x, positions, base=base)

    monkeypatch.setattr(_attention, "rotary", rotated)
    attention = SelfAttention(16, 4, n_kv_head=2, key=jax.random.key(0))
    attention(jnp.ones((SEQ, 16)), jnp.asarray(packed.segment_ids[0]))
    inside = np.concatenate([np.arange(n) for n in LENGTHS[0]])
    assert len(seen) == 2 and all(np.array_equal(positions, inside) for positions in seen)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 2, 2), {"attention_backend": "auto", "remat": True}),
        pytest.param((2, 2, 1), {"attention_backend": "auto"}, marks=pytest.mark.slow),
        pytest.param((1, 1, 4), {"remat": "projections"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_step_on_a_mesh_is_that_of_the_documents(packed, alone, shape, options):
    mesh = mesh_of(shape)
    params, static = eqx.partition(randomised(shapes_of(**options)), eqx.is_inexact_array)
    gradient = jax.jit(outcome_of(lambda params: eqx.combine(params, static), mesh))
    like = with_specs(params, partition_specs(params, mesh), mesh)
    placed = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), params, like)
    outcome = gradient(placed, shard_batch(packed, mesh))
    expected = [x / packed.mask.sum() for x in alone(**options)]
    assert furthest([outcome.loss, *jax.tree.leaves(outcome.grads)], expected) < 1e-4


class Alone(eqx.Module):
    """A model that knows nothing of segments."""

    table: jax.Array

    def __call__(self, tokens):
        return self.table[tokens]


class Segmented(Alone):
    """Whose logits tell of the segment."""

    def __call__(self, tokens, segment_ids):
        return self.table[tokens] + segment_ids[:, None] * jnp.arange(VOCAB)


def test_a_model_that_takes_no_segment_ids_says_so(packed):
    task = LanguageModel(text=TextConfig(windows="packed"))
    for call in (lambda m: summed_losses(m, packed), lambda m: task.loss(m, packed)):
        with pytest.raises(EquimuError, match='windows="packed" needs a model') as caught:
            call(Alone(jnp.zeros((VOCAB, VOCAB))))
        assert "\n" not in str(caught.value)


def test_task_reads_packed_rows(packed):
    task = LanguageModel(text=TextConfig(windows="packed", seq=8, rows=2), model=ModelConfig(vocab_size=VOCAB))
    assert [x.shape for x in task.batch_like()] == [(2, 8)] * 4
    assert task.program != LanguageModel(text=TextConfig(seq=8, rows=2), model=task.model).program
    model = Segmented(jax.random.normal(jax.random.key(0), (VOCAB, VOCAB)))
    values, weights = task.loss(model, packed)
    logits = np.asarray(model.table, np.float64)[packed.inputs] + packed.segment_ids[..., None] * np.arange(VOCAB)
    log_z = np.log(np.exp(logits).sum(-1))
    expected = log_z - np.take_along_axis(logits, packed.targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
    assert float(task.sums(model, packed, training=True)[0].loss) == pytest.approx(expected.sum(), rel=1e-5)
    np.testing.assert_array_equal(weights, packed.mask)


def test_order_of_rows_is_that_of_concatenated_windows(tmp_path):
    """A pure function of seed, step and row, and of nothing else."""
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(f"{i} words" * (1 + i % 3))
    store = write_store(tmp_path / "store", read_corpus(str(tmp_path / "*.txt")), ByteTokenizer(), validation=0.2)
    whole = Loader(store, seq=8, rows=6, seed=4, windows="packed")
    again = Loader(store, seq=8, rows=6, seed=4, windows="packed")
    for step in (9, 0):
        rows = [again.batch(step, [row]) for row in range(6)]
        for array, parts in zip(whole.batch(step), zip(*rows, strict=True), strict=True):
            np.testing.assert_array_equal(array, np.concatenate(parts))
