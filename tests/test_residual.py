"""Residual branches: rules of depth put the branch's factor on the arrays that are declared to end it, and nowhere else."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import long_but

from equimu import (
    EquimuError,
    completep,
    depth_mup,
    initialize,
    mup,
    parameterize,
    register_axes,
    register_residual,
    scaled,
    umup,
)
from equimu.parameterization import rules_of

pytestmark = pytest.mark.usefixtures("light_compilation")

SIZES = {"base": {"width": 8, "layers": 2}, "target": {"width": 24, "layers": 6}}  # ratios 3 and 3


class Block(eqx.Module):
    """`x + factor · norm(mlp(x))`, then `x + factor · gamma * out(x)`: a norm, and a single array, end its branches."""

    mlp: eqx.nn.MLP
    norm: eqx.nn.LayerNorm
    out: eqx.nn.Linear
    gamma: jax.Array

    def __init__(self, width, *, key):
        keys = jax.random.split(key, 3)
        self.mlp = eqx.nn.MLP(width, width, 2 * width, 1, jnp.tanh, key=keys[0])
        self.norm = eqx.nn.LayerNorm(width)
        self.out = eqx.nn.Linear(width, width, key=keys[1])
        self.gamma = jax.random.uniform(keys[2], (width,))

    def __call__(self, x, factor=1.0):
        x = x + factor * self.norm(self.mlp(x))
        return x + factor * self.gamma * self.out(x)


class Plain(Block):
    """`x + factor · mlp(x)`, with the last layer of the perceptron at the end."""

    def __call__(self, x, factor=1.0):
        return x + factor * self.mlp(x)


register_axes(Block, gamma=("out",))
register_residual(Block, "norm", "gamma")
register_residual(Plain, "mlp.layers[-1]")


class Net(eqx.Module):
    """A first layer, blocks in a list or in a stack, a readout."""

    first: eqx.nn.Linear
    blocks: Block | list[Block]
    readout: eqx.nn.Linear

    def __init__(self, width, layers, *, key, block, stacked):
        keys = jax.random.split(key, layers + 2)
        self.first = eqx.nn.Linear(3, width, key=keys[0])
        if stacked:
            self.blocks = eqx.filter_vmap(lambda k: block(width, key=k))(keys[2:])
        else:
            self.blocks = [block(width, key=k) for k in keys[2:]]
        self.readout = eqx.nn.Linear(width, 2, key=keys[1])

    def __call__(self, x, factor=1.0):
        x = self.first(x)
        blocks = self.blocks
        if not isinstance(blocks, list):
            arrays, static = eqx.partition(blocks, eqx.is_array)
            layers = len(arrays.gamma)
            blocks = [eqx.combine(jax.tree.map(lambda a, i=i: a[i], arrays), static) for i in range(layers)]
        for block in blocks:
            x = block(x, factor)
        return self.readout(x)


FORMS = [(block, stacked) for block in (Block, Plain) for stacked in (False, True)]
ENDS = {Block: {"norm.weight", "norm.bias", "gamma"}, Plain: {"mlp.layers[1].weight", "mlp.layers[1].bias"}}


def tree_of(scheme, block, stacked, sizes=SIZES, **fixed):
    return parameterize(lambda **given: Net(**given, **fixed, block=block, stacked=stacked), scheme, **sizes)


def within_block(path):
    """The path inside its block, None outside of blocks."""
    if not path.startswith("blocks"):
        return None
    return path.split("].", 1)[1] if path.startswith("blocks[") else path.removeprefix("blocks.")


@pytest.mark.parametrize(("block", "stacked"), FORMS)
@pytest.mark.parametrize(
    ("scheme", "factor", "rate"),
    [(completep(), 1 / 3, 1.0), (completep(0.75), 3**-0.75, 3**-0.25), (depth_mup(), 3**-0.5, 3**-0.5)],
    ids=["completep", "completep 0.75", "depth-mup"],
)
def test_factor_is_on_the_declared_arrays_and_on_no_other(scheme, factor, rate, block, stacked):
    plain = {rule.path: rule for rule in rules_of(tree_of(mup(decay="standard"), block, stacked))}
    found = rules_of(tree_of(scheme, block, stacked))
    ends = 0
    for rule in found:
        inside = within_block(rule.path)
        at_end = inside in ENDS[block]
        ends += at_end
        # Table 8, which these are made of, has a multiplier 1/3 on the readout.
        assert rule.multiplier == pytest.approx(factor if at_end else 1 / 3 if rule.role == "output" else 1), rule.path
        if rule.role != "output":
            assert rule.lr / plain[rule.path].lr == pytest.approx(rate if inside else 1), rule.path
    assert ends == len(ENDS[block]) * (1 if stacked else 6)


@pytest.mark.parametrize(("block", "stacked"), FORMS)
def test_unit_scaled_branch_has_the_absolute_factor(block, stacked):
    for rule in rules_of(tree_of(umup(), block, stacked)):
        inside = within_block(rule.path)
        # a hidden matrix and its bias have 1/sqrt(fan-in), the branch 1/sqrt(6)
        own = {"mlp.layers[1].weight": 48**-0.5, "mlp.layers[1].bias": 48**-0.5}.get(inside, 1.0)
        if inside in ENDS[block]:
            assert rule.multiplier == pytest.approx(own * 6**-0.5), rule.path


@pytest.mark.parametrize(("block", "stacked"), FORMS)
@pytest.mark.filterwarnings("ignore:initialize draws")
@pytest.mark.parametrize("alpha", long_but([0.5], [0.5, 1.0]))
def test_function_is_that_of_a_model_that_multiplies_its_branches(alpha, block, stacked):
    with jax.enable_x64(True):
        tree = tree_of(completep(alpha), block, stacked)
        model = initialize(tree, jax.random.key(0))
        # Biases and shifts too must carry the factor, so none may be zero.
        model = jax.tree.map(lambda a: a + 0.3 if eqx.is_inexact_array(a) else a, model)
        # Without depth the same table has no factor, and everything else of the forward pass is the same.
        widths = {name: {"width": sizes["width"]} for name, sizes in SIZES.items()}
        without = tree_of(completep(alpha), block, stacked, widths, layers=6)
        x = jnp.array([0.3, -1.0, 2.0])
        found = np.asarray(scaled(tree, model)(x))
        explicit = np.asarray(scaled(without, model)(x, 3.0**-alpha))
        other = np.asarray(scaled(without, model)(x, 1.0))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, explicit, rtol=1e-12)
    assert np.abs(found - other).max() > 1e-3


def error_of(scheme, block, stacked=False, sizes=SIZES):
    with pytest.raises(EquimuError) as caught:
        tree_of(scheme, block, stacked, sizes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("mlp.layers[7]", ["is declared to end a residual branch with 'mlp.layers[7]', and has no such part"]),
        ("attention", ["is declared to end a residual branch with 'attention', and has no such part"]),
        ("mlp", ["blocks[0].mlp is declared to end a residual branch and holds", "declare the last map or norm in it"]),
        ("mlp.activation", ["blocks[0].mlp.activation is declared to end a residual branch and has no array"]),
    ],
)
def test_part_that_ends_no_branch_says_so(part, words):
    class Wrong(Block):  # a declaration of its own goes before the inherited one
        pass

    register_residual(Wrong, part)
    message = error_of(completep(), Wrong)
    assert all(word in message for word in words), message


def test_path_that_cannot_be_read_says_so():
    with pytest.raises(EquimuError, match="'mlp.layers-1' is not a path below a Block; write it as in Python"):
        register_residual(Block, "mlp.layers-1")


class Undeclared(eqx.Module):
    blocks: list[eqx.nn.Linear]

    def __init__(self, width, layers, *, key):
        self.blocks = [eqx.nn.Linear(width, width, key=key) for _ in range(layers)]


@pytest.mark.parametrize("scheme", [completep(), depth_mup(), umup()], ids=lambda scheme: scheme.name)
def test_rules_of_depth_need_residual_branches(scheme):
    with pytest.raises(EquimuError, match=r"no residual branch.*equimu\.register_residual\(MyBlock, 'attention"):
        parameterize(Undeclared, scheme, **SIZES)


def test_absolute_rules_of_depth_need_a_depth():
    def make(width, *, key):
        return Net(width, 4, key=key, block=Plain, stacked=False)

    with pytest.raises(
        EquimuError, match="umup follows the number of blocks.*name it in base and target, e.g. n_layer"
    ):
        parameterize(make, umup(), base={"width": 8}, target={"width": 24})


def test_branch_that_ends_in_a_normalised_weight_has_the_factor_on_its_gain():
    class Normed(eqx.Module):
        out: eqx.nn.WeightNorm

        def __init__(self, width, *, key):
            self.out = eqx.nn.WeightNorm(eqx.nn.Linear(width, width, key=key))

    register_residual(Normed, "out.layer")

    def make(width, layers, *, key):
        return [Normed(width, key=k) for k in jax.random.split(key, layers)]

    for block in parameterize(make, completep(), **SIZES):
        assert block.out.g.multiplier == pytest.approx(1 / 3)
        assert block.out.layer.bias.multiplier == pytest.approx(1 / 3)
