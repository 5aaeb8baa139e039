"""The optimizers against the paper's update rule, written down a second time in numpy with plain loops.

The order is that of the reference code of arXiv 2404.05728: clip by the global norm of the raw gradients; Adam or Lion
for each leaf; coupled decay; the leaf's learning rate; independent decay; and the schedule on everything.
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from equimu import (
    EquimuError,
    adamw,
    initialize,
    lion,
    multi_transform,
    mup,
    nn,
    parameterize,
    sgd,
    sp,
    tpv,
    warmup_schedule,
)
from equimu.parameterization import numbers_of, rules_of, with_numbers

pytestmark = pytest.mark.usefixtures("light_compilation")

make = functools.partial(nn.Transformer, vocab_size=11, n_layer=2, head_dim=4, norm_gain="vector", n_kv_head=1)
BASE, WIDTH, STEPS = 8, 20, 30
SIZES = {"base": {"d_model": BASE}, "target": {"d_model": WIDTH}}
MATRICES = ("query", "key", "value", "output", "up", "down", "unembedding")


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def build(scheme):
    with jax.enable_x64(True):
        return parameterize(make, scheme, **SIZES)


def arrays(tree, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda rule: jnp.asarray(scale * rng.normal(size=rule.shape)), tree)


def gradients(tree):
    """Of sizes that differ from step to step, so that some steps are clipped and some are not."""
    return [arrays(tree, 100 + step, scale=0.008 * (1 + step % 3)) for step in range(STEPS)]


def by_path(tree, model):
    return {
        rule.path: np.asarray(x, np.float64)
        for rule, x in zip(jax.tree.leaves(tree), jax.tree.leaves(model), strict=True)
    }


def trained(tree, optimizer, steps=STEPS):
    """The parameters after each step."""
    params, found = arrays(tree, 0), []
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for gradient in gradients(tree)[:steps]:
        updates, state = update(gradient, state, params)
        params = eqx.apply_updates(params, updates)
        found.append(by_path(tree, params))
    return found


def paper_rate(path, form):
    """The leaf's factor on the learning rate: all matrices but the embedding follow the width."""
    if path.endswith(".weight") and path.split(".")[-2] in MATRICES:
        fan_in = 4 * WIDTH if path.endswith("down.weight") else WIDTH
        return BASE / WIDTH if form == "relative" else 1 / fan_in
    return 1.0


def paper_schedule(n, total, warmup, shape, floor=1e-4):
    if n < warmup:
        return floor + (1 - floor) * n / warmup
    f = (n - warmup) / (total - warmup)
    return {"linear": 1 - (1 - floor) * f, "cosine": floor + (1 - floor) * (1 + np.cos(np.pi * f)) / 2, "constant": 1}[
        shape
    ]


def paper(
    tree,
    *,
    optimizer,
    rate,
    b1,
    b2,
    eps=0.0,
    eps_follows_rate=False,
    coupled=0.0,
    independent=0.0,
    clip=None,
    total=STEPS,
    warmup=0,
    shape="constant",
    form="relative",
):
    """The parameters after each step, as the reference code updates them."""
    p = by_path(tree, arrays(tree, 0))
    m, v = ({path: np.zeros_like(x) for path, x in p.items()} for _ in range(2))
    found = []
    for n, gradient in enumerate(gradients(tree)):
        g = by_path(tree, gradient)
        norm = np.sqrt(sum((x * x).sum() for x in g.values()))
        shrink = 1.0 if clip is None or norm <= clip else clip / norm
        p = dict(p)
        for path in p:
            x, own = g[path] * shrink, paper_rate(path, form)
            if optimizer == "adam":
                m[path] = b1 * m[path] + (1 - b1) * x
                v[path] = b2 * v[path] + (1 - b2) * x * x
                first, second = m[path] / (1 - b1 ** (n + 1)), v[path] / (1 - b2 ** (n + 1))
                a = first / (np.sqrt(second) + eps * (own if eps_follows_rate else 1))
            elif optimizer == "lion":
                a = np.sign(b1 * m[path] + (1 - b1) * x)
                m[path] = b2 * m[path] + (1 - b2) * x
            a = a + coupled * p[path]
            u = -rate * own * a
            u = u - independent * p[path]
            p[path] = p[path] + paper_schedule(n, total, warmup, shape) * u
        found.append(p)
    return found


def assert_same(found, expected, rtol):
    assert len(found) == len(expected)
    for n, (a, b) in enumerate(zip(found, expected, strict=True)):
        for path in b:
            np.testing.assert_allclose(a[path], b[path], rtol=rtol, atol=rtol, err_msg=f"{path}, step {n}")


# --- the paper's runs

SCHEDULE = {"total": STEPS, "warmup": 7}
RUNS = {
    "baseline": (
        mup(eps="constant"),
        lambda tree: adamw(
            tree, learning_rate=2**-6, eps=1e-8, clip_norm=1.0, schedule=warmup_schedule(**SCHEDULE, decay="linear")
        ),
        dict(optimizer="adam", rate=2**-6, b1=0.9, b2=0.95, eps=1e-8, clip=1.0, **SCHEDULE, shape="linear"),
    ),
    "absolute, cosine, coupled decay": (
        mup("absolute", eps="constant", decay="standard"),
        lambda tree: adamw(
            tree,
            learning_rate=0.25,
            b2=0.98,
            weight_decay=0.1,
            decay="standard",
            clip_norm=1.0,
            schedule=warmup_schedule(**SCHEDULE, decay="cosine"),
        ),
        dict(
            optimizer="adam",
            rate=0.25,
            b1=0.9,
            b2=0.98,
            eps=1e-8,
            coupled=0.1,
            clip=1.0,
            **SCHEDULE,
            shape="cosine",
            form="absolute",
        ),
    ),
    "independent decay, epsilon like the rate": (
        mup(eps="lr"),
        lambda tree: adamw(
            tree,
            learning_rate=2**-6,
            eps=1e-2,
            weight_decay=1e-3,
            decay="independent",
            schedule=warmup_schedule(**SCHEDULE, decay="linear"),
        ),
        dict(
            optimizer="adam",
            rate=2**-6,
            b1=0.9,
            b2=0.95,
            eps=1e-2,
            eps_follows_rate=True,
            independent=1e-3,
            **SCHEDULE,
            shape="linear",
        ),
    ),
    "lion, absolute, independent decay": (
        mup("absolute", optimizer="sign"),
        lambda tree: lion(
            tree,
            learning_rate=2**-8,
            b1=0.95,
            b2=0.98,
            weight_decay=1e-4,
            decay="independent",
            clip_norm=1.0,
            schedule=warmup_schedule(**SCHEDULE, decay="linear"),
        ),
        dict(
            optimizer="lion",
            rate=2**-8,
            b1=0.95,
            b2=0.98,
            independent=1e-4,
            clip=1.0,
            **SCHEDULE,
            shape="linear",
            form="absolute",
        ),
    ),
}


@pytest.mark.parametrize("run", RUNS)
def test_run_configured_like_the_papers_reproduces_its_update_rule(run):
    scheme, optimizer, rule = RUNS[run]
    tree = build(scheme)
    # the schedule is a float32 number: 6e-8 of each update, of which the largest sum up to one or so
    assert_same(trained(tree, optimizer(tree)), paper(tree, **rule), rtol=2e-7)


def test_norms_of_the_test_lie_on_both_sides_of_the_clip():
    norms = [float(optax.tree.norm(g)) for g in gradients(build(mup()))[:3]]
    assert min(norms) < 1.0 < max(norms)


# --- SGD, decay, clipping: formulas of their own


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum_is_its_formula(nesterov):
    tree = build(tpv(3, optimizer="sgd"))
    rates = {rule.path: rule.lr for rule in rules_of(tree)}
    assert rates["embedding.weight"] == 2.5 and rates["unembedding.weight"] == 0.4
    found = trained(tree, sgd(tree, learning_rate=0.1, momentum=0.8, nesterov=nesterov), steps=5)
    p = by_path(tree, arrays(tree, 0))
    m = {path: 0.0 for path in p}
    expected = []
    for gradient in gradients(tree)[:5]:
        g = by_path(tree, gradient)
        m = {path: g[path] + 0.8 * m[path] for path in p}
        p = {path: p[path] - 0.1 * rates[path] * (g[path] + 0.8 * m[path] if nesterov else m[path]) for path in p}
        expected.append(p)
    assert_same(found, expected, rtol=1e-12)


RATE, DECAY, AT_HALF = 0.25, 0.125, lambda n: 0.5
SHRINK = {
    "standard": lambda lr, own: 0.5 * RATE * lr * DECAY * own,
    "scaled": lambda lr, own: 0.5 * RATE * DECAY * own,
    "independent": lambda lr, own: 0.5 * DECAY * own,
}


@pytest.mark.parametrize("decay", SHRINK)
@pytest.mark.parametrize("name", ["adamw", "lion", "sgd"])
def test_decay_shrinks_every_leaf_by_its_rules_factor(name, decay):
    make_optimizer, family = {"adamw": (adamw, "adam"), "lion": (lion, "sign"), "sgd": (sgd, "sgd")}[name]
    tree = build(
        mup(optimizer=family, decay=decay).replace("hidden", weight_decay=3.0).replace("vector", weight_decay=0.0)
    )
    optimizer = make_optimizer(tree, learning_rate=RATE, weight_decay=DECAY, decay=decay, schedule=AT_HALF)
    params = arrays(tree, 0)
    nothing = jax.tree.map(jnp.zeros_like, params)  # Adam's 0 / (0 + ε) and Lion's sign(0) are 0
    updates, _ = optimizer.update(nothing, optimizer.init(params), params)
    for rule, p, u in zip(rules_of(tree), jax.tree.leaves(params), jax.tree.leaves(updates), strict=True):
        own = {"hidden": 3.0, "vector": 0.0}.get(rule.role, 1.0)
        np.testing.assert_allclose(u, -SHRINK[decay](rule.lr, own) * p, rtol=1e-12, err_msg=rule.path)


def test_decay_of_another_rule_than_the_trees_is_refused():
    with pytest.raises(
        EquimuError, match="'standard' was given for a tree whose decay is 'independent'.*mup.decay='standard'"
    ):
        adamw(build(mup()), learning_rate=0.1, weight_decay=0.1, decay="standard")


def test_clip_uses_the_global_norm_over_all_groups():
    tree = build(mup(optimizer="sgd"))
    params, gradient = arrays(tree, 0), arrays(tree, 1)
    norm = np.sqrt(sum((x**2).sum() for x in by_path(tree, gradient).values()))
    for clip in (norm / 4, 4 * norm):
        optimizer = sgd(tree, learning_rate=1.0, clip_norm=clip)
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        for rule, g, u in zip(rules_of(tree), jax.tree.leaves(gradient), jax.tree.leaves(updates), strict=True):
            np.testing.assert_allclose(u, -rule.lr * min(1.0, clip / norm) * g, rtol=1e-12)


@pytest.mark.parametrize("mu_dtype", [None, jnp.bfloat16])
def test_standard_parameterization_is_plain_optax(mu_dtype):
    tree = build(sp(decay="standard"))
    plain = optax.adamw(0.01, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.1, mu_dtype=mu_dtype)
    ours = adamw(
        tree, learning_rate=0.01, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.1, decay="standard", mu_dtype=mu_dtype
    )
    assert_same(trained(tree, ours, 5), trained(tree, plain, 5), rtol=1e-13)


@pytest.mark.parametrize(
    ("make_optimizer", "family"),
    [(adamw, "adam"), (lion, "sign"), (functools.partial(sgd, momentum=0.9), "sgd")],
)
def test_first_moment_has_the_dtype_asked_for_and_the_second_its_own(make_optimizer, family):
    tree = build(mup(optimizer=family))
    params = arrays(tree, 0)
    optimizer = make_optimizer(tree, learning_rate=0.1, mu_dtype=jnp.bfloat16)
    _, state = jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), params)
    dtypes = [x.dtype for x in jax.tree.leaves(state) if x.ndim]
    leaves = len(jax.tree.leaves(params))
    assert dtypes.count(jnp.bfloat16) == leaves
    assert dtypes.count(jnp.float64) == (leaves if family == "adam" else 0)


# --- groups


def test_leaves_of_one_rule_share_a_transformation():
    seen = []

    def factory(rule):
        seen.append(rule.path)
        return optax.sgd(rule.lr)

    multi_transform(parameterize(functools.partial(make, norm_gain="none", n_kv_head=None), mup(), **SIZES), factory)
    # the embedding; the five (n, n) and (n, 4n) matrices by their dimensions; down; the unembedding
    assert seen == [
        "embedding.weight",
        "blocks.attention.query.weight",
        "blocks.mlp.up.weight",
        "blocks.mlp.down.weight",
        "unembedding.weight",
    ]


def test_any_optax_optimizer_can_be_used_and_gets_extra_arguments():
    tree = build(mup())
    params, gradient = arrays(tree, 0), arrays(tree, 1)
    optimizer = multi_transform(tree, lambda rule: optax.rmsprop(0.1 * rule.lr, eps_in_sqrt=False))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    for rule, g, u in zip(rules_of(tree), jax.tree.leaves(gradient), jax.tree.leaves(updates), strict=True):
        expected = -0.1 * rule.lr * g / (np.sqrt(0.1 * np.asarray(g) ** 2) + 1e-8)
        np.testing.assert_allclose(u, expected, rtol=1e-6)


def test_edited_rule_is_respected_and_no_other_leaf_moves_with_it():
    tree = build(mup(optimizer="sgd"))
    edited = eqx.tree_at(lambda t: t.blocks.attention.key.weight, tree, replace_fn=_with_rate(0.0))
    edited = eqx.tree_at(lambda t: t.blocks.attention.value.weight, edited, replace_fn=_with_rate(7.0))
    params, gradient = arrays(tree, 0), arrays(tree, 1)
    optimizer = sgd(edited, learning_rate=0.1)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    found, g = by_path(tree, updates), by_path(tree, gradient)
    assert np.all(found["blocks.attention.key.weight"] == 0)
    np.testing.assert_allclose(found["blocks.attention.value.weight"], -0.7 * g["blocks.attention.value.weight"])
    np.testing.assert_allclose(found["blocks.attention.query.weight"], -0.1 * g["blocks.attention.query.weight"])


def _with_rate(lr):
    return lambda rule: dataclasses.replace(rule, lr=lr)


def test_traced_numbers_of_one_value_are_grouped_by_identity_never_compared():
    tree = build(mup(optimizer="sgd"))
    groups = []

    def count(numbers):
        seen = []
        multi_transform(with_numbers(tree, numbers), lambda rule: seen.append(rule.path) or optax.sgd(rule.lr))
        groups.append(len(seen))

    jax.eval_shape(count, numbers_of(tree))
    assert groups == [len(rules_of(tree))]


def test_rates_decay_and_lengths_are_run_time_values_of_one_compilation():
    tree = build(mup(optimizer="sgd"))
    params, gradient = arrays(tree, 0), arrays(tree, 1)
    traces = 0

    @jax.jit
    def first_update(learning_rate, weight_decay, total, warmup, clip, numbers):
        nonlocal traces
        traces += 1
        optimizer = sgd(
            with_numbers(tree, numbers),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            decay="independent",
            schedule=warmup_schedule(total=total, warmup=warmup, decay="cosine"),
            clip_norm=clip,
        )
        return optimizer.update(gradient, optimizer.init(params), params)[0]

    numbers = numbers_of(tree)
    norm = float(optax.tree.norm(gradient))
    for rate, decay, warmup, clip in ((0.1, 0.0, 0, 1e9), (0.3, 0.5, 10, 1e9), (0.2, 0.1, 0, norm / 3)):
        found = first_update(rate, decay, 20, warmup, clip, numbers)
        start = 1e-4 if warmup else 1.0
        for rule, p, g, u in zip(rules_of(tree), *map(jax.tree.leaves, (params, gradient, found)), strict=True):
            expected = -start * (rate * rule.lr * min(1, clip / norm) * g + decay * p)
            np.testing.assert_allclose(u, expected, rtol=1e-6)
    assert traces == 1


@pytest.mark.parametrize(
    ("make_optimizer", "families"),
    [(adamw, ("sign", "sgd")), (lion, ("sgd",)), (sgd, ("adam", "sign"))],
)
def test_tree_for_another_family_is_refused(make_optimizer, families):
    for family in families:
        with pytest.raises(EquimuError, match=rf"{make_optimizer.__name__} was given a tree .*optimizer='{family}'"):
            make_optimizer(build(mup(optimizer=family)), learning_rate=0.1)


def test_lion_takes_a_tree_for_adam_whose_rates_are_the_same():
    adam, sign = build(mup()), build(mup(optimizer="sign"))
    assert [r.lr for r in rules_of(adam)] == [r.lr for r in rules_of(sign)]
    assert_same(trained(adam, lion(adam, learning_rate=0.1), 2), trained(sign, lion(sign, learning_rate=0.1), 2), 1e-15)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be at least 0, got -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite"),
        ({"learning_rate": 0.1, "weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"learning_rate": 0.1, "clip_norm": float("inf")}, "clip_norm must be finite"),
    ],
)
def test_number_that_makes_no_sense_is_refused(numbers, words):
    with pytest.raises(EquimuError, match=words):
        adamw(build(mup()), **numbers)


# --- schedule


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("total", "warmup", "floor"), [(20, 5, 1e-4), (10, 0, 0.1), (7, 6, 0.0)])
def test_schedule_is_the_papers_formula(shape, total, warmup, floor):
    schedule = warmup_schedule(total=total, warmup=warmup, decay=shape, floor=floor)
    found = [float(schedule(n)) for n in range(total + 1)]
    expected = [paper_schedule(n, total, warmup, shape, floor) for n in range(total + 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert found[warmup] == 1.0 and found[0] == pytest.approx(floor if warmup else 1.0)


def test_schedule_stays_at_its_floor_after_the_end():
    schedule = warmup_schedule(total=10, warmup=2)
    assert float(schedule(10)) == float(schedule(15)) == pytest.approx(1e-4)


def test_state_of_an_optimizer_holds_one_moment_of_each_kind_for_each_leaf():
    tree = build(mup())
    state = jax.eval_shape(adamw(tree, learning_rate=0.1, weight_decay=0.1).init, arrays(tree, 0))
    entries = sum(x.size for x in jax.tree.leaves(state) if x.ndim)
    assert entries == 2 * sum(x.size for x in jax.tree.leaves(arrays(tree, 0)))


def test_parameters_of_another_model_are_an_error():
    def make(d_model, *, key):
        return eqx.nn.MLP(3, 2, d_model, depth=1, key=key)

    tree = parameterize(make, mup(), base={"d_model": 4}, target={"d_model": 8})
    other = parameterize(make, mup(), base={"d_model": 4}, target={"d_model": 16})
    params = eqx.filter(initialize(other, jax.random.key(0)), eqx.is_inexact_array)
    with pytest.raises(EquimuError, match=r"not the arrays of the 4 rules of the tree: layers.0..weight is an array"):
        adamw(tree, learning_rate=0.1).init(params)
