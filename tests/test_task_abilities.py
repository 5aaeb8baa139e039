"""What a task may have besides a model, data and a loss: frozen parts, its own evaluation, integer arrays; and functions."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equimu as mu

pytestmark = pytest.mark.usefixtures("light_compilation")

X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
Y = (X[:, :2] * X[:, 2:]).astype(np.float32)


class Net(eqx.Module):
    embed: eqx.nn.Linear
    hidden: eqx.nn.Linear
    readout: eqx.nn.Linear
    order: jax.Array  # of the inputs: integers, which nobody trains

    def __init__(self, width, *, key):
        keys = jax.random.split(key, 3)
        self.embed = eqx.nn.Linear(4, width, key=keys[0])
        self.hidden = eqx.nn.Linear(width, width, key=keys[1])
        self.readout = eqx.nn.Linear(width, 2, key=keys[2])
        self.order = jnp.array([3, 2, 1, 0])

    def __call__(self, x):
        return self.readout(jax.nn.relu(self.hidden(jax.nn.relu(self.embed(x[self.order])))))


@dataclasses.dataclass(frozen=True)
class Products(mu.Task):
    frozen: bool = False

    def make(self, width: int = 16, *, key):
        return Net(width, key=key)

    def data(self):
        return mu.data.arrays(X, Y, rows=8, validation=0.25)

    def loss(self, model, batch):
        x, y = batch
        return (jax.vmap(model)(x) - y) ** 2

    def trained(self, model):
        return eqx.tree_at(lambda m: m.hidden, jax.tree.map(lambda _: True, model), replace=not self.frozen)


@dataclasses.dataclass(frozen=True)
class Evaluated(Products):
    def evaluate(self, model, batch):
        x, y = batch
        return jnp.abs(jax.vmap(model)(x) - y)


def trained(task, out, **fields):
    return mu.train(task, {"width": 16}, steps=4, out=out, **fields)


def at_rest(task, out):
    """The validation loss of a run that moves nothing, and the same of the model that it starts with, by NumPy."""
    run = trained(task, out, optimizer=mu.AdamW(learning_rate=0.0), seed=3)
    sizes = {"width": 16}
    model = mu.initialize(mu.parameterize(Net, mu.mup(), base=sizes, target=sizes), jax.random.key(3))
    weights = [
        (np.asarray(layer.weight), np.asarray(layer.bias)) for layer in (model.embed, model.hidden, model.readout)
    ]
    held_out = task.data().validation()
    misses = []
    for number in range(len(held_out)):
        x, y = held_out.batch(number)
        z = x[:, ::-1]
        for i, (weight, bias) in enumerate(weights):
            z = z @ weight.T + bias
            z = np.maximum(z, 0) if i < 2 else z
        misses.append(z - y)
    return run.validation_loss, np.concatenate(misses)


@pytest.mark.long
def test_frozen_parts_stay_where_they_start(tmp_path):
    free, frozen = (trained(Products(frozen=each), tmp_path) for each in (False, True))
    for run, moves in ((free, True), (frozen, False)):
        leaves = run.rows[0]["leaves"]
        assert {path: leaf["update_rms"] > 0 for path, leaf in leaves.items()} == {
            "embed.weight": True,
            "embed.bias": True,
            "hidden.weight": moves,
            "hidden.bias": moves,
            "readout.weight": True,
            "readout.bias": True,
        }
    assert free.folder != frozen.folder


def test_validation_is_the_mean_of_the_loss_over_all_that_is_held_out(tmp_path):
    found, misses = at_rest(Products(), tmp_path)
    assert len(misses) == 16
    assert found == pytest.approx(np.mean(misses**2), rel=1e-5)


def test_an_evaluation_of_its_own_is_what_validation_reports(tmp_path):
    found, misses = at_rest(Evaluated(), tmp_path)
    assert found == pytest.approx(np.mean(np.abs(misses)), rel=1e-5)


def test_a_task_of_functions_trains_as_its_class_does(tmp_path):
    one = Products()
    functions = mu.task(name="products", make=one.make, data=one.data(), loss=one.loss)
    assert [row["loss"] for row in trained(functions, tmp_path).rows[:-1]] == [
        row["loss"] for row in trained(one, tmp_path).rows[:-1]
    ]
    assert trained(functions, tmp_path).task == "products"


@pytest.mark.parametrize("loss", [lambda model, batch: jnp.float32(0), lambda model, batch: "nothing"])
def test_a_loss_that_is_none_is_one_line(loss, tmp_path):
    wrong = mu.task(name="wrong", make=Products().make, data=Products().data(), loss=loss)
    with pytest.raises(mu.EquimuError, match=r"FunctionTask.loss gives"):
        trained(wrong, tmp_path)
    assert not list(tmp_path.iterdir())
