"""The tables beyond SP and TP-V against their published formulas, written down a second time as numbers.

Everett: arXiv 2407.05872. CompleteP: 2505.01618. Complete(d)P: 2512.22382, Table 1. u-μP: 2407.17465. Spectral: 2310.17813.
n is the width, m = n / n_base, mL = L / L_base; i and o are a leaf's fan-in and fan-out.
"""

import functools
import itertools
from math import prod, sqrt

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equimu import (
    EquimuError,
    adamw,
    completed_p,
    completep,
    depth_mup,
    everett,
    initialize,
    mean_field,
    mup,
    nn,
    ntk,
    parameterize,
    scaled,
    sp,
    spectral,
    tpv,
    umup,
)
from equimu.parameterization import depth, fan_out, layer_fan_in, rules_of

BASE, N, BASE_L, L, VOCAB = 16, 48, 2, 6, 11
M, ML = N / BASE, L / BASE_L

pytestmark = pytest.mark.usefixtures("light_compilation", "traced_once")

make = functools.partial(nn.Transformer, vocab_size=VOCAB, head_dim=8, use_bias=True, norm_gain="vector", qk_norm=True)
SIZES = {"base": {"d_model": BASE, "n_layer": BASE_L}, "target": {"d_model": N, "n_layer": L}}
FAMILIES = ("adam", "sign", "sgd", "adafactor", "muon")


def rules(scheme, **ratios):
    return rules_of(parameterize(make, scheme, **SIZES, **ratios))


def kind(rule):
    """A leaf's role, and whether it is in a block, a bias, or at the end of a residual branch."""
    inside = rule.path.startswith("blocks.")
    ends = rule.path.startswith(("blocks.attention.output.", "blocks.mlp.down."))
    return rule.role, inside, ends


def fans(rule):
    """Fan-in and fan-out from the leaf's shape; biases and gains have fan-in 1."""
    shape = rule.shape[1:] if rule.path.startswith("blocks.") else rule.shape
    if rule.path == "embedding.weight":
        return 1, shape[1]
    return (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])


# --- Everett

EXPONENTS = {
    # name: (standard deviation, multiplier) of input, hidden, output as powers of n
    "sp": ((0, 0), (-0.5, 0), (-0.5, 0)),
    "ntk": ((0, 0), (0, -0.5), (0, -0.5)),
    "mup": ((-0.5, 0.5), (-0.5, 0), (-0.5, -0.5)),
    "mean-field": ((0, 0), (0, -0.5), (0, -1)),
}
RATES = {
    ("sp", "adam", "full"): (0, -1, -1),
    ("sp", "adam", "none"): (0, -0.5, -0.5),
    ("sp", "sgd", "full"): (0.5, -0.5, -1),
    ("sp", "sgd", "none"): (0.5, 0, -0.5),
    ("ntk", "adam", "full"): (0, -0.5, -0.5),
    ("ntk", "adam", "none"): (0, 0, 0),
    ("ntk", "sgd", "full"): (0.5, 0.5, 0),
    ("ntk", "sgd", "none"): (0.5, 1, 0.5),
    ("mup", "adam", "full"): (-0.5, -1, -0.5),
    ("mup", "adam", "none"): (-0.5, -0.5, 0),
    ("mup", "sgd", "full"): (0, 0, 0),
    ("mup", "sgd", "none"): (0, 0.5, 0.5),
    ("mean-field", "adam", "full"): (0, -0.5, 0),
    ("mean-field", "adam", "none"): (0, 0, 0.5),
    ("mean-field", "sgd", "full"): (1, 1, 1),
    ("mean-field", "sgd", "none"): (1, 1.5, 1.5),
}


@pytest.mark.parametrize(("name", "optimizer", "alignment"), RATES)
def test_everetts_exponents(name, optimizer, alignment):
    rates = dict(zip(("input", "hidden", "output"), RATES[name, optimizer, alignment], strict=True))
    powers = dict(zip(("input", "hidden", "output"), EXPONENTS[name], strict=True))
    for rule in rules(everett(name, alignment, optimizer=optimizer)):
        if rule.role in rates:
            std, multiplier = powers[rule.role]
            n = fans(rule)[1 if rule.role == "input" else 0]
            assert rule.init_mean != 0 or rule.init_std == pytest.approx(n**std)
            assert rule.multiplier == pytest.approx(n**multiplier)
            assert rule.lr == pytest.approx(M ** rates[rule.role])


@pytest.mark.parametrize("name", EXPONENTS)
def test_adafactors_exponent_is_adams_less_that_of_the_deviation(name):
    powers = dict(zip(("input", "hidden", "output"), EXPONENTS[name], strict=True))
    adam = {rule.path: rule.lr for rule in rules(everett(name))}
    for rule in rules(everett(name, optimizer="adafactor")):
        if rule.role in powers:
            assert rule.lr == pytest.approx(adam[rule.path] * M ** -powers[rule.role][0])


@pytest.mark.parametrize(("one", "other"), [("sp", "ntk"), ("mup", "mean-field")])
@pytest.mark.parametrize(("optimizer", "power"), [("adam", 1), ("sgd", 2)])
def test_what_training_depends_on_is_the_same_up_to_constants(one, other, optimizer, power):
    """Deviation, rate and epsilon as the forward weight has them grow alike with the width in equivalent tables."""

    def seen(name, width):
        sizes = {"base": SIZES["base"], "target": {"d_model": width, "n_layer": L}}
        tree = parameterize(make, everett(name, optimizer=optimizer), **sizes)
        return {
            r.path: (r.init_std * r.multiplier, r.lr * r.multiplier**power, r.eps / r.multiplier)
            for r in rules_of(tree)
        }

    growth = [
        {
            path: np.divide(b, a, where=np.array(a) > 0, out=np.ones(3))
            for (path, b), a in zip(large.items(), small.values(), strict=True)
        }
        for small, large in ((seen(name, 48), seen(name, 192)) for name in (one, other))
    ]
    for path in growth[0]:
        what = slice(0, 3) if optimizer == "adam" else slice(0, 2)
        np.testing.assert_allclose(growth[0][path][what], growth[1][path][what], rtol=1e-12, err_msg=path)


def test_ntk_is_the_standard_draw_with_one_rate():
    for rule, before in zip(rules(ntk()), rules(sp()), strict=True):
        assert rule.init_std * rule.multiplier == pytest.approx(before.init_std)
        assert rule.lr == 1
        assert rule.role not in ("hidden", "output") or rule.init_std == 1


def test_mean_field_is_everetts():
    for rule, other in zip(rules(mean_field()), rules(everett("mean-field")), strict=True):
        assert (rule.init_std, rule.multiplier, rule.lr, rule.eps) == (
            other.init_std,
            other.multiplier,
            other.lr,
            other.eps,
        )


# --- depth


@pytest.mark.parametrize("alpha", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("decay", ["standard", "independent"])
def test_completep(alpha, decay):
    for rule in rules(completep(alpha, decay=decay)):
        role, inside, ends = kind(rule)
        branch = ML**-alpha if ends else 1
        std, multiplier, lr, wd, eps = {
            "hidden": (1 / sqrt(fans(rule)[0]), branch, ML ** (alpha - 1) / M, M, ML**-alpha / M),
            "input": (1, 1, 1, 1, 1 / M),
            "output": (1 / sqrt(BASE), 1 / M, 1, 1, 1 / M),
            "vector": (0, branch, ML ** (alpha - 1) if inside else 1, 1, (ML**-alpha if inside else 1) / M),
            "scalar": (0, 1, ML ** (alpha - 1) if inside else 1, 1, ML**-alpha if inside else 1),
        }[role]
        expected = (std, multiplier, lr, wd if decay == "standard" else 1, eps)
        assert (rule.init_std, rule.multiplier, rule.lr, rule.weight_decay, rule.eps) == pytest.approx(expected), (
            rule.path
        )


def test_depth_mup_is_its_lower_end():
    for rule in rules(depth_mup()):
        _, inside, ends = kind(rule)
        assert rule.multiplier * (M if rule.role == "output" else 1) == pytest.approx(ML**-0.5 if ends else 1)
        assert rule.lr * (M if rule.role == "hidden" else 1) == pytest.approx(ML**-0.5 if inside else 1)


@pytest.mark.parametrize("optimizer", FAMILIES)
def test_rates_over_depth_keep_what_all_blocks_together_do(optimizer):
    """In a block of gradient g · branch, an update moves the stream by branch · lr · (g · branch, or 1 if normalised)."""
    for alpha in (0.5, 1.0):
        plain, deep = rules(tpv(8, optimizer=optimizer)), rules(tpv(8, optimizer=optimizer).with_depth(alpha))
        for before, rule in zip(plain, deep, strict=True):
            if kind(rule)[1]:
                moved = ML**-alpha * rule.lr / before.lr * (ML**-alpha if optimizer == "sgd" else 1)
                assert ML * moved == pytest.approx(1)


def test_a_gain_at_the_end_of_a_branch_starts_as_the_branchs_factor():
    class Sandwich(eqx.Module):
        up: nn.Linear
        norm: nn.RMSNorm

        def __init__(self, n, *, key):
            self.up = nn.Linear(n, n, key=key)
            self.norm = nn.RMSNorm(n, gain="vector")

    from equimu import register_residual

    register_residual(Sandwich, "norm")

    def stack(n, depth, *, key):
        return [Sandwich(n, key=k) for k in jax.random.split(key, depth)]

    tree = parameterize(stack, completep(), base={"n": 4, "depth": 2}, target={"n": 8, "depth": 8})
    model = scaled(tree, initialize(tree, jax.random.key(0)))
    np.testing.assert_allclose(model[3].norm.gain, 0.25)


def test_depth_of_a_model_without_residual_branches_is_an_error():
    def stack(n, depth, *, key):
        return [eqx.nn.Linear(n, n, key=k) for k in jax.random.split(key, depth)]

    with pytest.raises(EquimuError, match="completep-1 has rules of depth, and no residual branch .*register_residual"):
        parameterize(stack, completep(), base={"n": 4, "depth": 2}, target={"n": 8, "depth": 4})
    with pytest.raises(EquimuError, match="umup follows the number of blocks, and none of the sizes given is one"):
        parameterize(functools.partial(make, n_layer=2), umup(), base={"d_model": 16}, target={"d_model": 32})


# --- batch and length


@pytest.mark.parametrize("decay", ["standard", "scaled", "independent"])
def test_completed_p(decay):
    alpha, b, d = 0.75, 4, 64
    noise, rate = b / d, sqrt(b / d)
    for rule in rules(completed_p(alpha, decay=decay), batch_ratio=b, length_ratio=d):
        role, inside, _ = kind(rule)
        depth_lr, depth_eps = (ML ** (alpha - 1), ML**-alpha) if inside else (1, 1)
        lr = {"hidden": 1 / M, "output": 1 / M}.get(role, 1) * depth_lr * rate
        eps = {"output": 1, "scalar": 1}.get(role, 1 / M) * depth_eps / rate
        std = {"hidden": 1 / sqrt(fans(rule)[0]), "output": 1 / sqrt(BASE) / M, "input": 1}.get(role, 0)
        wd = {"hidden": M, "output": M}.get(role, 1) * rate if decay == "standard" else noise
        assert (rule.init_std, rule.lr, rule.weight_decay, rule.eps) == pytest.approx((std, lr, wd, eps)), rule.path
        assert rule.one_minus_beta == noise


def test_exponents_of_completed_p_change_rates_and_not_the_time_scale_of_decay():
    for rule in rules(completed_p(length_exponent=0.3, batch_exponent=0.4), batch_ratio=4, length_ratio=16):
        width = M if rule.role in ("hidden", "output") else 1
        assert rule.lr * width == pytest.approx(4**0.4 * 16**-0.3)
        assert rule.lr * rule.weight_decay == pytest.approx(4 / 16)


@pytest.mark.long
def test_forgetting_scales_adams_averages():
    tree = parameterize(make, completed_p(), **SIZES, batch_ratio=2, length_ratio=1)
    params = eqx.filter(initialize(tree, jax.random.key(0)), eqx.is_inexact_array)
    optimizer = adamw(tree, learning_rate=0.1, b1=0.9, b2=0.95)
    _, state = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    group = next(iter(state[0].groups.values()))[0]
    np.testing.assert_allclose(group.mu["embedding.weight"], 0.2, rtol=1e-6)  # (1 − b1) · 2
    np.testing.assert_allclose(group.nu["embedding.weight"], 0.1, rtol=1e-6)
    with pytest.raises(EquimuError, match="would keep -1.* of itself; the batch is too large"):
        adamw(parameterize(make, completed_p(), **SIZES, batch_ratio=20), learning_rate=0.1)


def test_ratios_of_batch_and_length_without_rules_for_them_are_an_error():
    with pytest.raises(
        EquimuError, match="batch_ratio 4 was given, and mup-relative has no rule for it; use completed_p"
    ):
        parameterize(make, mup(), **SIZES, batch_ratio=4)
    with pytest.raises(EquimuError, match="length_ratio must be above 0, got 0"):
        parameterize(make, completed_p(), **SIZES, length_ratio=0)


# --- u-μP


def test_umup():
    for rule in rules(umup()):
        role, inside, ends = kind(rule)
        deep = L**-0.5
        bias_of = {
            "attention.query": N,
            "attention.key": N,
            "attention.value": N,
            "attention.output": N,
            "mlp.up": N,
            "mlp.down": 4 * N,
        }
        mapped = bias_of.get(rule.path.removeprefix("blocks.").removesuffix(".bias"), 1)
        std, multiplier, lr = {
            "input": (1, 1, N**-0.5),
            "hidden": (1, fans(rule)[0] ** -0.5, fans(rule)[0] ** -0.5),
            "output": (1, 1 / N, 1),
            "vector": (0, mapped**-0.5, 1),
            "scalar": (0, 1, 1),
        }[role]
        expected = (std, multiplier * (deep if ends else 1), lr * (deep if inside else 1))
        assert (rule.init_std, rule.multiplier, rule.lr) == pytest.approx(expected), rule.path


@pytest.mark.long
def test_branches_of_umup_compute_its_residual_rule():
    """τ_i² = α²/(blocks + i·α²), branch τ/√(1+τ²), skip 1/√(1+τ²): with norms in front of all readers, the same function."""
    alpha = 0.7
    small = functools.partial(nn.Transformer, vocab_size=VOCAB, head_dim=8, norm_eps=0.0, attention_backend="reference")
    with jax.enable_x64(True):
        tree = parameterize(
            small, umup(alpha), base={"d_model": 16, "n_layer": 3}, target={"d_model": 16, "n_layer": 3}
        )
        model = scaled(tree, initialize(tree, jax.random.key(0)))
        tokens = jnp.arange(VOCAB)
        found = model(tokens)
        x, taken = model.embedding(tokens), itertools.count()
        for layer in range(3):
            block = jax.tree.map(lambda a, layer=layer: a[layer] if eqx.is_array(a) else a, model.blocks)
            for norm, branch in ((block.attention_norm, block.attention), (block.mlp_norm, block.mlp)):
                tau = sqrt(alpha**2 / (3 + next(taken) * alpha**2))
                plain = branch(norm(x)) / (alpha * 3**-0.5)  # without the factor that the tree has put into it
                x = x / sqrt(1 + tau**2) + plain * tau / sqrt(1 + tau**2)
        np.testing.assert_allclose(found, model.unembed(model.norm(x)), rtol=1e-12, atol=1e-12)


def test_umup_is_table_3_shifted_with_its_own_rates():
    table = tpv(3, form="absolute").with_depth(0.5, depth=depth)
    table = table.replace("input", lr=fan_out**-0.5).replace("vector", lr=layer_fan_in**-0.5 * depth**-0.5)
    for rule, other in zip(rules(umup()), rules(table), strict=True):
        for name, power in (("init_std", 1), ("lr", 1), ("eps", -1)):
            seen = (getattr(r, name) * r.multiplier**power for r in (rule, other))
            assert next(seen) == pytest.approx(next(seen)), (rule.path, name)


# --- spectral, and what is not defined


@pytest.mark.parametrize("optimizer", FAMILIES)
def test_spectral(optimizer):
    for rule in rules(spectral(optimizer=optimizer)):
        i, o = fans(rule)
        if rule.role == "scalar":
            continue
        std = min(1, sqrt(o / i)) / sqrt(i)
        rate = {"adam": 1 / i, "sign": 1 / i, "sgd": o / i, "adafactor": 1 / i / std, "muon": 1 / i}[optimizer]
        if optimizer == "muon" and rule.role == "hidden":
            rate = sqrt(o / i)
        assert rule.lr == pytest.approx(rate), rule.path
        assert rule.init_mean != 0 or rule.role == "vector" or rule.init_std == pytest.approx(std)


@pytest.mark.parametrize("optimizer", FAMILIES)
def test_relative_spectral_grows_as_the_absolute_does(optimizer):
    at_base = {"base": SIZES["base"], "target": {"d_model": BASE, "n_layer": L}}
    small = rules_of(parameterize(make, spectral(optimizer=optimizer), **at_base))
    for before, rule, relative in zip(
        small, rules(spectral(optimizer=optimizer)), rules(spectral("relative", optimizer=optimizer)), strict=True
    ):
        assert relative.lr == pytest.approx(rule.lr / before.lr), rule.path


@pytest.mark.parametrize("scheme", [sp, mup, tpv, mean_field, completep, functools.partial(everett, "sp")])
def test_hidden_matrices_under_muon_train_as_the_spectral_condition_says_and_the_rest_as_under_adam(scheme):
    if scheme in (mean_field,) or isinstance(scheme, functools.partial):
        with pytest.raises(EquimuError, match="not for muon"):
            scheme(optimizer="muon")
        return
    for rule, adam in zip(rules(scheme(optimizer="muon")), rules(scheme()), strict=True):
        # all fans grow alike here, so √(fan_out ratio / fan_in ratio) is 1
        assert rule.lr == pytest.approx(1 if rule.role == "hidden" else adam.lr)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: umup(optimizer="sgd"), "umup is defined for adam and sign, not for sgd"),
        (lambda: completed_p(optimizer="muon"), "completed_p is defined for adam, not for muon"),
        (lambda: completep(0.3), "alpha 0.3 is outside"),
        (
            lambda: completep().with_depth(1.0),
            "completep-1 has rules of depth already: it multiplies branches by depth_ratio",
        ),
        (lambda: completed_p(2), "alpha 2 is outside"),
    ],
)
def test_what_is_not_defined_says_so(call, words):
    with pytest.raises(EquimuError, match=words):
        call()


@pytest.mark.parametrize(
    ("scheme", "optimizer"),
    [
        (scheme, optimizer)
        for scheme, optimizer in itertools.product(
            (sp, ntk, mup, tpv, mean_field, spectral, completep, umup, completed_p), FAMILIES
        )
    ],
)
def test_every_table_gives_finite_numbers_or_says_that_it_is_not_defined(scheme, optimizer):
    try:
        table = scheme(optimizer=optimizer)
    except EquimuError as error:
        assert "defined for" in str(error) or "given for" in str(error)
        return
    for rule in rules(table):
        assert 0 < prod((rule.multiplier, rule.lr, rule.eps, rule.weight_decay)) < float("inf")
