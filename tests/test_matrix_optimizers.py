"""Adafactor and Muon: against optax on single matrices, in both orientations, and on stacks."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equimu import EquimuError, adafactor, muon, mup, nn, parameterize, sgd, sp, spectral
from equimu.optim import optimizer_from_dict
from equimu.parameterization import rules_of

pytestmark = pytest.mark.usefixtures("light_compilation")

SIZES = {"base": {"d_model": 16}, "target": {"d_model": 32}}
make = functools.partial(nn.Transformer, vocab_size=11, n_layer=3, head_dim=8, use_bias=True)


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def draw(tree, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda rule: jnp.asarray(scale * rng.normal(size=rule.shape)), tree)


def steps(optimizer, params, gradients):
    """Updates of each step, by the optimizer."""
    state, found = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        found.append(updates)
    return found


def by_path(tree, arrays):
    return {rule.path: a for rule, a in zip(rules_of(tree), jax.tree.leaves(arrays), strict=True)}


@pytest.mark.long
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_adafactor_is_optax_on_each_matrix_of_a_stack(momentum):
    tree = parameterize(make, sp(optimizer="adafactor"), **SIZES)
    params, gradients = draw(tree, 0), [draw(tree, seed) for seed in (1, 2, 3)]
    plain = optax.adafactor(0.1, min_dim_size_to_factor=8, momentum=momentum, dtype_momentum=float, eps=1e-30)
    found = steps(adafactor(tree, learning_rate=0.1, min_dim_size_to_factor=8, momentum=momentum), params, gradients)
    for rule in rules_of(tree):
        stack = range(3) if rule.path.startswith("blocks.") else [...]
        for layer in stack:
            mine = [by_path(tree, x)[rule.path][layer] for x in (params, *gradients)]
            expected = steps(plain, mine[0], mine[1:])
            for updates, u in zip(found, expected, strict=True):
                np.testing.assert_allclose(by_path(tree, updates)[rule.path][layer], u, rtol=1e-10, err_msg=rule.path)


def test_adafactors_step_is_relative_to_the_weight_as_the_forward_pass_sees_it():
    """A weight that starts at zero moves by `min_scale` of what is seen, whatever the multiplier."""
    scheme = sp(optimizer="adafactor").replace("vector", multiplier=8.0)
    tree = parameterize(make, scheme, **SIZES)
    params = jax.tree.map(lambda rule: jnp.zeros(rule.shape), tree)
    (updates,) = steps(adafactor(tree, learning_rate=1.0, min_scale=1e-2), params, [draw(tree, 1)])
    for rule, u in zip(rules_of(tree), jax.tree.leaves(updates), strict=True):
        np.testing.assert_allclose(jnp.abs(u).max() * rule.multiplier, 1e-2, rtol=1e-6, err_msg=rule.path)


def orthogonal(x):
    """The nearest orthonormal matrix, by singular values."""
    u, _, v = np.linalg.svd(x, full_matrices=False)
    return u @ v


def test_muon_orthogonalises_each_matrix_of_a_stack():
    tree = parameterize(make, spectral(optimizer="muon"), **SIZES)
    gradient = draw(tree, 1)
    (updates,) = steps(muon(tree, learning_rate=0.5, ns_steps=30, eps=0.0), draw(tree, 0), [gradient])
    for rule in rules_of(tree):
        if rule.role != "hidden":
            continue
        for u, g in zip(by_path(tree, updates)[rule.path], by_path(tree, gradient)[rule.path], strict=True):
            # optax's iteration settles at singular values of 0.7 to 1.2 and not at 1; directions are those of the gradient
            d_in, d_out = u.shape
            values = np.linalg.svd(np.asarray(u), compute_uv=False) / (0.5 * np.sqrt(d_out / d_in))
            assert 0.6 < values.min() and values.max() < 1.3, rule.path
            cosine = -np.sum(u * orthogonal(np.asarray(g))) / np.linalg.norm(u) / np.sqrt(min(u.shape))
            assert cosine > 0.97


def layers(d_model, *, key):
    keys = jax.random.split(key, 3)
    return [
        eqx.nn.Linear(*sizes, key=k)
        for sizes, k in zip(((5, d_model), (d_model,) * 2, (d_model, 3)), keys, strict=True)
    ]


def wide(d_model, *, key):
    first, second = jax.random.split(key)
    up = eqx.nn.Linear(d_model, 4 * d_model, key=first)
    return [eqx.nn.Conv1d(d_model, 2 * d_model, 3, key=second), up]


def test_muon_knows_which_axes_are_summed():
    """√(fan_out / fan_in) the right way round on (out, in) matrices, and a kernel's positions count in the fan-in."""
    tree = parameterize(wide, spectral(optimizer="muon"), **SIZES)
    (updates,) = steps(muon(tree, learning_rate=1.0, eps=0.0), draw(tree, 0), [draw(tree, 1)])
    conv, linear = np.asarray(updates[0].weight), np.asarray(updates[1].weight)
    assert np.linalg.norm(linear, 2) == pytest.approx(2.0, rel=0.25)  # √(4n / n)
    assert np.linalg.norm(conv.reshape(64, 96), 2) == pytest.approx(np.sqrt(2 / 3), rel=0.25)


def test_muon_trains_all_that_is_no_hidden_matrix_with_adam_at_its_own_rate():
    tree = parameterize(layers, mup(optimizer="muon"), **SIZES)
    params, gradients = draw(tree, 0), [draw(tree, seed) for seed in (1, 2)]
    plain = optax.chain(optax.scale_by_adam(b1=0.9, b2=0.95, eps=0.0), optax.scale(-1.0))
    found = steps(muon(tree, learning_rate=0.5, adam_learning_rate=0.1, eps=0.0), params, gradients)
    expected = steps(plain, params, gradients)
    for updates, u in zip(found, expected, strict=True):
        for rule, ours, theirs in zip(rules_of(tree), jax.tree.leaves(updates), jax.tree.leaves(u), strict=True):
            if rule.role != "hidden":
                np.testing.assert_allclose(ours, 0.1 * rule.lr * theirs, rtol=1e-10, err_msg=rule.path)


@pytest.mark.parametrize(("optimizer", "family"), [(adafactor, "adafactor"), (muon, "muon")])
def test_trees_of_another_family_are_refused(optimizer, family):
    with pytest.raises(EquimuError, match=f"{optimizer.__name__} was given a tree .*optimizer='{family}'"):
        optimizer(parameterize(layers, mup(), **SIZES), learning_rate=0.1)
    with pytest.raises(EquimuError, match="sgd was given a tree"):
        sgd(parameterize(layers, mup(optimizer=family), **SIZES), learning_rate=0.1)


@pytest.mark.long
@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_runs_of_these_optimizers_are_the_same_on_a_mesh(name, tmp_path, corpus):
    import dataclasses

    from runs import small_run

    from equimu import RuntimeConfig, train

    config = small_run(corpus, width=32, name="mup", steps=4)
    optimizer = optimizer_from_dict({"name": name, "learning_rate": config.optimizer.learning_rate})
    config = dataclasses.replace(config, optimizer=optimizer)
    with jax.enable_x64(False):
        alone = train(config, out=tmp_path / "alone")
        mesh = train(config, out=tmp_path / "mesh", runtime=RuntimeConfig(data=2, fsdp=2, tensor=2))
    assert mesh.validation_loss == pytest.approx(alone.validation_loss, rel=1e-5)
