"""The five numbers of every leaf, for every option of the paper, against the published tables written down a second time.

n is the width, m its ratio to the base; a formula below is (std, multiplier, Adam's learning rate, SGD's learning rate)
as a function of the leaf's fan-in i and fan-out o, of n and of m. Sources: TP-V (arXiv 2203.03466) Tables 3, 8 and 9,
and Lingle (arXiv 2404.05728).
"""

import functools
import itertools
from fractions import Fraction
from math import sqrt

import pytest

from equimu import EquimuError, mup, nn, parameterize, sp, tpv
from equimu.parameterization import Parameterization, Row, fan_in, rules_of

pytestmark = pytest.mark.usefixtures("traced_once")

BASE, N = 128, 192  # m = 1.5
VOCAB, LAYERS, HEAD = 11, 2, 16

SP = {role: lambda i, o, n, m: (1 / sqrt(i), 1, 1, 1) for role in ("input", "hidden", "output", "vector")}


def table(input, output, hidden):
    return {"input": input, "vector": input, "output": output, "hidden": hidden}


def absolute_hidden(i, o, n, m):
    return 1 / sqrt(i), 1, 1 / i, 1


def relative_hidden(i, o, n, m):
    return 1 / sqrt(i), 1, 1 / m, 1


FORMULAS = {
    "sp": SP,
    "mup absolute": table(
        lambda i, o, n, m: (1 / sqrt(i), 1, 1, o), lambda i, o, n, m: (1 / i, 1, 1 / i, 1 / i), absolute_hidden
    ),
    # learning rates relative to the base width, initialisation as in the absolute form
    "mup relative": table(
        lambda i, o, n, m: (1 / sqrt(i), 1, 1, m), lambda i, o, n, m: (1 / n, 1, 1 / m, 1 / m), relative_hidden
    ),
    "tpv 3 absolute": table(
        lambda i, o, n, m: (1 / sqrt(i), 1, 1, o), lambda i, o, n, m: (1 / i, 1, 1 / i, 1 / i), absolute_hidden
    ),
    "tpv 8 absolute": table(
        lambda i, o, n, m: (1 / sqrt(i), 1, 1, o), lambda i, o, n, m: (1, 1 / i, 1, i), absolute_hidden
    ),
    "tpv 9 absolute": table(
        lambda i, o, n, m: (1 / sqrt(o), sqrt(o), 1 / sqrt(o), 1),
        lambda i, o, n, m: (1 / sqrt(i), 1 / sqrt(i), 1 / sqrt(i), 1),
        absolute_hidden,
    ),
    # m in the place of n; at the base width the output is drawn as in the standard parameterization, 1/sqrt(BASE)
    "tpv 3 relative": table(
        lambda i, o, n, m: (1 / sqrt(i), 1, 1, m),
        lambda i, o, n, m: (1 / sqrt(BASE) / m, 1, 1 / m, 1 / m),
        relative_hidden,
    ),
    "tpv 8 relative": table(
        lambda i, o, n, m: (1 / sqrt(i), 1, 1, m), lambda i, o, n, m: (1 / sqrt(BASE), 1 / m, 1, m), relative_hidden
    ),
    "tpv 9 relative": table(
        lambda i, o, n, m: (1 / sqrt(i) / sqrt(m), sqrt(m), 1 / sqrt(m), 1),
        lambda i, o, n, m: (1 / sqrt(BASE) / sqrt(m), 1 / sqrt(m), 1 / sqrt(m), 1),
        relative_hidden,
    ),
}
# How the gradient of the weight that the forward pass sees, multiplier included, follows m in μP: Adam's epsilon is that times
# the multiplier, of which a leaf's own gradient has one factor more.
FALL = {"input": -1, "vector": -1, "hidden": -1, "output": 0}
TABLES = {
    "sp": lambda optimizer, eps: sp(optimizer=optimizer),
    **{
        f"mup {form}": lambda optimizer, eps, form=form: mup(form, optimizer=optimizer, eps=eps)
        for form in ("relative", "absolute")
    },
    **{
        f"tpv {number} {form}": lambda optimizer, eps, number=number, form=form: tpv(
            number, form=form, optimizer=optimizer, eps=eps
        )
        for number, form in itertools.product((3, 8, 9), ("relative", "absolute"))
    },
}
FAMILIES = [("adam", "gradient"), ("adam", "lr"), ("adam", "constant"), ("sign", "gradient"), ("sgd", "gradient")]

OPTIONS = {
    "baseline": {},
    "gelu": {"activation": "gelu"},
    "squared_relu": {"activation": "squared_relu"},
    "swiglu": {"activation": "swiglu", "d_ff_multiple": 2.67},
    "d_ff": {"d_ff_multiple": 5.0},
    "gqa": {"n_kv_head": 2},
    "mqa": {"n_kv_head": 1, "d_ff_multiple": 5.0},
    "gains_vector": {"norm_gain": "vector"},
    "gains_scalar": {"norm_gain": "scalar"},
    "embedding_norm": {"embedding_norm": True, "norm_gain": "vector"},
    "qk_norm": {"qk_norm": True, "norm_gain": "vector"},
    "qk_norm_scalar": {"qk_norm": True, "norm_gain": "scalar"},
    "biases": {"use_bias": True},
    "zero_query": {"zero_query": True},
    "zero_residual": {"zero_residual": True, "use_bias": True},
    "zero_unembedding": {"zero_unembedding": True},
    "no_positions": {"rotary_base": None, "attention_scale": HEAD**-0.5},
    "bfloat16_remat": {"dtype": "bfloat16", "remat": True},
    "tied": {"tie_embeddings": True},
    "llama": {"activation": "swiglu", "d_ff_multiple": 2.67, "norm_gain": "vector", "n_kv_head": 4},
    "all": {
        "activation": "swiglu",
        "d_ff_multiple": 2.67,
        "n_kv_head": 1,
        "norm_gain": "vector",
        "embedding_norm": True,
        "qk_norm": True,
        "use_bias": True,
        "zero_query": True,
        "zero_residual": True,
        "zero_unembedding": True,
    },
    "tied_all": {
        "activation": "squared_relu",
        "n_kv_head": 2,
        "norm_gain": "scalar",
        "embedding_norm": True,
        "qk_norm": True,
        "zero_query": True,
        "tie_embeddings": True,
    },
}


@functools.cache
def make(option):
    return functools.partial(nn.Transformer, vocab_size=VOCAB, n_layer=LAYERS, head_dim=HEAD, **OPTIONS[option])


def leaves(option, n):
    """path -> (role, shape without the layers, fan-in, fan-out, constant it starts from or None)."""
    o = OPTIONS[option]
    d_ff = int(o.get("d_ff_multiple", 4.0) * n)
    d_kv = HEAD * o.get("n_kv_head", n // HEAD)
    zero = {
        "blocks.attention.query": o.get("zero_query"),
        "blocks.attention.output": o.get("zero_residual"),
        "blocks.mlp.down": o.get("zero_residual"),
        "unembedding": o.get("zero_unembedding"),
    }
    found = {"embedding.weight": ("input", (VOCAB, n), 1, n, None)}
    matrices = {
        "blocks.attention.query": (n, n),
        "blocks.attention.key": (n, d_kv),
        "blocks.attention.value": (n, d_kv),
        "blocks.attention.output": (n, n),
        "blocks.mlp.up": (n, d_ff),
        "blocks.mlp.down": (d_ff, n),
    }
    if o.get("activation") == "swiglu":
        matrices["blocks.mlp.gate"] = (n, d_ff)
    if not o.get("tie_embeddings"):
        matrices["unembedding"] = (n, VOCAB)
    for path, (i, out) in matrices.items():
        role = "output" if path == "unembedding" else "hidden"
        found[f"{path}.weight"] = (role, (i, out), i, out, 0 if zero.get(path) else None)
        if o.get("use_bias"):
            finite = path == "unembedding" or (path.endswith((".key", ".value")) and "n_kv_head" in o)
            found[f"{path}.bias"] = ("scalar" if finite else "vector", (out,), 1, out, 0)
    norms = ["blocks.attention_norm", "blocks.mlp_norm", "norm"]
    norms += ["embedding_norm"] if o.get("embedding_norm") else []
    norms += ["blocks.attention.query_norm", "blocks.attention.key_norm"] if o.get("qk_norm") else []
    gain = o.get("norm_gain", "none")
    for path in norms if gain != "none" else []:
        size = HEAD if "attention." in path else n
        wide = gain == "vector" and size == n
        shape = (size,) if gain == "vector" else ()
        found[f"{path}.gain"] = ("vector" if wide else "scalar", shape, 1, size if shape else 1, 1)
    return found


def numbers(rule):
    return rule.init_mean, rule.init_std, rule.multiplier, rule.lr, rule.weight_decay, rule.eps


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    ("option", "n"), [*((option, N) for option in OPTIONS), *((option, 272) for option in ("swiglu", "all"))]
)
def test_five_numbers_equal_the_published_formulas(option, name, n):
    tied = OPTIONS[option].get("tie_embeddings", False)
    if tied and "8" not in name and "9" not in name:
        with pytest.raises(EquimuError, match="embedding.weight is tied, which .* does not permit.*untie"):
            parameterize(make(option), TABLES[name]("adam", "gradient"), base={"d_model": BASE}, target={"d_model": n})
        return
    m = n / BASE
    expected = leaves(option, n)
    families = FAMILIES if option in ("baseline", "all", "tied_all") else FAMILIES[::3] + FAMILIES[-1:]
    for optimizer, eps in families:
        tree = parameterize(make(option), TABLES[name](optimizer, eps), base={"d_model": BASE}, target={"d_model": n})
        rules = {rule.path: rule for rule in rules_of(tree)}
        slot = rules.pop("embedding.readout_multiplier", None)
        assert set(rules) == set(expected) and (slot is not None) == tied
        for path, (role, shape, i, o, constant) in expected.items():
            rule = rules[path]
            assert (rule.role, rule.optimizer) == (role, optimizer)
            assert rule.shape == ((LAYERS, *shape) if path.startswith("blocks.") else shape)
            std, multiplier, adam, sgd = (1, 1, 1, 1) if role == "scalar" else FORMULAS[name][role](i, o, n, m)
            lr = sgd if optimizer == "sgd" else adam
            fall = FALL[role] if role != "scalar" else 0
            if path.endswith((".key.weight", ".value.weight")) and "n_kv_head" in OPTIONS[option]:
                # A fixed number of outputs, each read by m times as many heads: their slopes, 1/m each, are independent at
                # the start (m^-1/2 together) and add up later (1 together), which SGD's rate has to allow for.
                fall, lr = -1 / 2, 1 / m if optimizer == "sgd" and name != "sp" else lr
            mean, std = (0, std) if constant is None else (constant / multiplier, 0)
            scale = 1.0
            if optimizer == "adam" and eps == "lr" and name != "sp":
                scale = lr
            elif optimizer == "adam" and eps == "gradient" and role != "scalar" and name != "sp":
                scale = m**fall * multiplier
            assert numbers(rule) == pytest.approx((mean, std, multiplier, lr, 1, scale), rel=1e-13, abs=0), path
        if slot is not None:
            # One table for two uses: what the readout sees is the output row's draw, times the output row's multiplier.
            table_std, table_multiplier, *_ = FORMULAS[name]["input"](1, n, n, m)
            out_std, out_multiplier, *_ = FORMULAS[name]["output"](n, VOCAB, n, m)
            readout = out_std * out_multiplier / (table_std * table_multiplier)
            assert numbers(slot) == pytest.approx((1, 0, readout, 0, 0, 1), rel=1e-13, abs=0)


@pytest.mark.parametrize("optimizer", ["adam", "sign", "sgd"])
@pytest.mark.parametrize("name", [name for name in TABLES if "absolute" not in name])
@pytest.mark.parametrize("option", ["all", "tied_all"])
def test_relative_forms_train_all_leaves_at_one_rate_where_all_ratios_are_one(option, name, optimizer):
    if option == "tied_all" and "8" not in name and "9" not in name:
        return
    for width in (64, N):
        tree = parameterize(
            make(option), TABLES[name](optimizer, "gradient"), base={"d_model": width}, target={"d_model": width}
        )
        assert {(r.lr, r.weight_decay, r.eps) for r in rules_of(tree) if "readout" not in r.path} == {(1, 1, 1)}


@pytest.mark.parametrize("table", [3, 8, 9])
def test_relative_tables_are_the_standard_parameterization_at_the_base_width(table):
    sizes = {"d_model": BASE}
    standard = rules_of(parameterize(make("llama"), sp(), base=sizes, target=sizes))
    relative = rules_of(parameterize(make("llama"), tpv(table), base=sizes, target=sizes))
    assert [numbers(r) for r in relative] == [pytest.approx(numbers(r), rel=1e-15) for r in standard]


@pytest.mark.parametrize(("n", "ratio"), [(192, Fraction(3, 2)), (272, Fraction(17, 8)), (128, Fraction(1))])
@pytest.mark.parametrize("option", ["baseline", "swiglu", "mqa"])
def test_width_ratios_are_exact_even_where_d_ff_is_truncated(option, n, ratio):
    tree = parameterize(make(option), mup(), base={"d_model": BASE}, target={"d_model": n})
    for rule in rules_of(tree):
        assert rule.dimensions.width_ratio == ratio
        assert rule.dimensions.depth_ratio == 1
        assert rule.role == "input" or rule.lr == float(1 / ratio)  # every matrix but the embedding: η·n_base/n


def test_untruncated_multiple_of_the_reference_code_is_a_base_constant_away():
    n, multiple = 272, 2.67
    table = mup("absolute").tune("blocks.mlp.down.weight", lr=int(multiple * n) / (multiple * n))
    tree = parameterize(make("swiglu"), table, base={"d_model": BASE}, target={"d_model": n})
    assert tree.blocks.mlp.down.weight.lr == pytest.approx(1 / (multiple * n), rel=1e-14)
    assert tree.blocks.mlp.up.weight.lr == 1 / n


def test_replaced_law_is_the_only_number_that_changes():
    sizes = {"base": {"d_model": BASE}, "target": {"d_model": N}}
    tree = parameterize(make("all"), mup().replace("hidden", lr=fan_in**-0.5, weight_decay=3.0), **sizes)
    for rule, before in zip(rules_of(tree), rules_of(parameterize(make("all"), mup(), **sizes)), strict=True):
        mean, std, multiplier, lr, decay, eps = numbers(before)
        if rule.role == "hidden":
            lr, decay = rule.dimensions.fan_in**-0.5, 3
        assert numbers(rule) == pytest.approx((mean, std, multiplier, lr, decay, eps))


def test_table_of_ones_own_has_its_laws_and_the_standard_ones_elsewhere():
    mine = Parameterization(name="mine", output=Row(init_std=1 / fan_in, multiplier=2 * fan_in**0.5))
    tree = parameterize(make("zero_unembedding"), mine, base={"d_model": BASE}, target={"d_model": N})
    assert numbers(tree.unembedding.weight) == (0, 0, pytest.approx(2 * sqrt(N)), 1, 1, 1)
    assert numbers(tree.blocks.mlp.up.weight) == (0, pytest.approx(1 / sqrt(N)), 1, 1, 1, 1)


def test_base_constants_multiply_what_the_laws_give_by_role_module_and_leaf():
    table = mup().tune("output", multiplier=4.0).tune("blocks.mlp", lr=0.5, eps=3.0).tune("vector", weight_decay=0.0)
    table = table.tune("blocks.mlp.up.weight", lr=0.5, init_std=2.0).tune("scalar", lr=7.0)
    sizes = {"base": {"d_model": BASE}, "target": {"d_model": N}}
    tuned = parameterize(make("gains_vector"), table, **sizes)
    plain = parameterize(make("gains_vector"), mup(), **sizes)
    for rule, before in zip(rules_of(tuned), rules_of(plain), strict=True):
        mean, std, multiplier, lr, decay, eps = numbers(before)
        multiplier *= 4 if rule.path == "unembedding.weight" else 1
        in_mlp = rule.path.startswith("blocks.mlp.")  # and not blocks.mlp_norm
        lr *= (0.5 if in_mlp else 1) * (0.5 if rule.path == "blocks.mlp.up.weight" else 1)
        eps *= 3 if in_mlp else 1
        std *= 2 if rule.path == "blocks.mlp.up.weight" else 1
        decay *= 0 if rule.role == "vector" else 1
        assert numbers(rule) == (mean, std, multiplier, lr, decay, eps), rule.path
