"""Packed rows: a document in a row of several has the loss and the gradient that it has alone, on any mesh."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import LLAMA, VOCAB, mesh_of, outcome_of, randomised, shapes_of

from equimu import EquimuError, LanguageModel, nn
from equimu.data import ByteTokenizer, Loader, PackedBatch, read_corpus, write_store
from equimu.nn._attention import SelfAttention
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
    for inputs, targets, ids in zip(batch.inputs, batch.targets, batch.segment_ids, strict=True):
        for number in np.unique(ids):
            yield inputs[ids == number], targets[ids == number]


def one_by_one(model, batch):
    """The losses of all documents, each read alone, as optax or anyone would write it."""
    total = 0.0
    for inputs, targets in documents(batch):
        logits = jax.nn.log_softmax(model(jnp.asarray(inputs)))
        total -= logits[jnp.arange(len(targets)), targets].sum()
    return total


def in_float64(options):
    """The decoder and its arrays in float64; to be used where x64 is on."""
    shapes = shapes_of(**options)
    return jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x, np.float64)) if eqx.is_inexact_array(x) else x, randomised(shapes)
    )


def furthest(found, expected):
    """The largest difference of two trees, relative to the largest entry of each array."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def both(options, batch):
    """Loss and gradient of packed rows, and of their documents one by one, in float64."""
    with jax.enable_x64(True):
        model = in_float64(options)
        found = eqx.filter_jit(eqx.filter_value_and_grad(lambda m: summed_losses(m, batch)[0]))(model)
        expected = eqx.filter_jit(eqx.filter_value_and_grad(lambda m: one_by_one(m, batch)))(model)
        assert expected[0].dtype == jnp.float64
        return found, expected


CASES = {
    "two heads read one": {},
    "multi-query, tied": {"n_kv_head": 1, "tie_embeddings": True, "qk_norm": True},
    "a head each, remat": {"n_kv_head": None, "remat": True, "activation": "relu"},
    "auto": {"attention_backend": "auto", "remat": "projections"},
    "blockwise": {"attention_backend": "blockwise"},
    "no positions": {"rotary_base": None},
}


@pytest.mark.parametrize("case", CASES)
def test_packed_rows_are_documents_one_by_one(packed, case):
    found, expected = both(CASES[case], packed)
    assert furthest(found, expected) < 1e-10


def test_without_segment_ids_documents_see_one_another(packed):
    one_segment = packed._replace(segment_ids=np.zeros_like(packed.segment_ids))
    with jax.enable_x64(True):
        model = in_float64({})
        read = eqx.filter_jit(lambda batch: summed_losses(model, batch)[0])
        assert abs(read(one_segment) / read(packed) - 1) > 1e-3


def test_positions_begin_at_0_in_each_document(packed):
    """Scores know differences of positions only, so this shows in queries and keys, not in losses."""
    with jax.enable_x64(True):
        attention = SelfAttention(16, 4, n_kv_head=2, key=jax.random.key(0))
        x = jax.random.normal(jax.random.key(1), (SEQ, 16), jnp.float64)
        for ids in packed.segment_ids:
            parts = [attention.heads(x[ids == number]) for number in np.unique(ids)]
            for found, alone in zip(attention.heads(x, jnp.asarray(ids)), zip(*parts, strict=True), strict=True):
                np.testing.assert_allclose(found, np.concatenate(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "options"),
    [((2, 2, 1), {}), ((1, 1, 2), {"remat": True}), ((1, 2, 2), {"attention_backend": "auto", "n_kv_head": 1})],
    ids=str,
)
def test_step_on_a_mesh_is_that_of_the_documents(packed, shape, options):
    mesh = mesh_of(shape)
    params, static = eqx.partition(randomised(shapes_of(**options)), eqx.is_inexact_array)
    combine = lambda params: eqx.combine(params, static)  # noqa: E731
    gradient = jax.jit(outcome_of(combine, mesh))
    outcome = gradient(with_arrays(params, mesh), shard_batch(packed, mesh))
    with jax.enable_x64(True):
        model = in_float64(options)
        loss, expected = eqx.filter_value_and_grad(lambda m: one_by_one(m, packed) / packed.mask.sum())(model)
    assert float(outcome.loss) == pytest.approx(float(loss), rel=1e-5)
    assert furthest(outcome.grads, eqx.filter(expected, eqx.is_inexact_array)) < 1e-4


def with_arrays(params, mesh):
    specs = partition_specs(params, mesh)
    return jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), params, with_specs(params, specs, mesh))


class Alone(eqx.Module):
    """A model that knows nothing of segments."""

    table: jax.Array

    def __call__(self, tokens):
        return self.table[tokens]


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
    model = nn.Transformer(**LLAMA, key=jax.random.key(0))
    values, weights = task.loss(model, packed)
    assert float((values * weights).sum()) == pytest.approx(float(summed_losses(model, packed)[1]), rel=1e-5)


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
