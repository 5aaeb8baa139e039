"""Every layer of Equinox, alone, stacked and in containers: its rules, against numbers written down by hand."""

import inspect
from math import sqrt

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from equimu import completep, initialize, mup, parameterize, scaled, tpv
from equimu.parameterization import is_rule, rules_of

N, M = 24, 3  # the target width and its ratio to the base

pytestmark = pytest.mark.usefixtures("light_compilation")


def rules(make, scheme=None):
    tree = parameterize(make, scheme or mup(), base={"n": N // M}, target={"n": N})
    return {rule.path: rule for rule in rules_of(tree)}


def stacked(layer, *, key, copies):
    return eqx.filter_vmap(layer)(jax.random.split(key, copies))


def linear(n, key):
    return eqx.nn.Linear(n, n, key=key)


# layer -> {path: (role, fan-in, fan-out, what a constant starts from)}, written from the layers' own formulas
LAYERS = {
    "linear, finite to wide": (
        lambda n, key: eqx.nn.Linear(3, n, key=key),
        {"weight": ("input", 3, N, None), "bias": ("vector", 1, N, 0)},
    ),
    "linear, wide to wide": (
        lambda n, key: eqx.nn.Linear(2 * n, n, key=key),
        {"weight": ("hidden", 2 * N, N, None), "bias": ("vector", 1, N, 0)},
    ),
    "linear, wide to finite": (
        lambda n, key: eqx.nn.Linear(n, 5, key=key),
        {"weight": ("output", N, 5, None), "bias": ("scalar", 1, 5, 0)},
    ),
    "linear, wide to one number": (
        lambda n, key: eqx.nn.Linear(n, "scalar", key=key),
        {"weight": ("output", N, 1, None), "bias": ("scalar", 1, 1, 0)},
    ),
    "multilayer perceptron with learnt slopes": (
        lambda n, key: eqx.nn.MLP(3, 5, n, 2, activation=eqx.nn.PReLU(), final_activation=eqx.nn.PReLU(0.5), key=key),
        {
            "layers[0].weight": ("input", 3, N, None),
            "layers[0].bias": ("vector", 1, N, 0),
            "layers[1].weight": ("hidden", N, N, None),
            "layers[1].bias": ("vector", 1, N, 0),
            "layers[2].weight": ("output", N, 5, None),
            "layers[2].bias": ("scalar", 1, 5, 0),
            "activation.negative_slope": ("vector", 1, N, 0.25),  # one a neuron, stacked over the two hidden layers
            "final_activation.negative_slope": ("scalar", 1, 5, 0.5),
        },
    ),
    "slope": (
        lambda n, key: (eqx.nn.PReLU(), jnp.ones(n)),
        {"[0].negative_slope": ("scalar", 1, 1, 0.25), "[1]": ("vector", 1, N, 1)},
    ),
    "slopes, one a channel of an image": (
        lambda n, key: eqx.nn.PReLU(jnp.full((n, 1, 1), 0.1)),
        {"negative_slope": ("vector", 1, N, pytest.approx(0.1))},
    ),
    "embedding": (lambda n, key: eqx.nn.Embedding(7, n, key=key), {"weight": ("input", 1, N, None)}),
    "layer norm": (
        lambda n, key: eqx.nn.LayerNorm(n),
        {"weight": ("vector", 1, N, 1), "bias": ("vector", 1, N, 0)},
    ),
    "layer norm over two axes": (
        lambda n, key: eqx.nn.LayerNorm((4, n)),
        {"weight": ("vector", 1, 4 * N, 1), "bias": ("vector", 1, 4 * N, 0)},
    ),
    "rms norm": (
        lambda n, key: eqx.nn.RMSNorm(n),
        {"weight": ("vector", 1, N, 1), "bias": ("vector", 1, N, 0)},
    ),
    "group norm": (
        lambda n, key: eqx.nn.GroupNorm(2, n),
        {"weight": ("vector", 1, N, 1), "bias": ("vector", 1, N, 0)},
    ),
    "batch norm, running averages": (
        lambda n, key: eqx.nn.BatchNorm(n, "batch", mode="ema"),
        {"weight": ("vector", 1, N, 1), "bias": ("vector", 1, N, 0)},
    ),
    "batch norm of the batch": (
        lambda n, key: eqx.nn.BatchNorm(n, "batch", mode="batch"),
        {"weight": ("vector", 1, N, 1), "bias": ("vector", 1, N, 0)},
    ),
    "convolution, first": (
        lambda n, key: eqx.nn.Conv1d(3, n, 5, key=key),
        {"weight": ("input", 15, N, None), "bias": ("vector", 1, N, 0)},
    ),
    "convolution, first, of one channel": (
        lambda n, key: eqx.nn.Conv2d(1, n, 3, use_bias=False, key=key),
        {"weight": ("input", 9, N, None)},
    ),
    "convolution, middle": (
        lambda n, key: eqx.nn.Conv2d(n, n, 3, key=key),
        {"weight": ("hidden", 9 * N, N, None), "bias": ("vector", 1, N, 0)},
    ),
    "convolution, last": (
        lambda n, key: eqx.nn.Conv3d(n, 2, 2, use_bias=False, key=key),
        {"weight": ("output", 8 * N, 2, None)},
    ),
    "convolution in two groups": (
        lambda n, key: eqx.nn.Conv2d(n, n, 3, groups=2, use_bias=False, key=key),
        {"weight": ("hidden", 9 * N // 2, N, None)},
    ),
    "convolution in groups of four channels": (
        lambda n, key: eqx.nn.Conv2d(n, n, 3, groups=n // 4, use_bias=False, key=key),
        {"weight": ("vector", 9 * 4, N, None)},
    ),
    "convolution, one channel each": (
        lambda n, key: eqx.nn.Conv1d(n, n, 5, groups=n, use_bias=False, key=key),
        {"weight": ("vector", 5, N, None)},
    ),
    "transposed convolution": (
        lambda n, key: eqx.nn.ConvTranspose2d(n, n, 3, key=key),
        {"weight": ("hidden", 9 * N, N, None), "bias": ("vector", 1, N, 0)},
    ),
    "transposed convolution, first and last": (
        lambda n, key: [eqx.nn.ConvTranspose1d(2, n, 3, key=key), eqx.nn.ConvTranspose3d(n, 2, 2, key=key)],
        {
            "[0].weight": ("input", 6, N, None),
            "[0].bias": ("vector", 1, N, 0),
            "[1].weight": ("output", 8 * N, 2, None),
            "[1].bias": ("scalar", 1, 2, 0),
        },
    ),
    "transposed convolution, one channel each": (
        lambda n, key: eqx.nn.ConvTranspose1d(n, n, 5, groups=n, use_bias=False, key=key),
        {"weight": ("vector", 5, N, None)},
    ),
    "multi-head attention with all biases": (
        lambda n, key: eqx.nn.MultiheadAttention(
            2, n, use_query_bias=True, use_key_bias=True, use_value_bias=True, use_output_bias=True, key=key
        ),
        {
            **{f"{name}_proj.weight": ("hidden", N, N, None) for name in ("query", "key", "value", "output")},
            **{f"{name}_proj.bias": ("vector", 1, N, 0) for name in ("query", "key", "value", "output")},
        },
    ),
    # What queries, keys and values make stays inside: they are not readouts, even where it is finite.
    "multi-head attention of finite heads": (
        lambda n, key: eqx.nn.MultiheadAttention(
            2, n, key_size=5, value_size=2 * n, output_size=3, qk_size=4, vo_size=6, key=key
        ),
        {
            "query_proj.weight": ("hidden", N, 8, None),
            "key_proj.weight": ("scalar", 5, 8, None),
            "value_proj.weight": ("hidden", 2 * N, 12, None),
            "output_proj.weight": ("scalar", 12, 3, None),
        },
    ),
    "multi-head attention, more heads of one size": (
        lambda n, key: eqx.nn.MultiheadAttention(n // 4, n, output_size=3, qk_size=4, vo_size=4, key=key),
        {
            **{f"{name}_proj.weight": ("hidden", N, N, None) for name in ("query", "key", "value")},
            "output_proj.weight": ("output", N, 3, None),
        },
    ),
    "gated recurrent unit": (
        lambda n, key: eqx.nn.GRUCell(3, n, key=key),
        {
            "weight_ih": ("input", 3, 3 * N, None),
            "weight_hh": ("hidden", N, 3 * N, None),
            "bias": ("vector", 1, 3 * N, 0),
            "bias_n": ("vector", 1, N, 0),
        },
    ),
    "long short-term memory": (
        lambda n, key: eqx.nn.LSTMCell(n, n, key=key),
        {
            "weight_ih": ("hidden", N, 4 * N, None),
            "weight_hh": ("hidden", N, 4 * N, None),
            "bias": ("vector", 1, 4 * N, 0),
        },
    ),
    "spectral norm of a hidden convolution": (
        lambda n, key: eqx.nn.SpectralNorm(eqx.nn.Conv1d(n, n, 3, use_bias=False, key=key), "weight", key=key),
        {"layer.weight": ("hidden", 3 * N, N, None)},
    ),
    "sequence of layers and none": (
        lambda n, key: eqx.nn.Sequential(
            [eqx.nn.Identity(), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Dropout(0.1), eqx.nn.Linear(n, n, key=key)]
        ),
        {"layers[3].weight": ("hidden", N, N, None), "layers[3].bias": ("vector", 1, N, 0)},
    ),
    "fused query, key and value": (
        lambda n, key: eqx.nn.Linear(n, 3 * n, use_bias=False, key=key),
        {"weight": ("hidden", N, 3 * N, None)},
    ),
    "layers stacked twice": (
        lambda n, key: stacked(lambda k: stacked(lambda k: linear(n, k), key=k, copies=5), key=key, copies=2),
        {"weight": ("hidden", N, N, None), "bias": ("vector", 1, N, 0)},
    ),
    "experts, their router, and one that all share": (
        lambda n, key: {
            "experts": stacked(
                lambda k: eqx.nn.MLP(n, n, 4 * n, 1, use_bias=False, use_final_bias=False, key=k), key=key, copies=6
            ),
            "router": eqx.nn.Linear(n, 6, use_bias=False, key=key),
            "shared": eqx.nn.MLP(n, n, 2 * n, 1, use_bias=False, use_final_bias=False, key=key),
        },
        {
            "['experts'].layers[0].weight": ("hidden", N, 4 * N, None),
            "['experts'].layers[1].weight": ("hidden", 4 * N, N, None),
            "['router'].weight": ("output", N, 6, None),
            "['shared'].layers[0].weight": ("hidden", N, 2 * N, None),
            "['shared'].layers[1].weight": ("hidden", 2 * N, N, None),
        },
    ),
    "what two lists, a tuple and a dictionary hold": (
        lambda n, key: [[linear(n, key)], {"x": (jnp.ones(n), None, 3, "name")}],
        {
            "[0][0].weight": ("hidden", N, N, None),
            "[0][0].bias": ("vector", 1, N, 0),
            "[1]['x'][0]": ("vector", 1, N, 1),
        },
    ),
}
# Layers that own no array and hold no other layer.
BARE = {
    **{name: (1, 1) for name in ("AvgPool1d", "AvgPool2d", "AvgPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d")},
    **{f"Adaptive{kind}Pool{dims}d": (2,) for kind in ("Avg", "Max") for dims in (1, 2, 3)},
    "RotaryPositionalEmbedding": (8,),
}
# Tested apart below, or no layers.
APART = {"WeightNorm", "Shared", "StatefulLayer", "StateIndex"}

# role -> (std, multiplier, learning rate, decay, epsilon) at fan-in i, written from the published tables; the ratio is M.
SCHEMES = {
    "mup": (
        mup(),
        {
            "input": lambda i: (1 / sqrt(i), 1, 1, 1, 1 / M),
            "hidden": lambda i: (1 / sqrt(i), 1, 1 / M, 1, 1 / M),
            "output": lambda i: (1 / i, 1, 1 / M, 1, 1),
            "vector": lambda i: (1 / sqrt(i), 1, 1, 1, 1 / M),
            "scalar": lambda i: (1 / sqrt(i), 1, 1, 1, 1),
        },
    ),
    "tpv 8": (
        tpv(8),
        {
            "input": lambda i: (1 / sqrt(i), 1, 1, 1, 1 / M),
            "hidden": lambda i: (1 / sqrt(i), 1, 1 / M, 1, 1 / M),
            "output": lambda i: (sqrt(M / i), 1 / M, 1, 1, 1 / M),
            "vector": lambda i: (1 / sqrt(i), 1, 1, 1, 1 / M),
            "scalar": lambda i: (1 / sqrt(i), 1, 1, 1, 1),
        },
    ),
    "completep": (
        completep(),
        {
            "input": lambda i: (1 / sqrt(i), 1, 1, 1, 1 / M),
            "hidden": lambda i: (1 / sqrt(i), 1, 1 / M, M, 1 / M),
            "output": lambda i: (sqrt(M / i), 1 / M, 1, 1, 1 / M),
            "vector": lambda i: (1 / sqrt(i), 1, 1, 1, 1 / M),
            "scalar": lambda i: (1 / sqrt(i), 1, 1, 1, 1),
        },
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_has_the_roles_and_fans_of_its_formula(layer):
    make, expected = LAYERS[layer]
    found = {
        path: (rule.role, rule.dimensions.fan_in, rule.dimensions.fan_out, None if rule.init_std else rule.init_mean)
        for path, rule in rules(make).items()
    }
    assert found == expected


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("layer", LAYERS)
def test_layer_has_the_numbers_of_the_published_tables(layer, scheme):
    make, expected = LAYERS[layer]
    table, formulas = SCHEMES[scheme]
    for path, rule in rules(make, table).items():
        role, fan_in, _, constant = expected[path]
        std, *rest = formulas[role](fan_in)
        if layer == "multi-head attention of finite heads" and role == "hidden" and path != "output_proj.weight":
            # What these put out stays finite and is read by all of the n outputs behind it, whose slopes, 1/n each and
            # independent, add up to n^-1/2.
            rest[-1] = M**-0.5
        assert rule.init_std == (pytest.approx(std) if constant is None else 0.0), path
        assert (rule.multiplier, rule.lr, rule.weight_decay, rule.eps) == pytest.approx(rest), path


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_grows_by_the_ratio_of_the_widths(layer):
    for rule in rules(LAYERS[layer][0]).values():
        wide_in, wide_out = rule.role in ("hidden", "output"), rule.role in ("hidden", "input", "vector")
        sizes = rule.dimensions
        assert sizes.fan_in_ratio == (M if wide_in else 1)
        assert sizes.fan_out_ratio == (M if wide_out and sizes.fan_out % N == 0 else 1)
        assert sizes.width_ratio == (M if wide_in or wide_out else 1)


@pytest.mark.parametrize("name", BARE)
def test_layer_without_arrays_has_no_rules(name):
    tree = parameterize(
        lambda n, key: (getattr(eqx.nn, name)(*BARE[name]), jnp.ones(n)), mup(), base={"n": 1}, target={"n": 2}
    )
    assert [rule.path for rule in rules_of(tree)] == ["[1]"]


def test_no_layer_of_equinox_is_forgotten():
    tested = {cls.__name__ for name in BARE for cls in getattr(eqx.nn, name).__mro__} | APART

    def visit(node):
        tested.update(cls.__name__ for cls in type(node).__mro__)
        for child in jax.tree.leaves(node, is_leaf=lambda x: x is not node):
            if child is not node:
                visit(child)

    for make, _ in LAYERS.values():
        visit(eqx.filter_eval_shape(make, N, jax.random.key(0)))
    layers = {name for name, cls in vars(eqx.nn).items() if inspect.isclass(cls) and issubclass(cls, eqx.Module)}
    assert {"Linear", "Conv2d", "MultiheadAttention"} <= layers and len(layers) > 40
    assert layers - tested == set(), "no test says what the rules of these are"


# --- the numbers do what they are for: one step moves the output of a layer equally at every width


def image(n, key):
    return jax.random.normal(key, (n, 6, 6))


def features(n, key):
    return jax.random.normal(key, (n,))


MOVED = {
    "two groups": (lambda n, key: eqx.nn.Conv2d(n, n, 3, groups=2, key=key), image),
    "groups of four": (lambda n, key: eqx.nn.Conv2d(n, n, 3, groups=n // 4, key=key), image),
    "one channel each": (lambda n, key: eqx.nn.Conv2d(n, n, 3, groups=n, key=key), image),
    "transposed": (lambda n, key: eqx.nn.ConvTranspose2d(n, n, 3, key=key), image),
    "gated": (
        lambda n, key: eqx.nn.GRUCell(n, n, key=key),
        lambda n, key: (features(n, key), features(n, jax.random.key(7)) / 2),
    ),
    "attention": (
        lambda n, key: eqx.nn.MultiheadAttention(n // 4, n, qk_size=4, vo_size=4, use_output_bias=True, key=key),
        lambda n, key: 3 * (jax.random.normal(key, (5, n)),),
    ),
    "weight norm": (lambda n, key: eqx.nn.WeightNorm(eqx.nn.Linear(n, n, key=key)), features),
    "weight norm of a readout": (lambda n, key: eqx.nn.WeightNorm(eqx.nn.Linear(n, 5, key=key)), features),
}
FEW_MOVED = ("groups of four", "transposed", "gated", "weight norm")


def moves(make, inputs, scheme, n):
    """How far a signed step moves the output, root mean square: with each entry's gradient of a random direction's sign."""
    tree = parameterize(make, scheme, base={"n": 16}, target={"n": n})

    @eqx.filter_jit
    def distance(key):
        keys = jax.random.split(key, 3)
        model = initialize(tree, keys[0])
        given = inputs(n, keys[1])
        given = given if isinstance(given, tuple) else (given,)
        before = scaled(tree, model)(*given)
        towards = jnp.sign(jax.random.normal(keys[2], before.shape))
        grads = eqx.filter_grad(lambda model: jnp.sum(towards * scaled(tree, model)(*given)))(model)
        steps = jax.tree.map(lambda rule, g: 1e-3 * rule.lr * jnp.sign(g), eqx.filter(tree, is_rule), grads)
        return jnp.sqrt(jnp.mean((scaled(tree, eqx.apply_updates(model, steps))(*given) - before) ** 2))

    return float(distance(jax.random.key(0)))


@pytest.mark.parametrize(
    ("layer", "scheme"),
    [
        *((layer, mup()) for layer in FEW_MOVED),
        *(pytest.param(layer, mup(), marks=pytest.mark.long) for layer in MOVED if layer not in FEW_MOVED),
        *(pytest.param(layer, tpv(8), marks=pytest.mark.long) for layer in MOVED if "norm" in layer),
    ],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_step_moves_the_output_equally_at_every_width(layer, scheme):
    # From 16 to 256, a hidden layer at one rate would move 16 times as far, and a vector at a hidden layer's rate 1/16 as far.
    assert 0.6 < moves(*MOVED[layer], scheme, 256) / moves(*MOVED[layer], scheme, 16) < 1.6


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_transposed_convolution_puts_out_what_it_takes_in_whatever_its_stride(stride):
    """Each output sees every stride-th position of the kernel: in · ⌈8/stride⌉ numbers."""
    tree = parameterize(
        lambda n, key: eqx.nn.ConvTranspose1d(n, n, 8, stride=stride, use_bias=False, key=key),
        mup().replace("hidden", multiplier=1.0),
        base={"n": 32},
        target={"n": 64},
    )
    assert tree.weight.dimensions.fan_in == 64 * -(-8 // stride)
    normal = jax.random.normal(jax.random.key(0), tree.weight.shape) * tree.weight.init_std
    model = eqx.tree_at(lambda t: t.weight, tree, normal)
    out = model(jax.random.normal(jax.random.key(1), (64, 50)))[:, 8:-8]
    assert float(jnp.sqrt(jnp.mean(out**2))) == pytest.approx(1, abs=0.05)
