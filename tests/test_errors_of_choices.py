"""Wrong arguments as users meet them: without the type checker that refuses them first in the other tests."""

import json
import os
import subprocess
import sys

import pytest

# expression -> words that its message must have
WRONG = {
    "mu.mup('relativ')": ["form 'relativ'", "did you mean 'relative'"],
    "mu.mup(optimizer='adamw')": ["optimizer 'adamw'", "did you mean 'adam'"],
    "mu.mup(eps='gradients')": ["eps 'gradients'", "did you mean 'gradient'"],
    "mu.tpv(8, form='abs')": ["form 'abs'", "absolute, relative"],
    "mu.tpv(4)": ["table 4", "3, 8, 9"],
    "mu.sp(optimizer='lion')": ["optimizer 'lion'", "adafactor, adam, muon, sgd, sign"],
    "mu.everett('mp')": ["parameterization 'mp'", "did you mean 'mup'"],
    "mu.everett('sp', 'some')": ["alignment 'some'", "full, none"],
    "mu.spectral('abs')": ["form 'abs'", "absolute, relative"],
    "mu.mup(decay='coupled')": ["decay 'coupled'", "independent, l2, scaled, standard"],
    "mu.Parameterization(name='mine', optimizer='adagrad')": ["optimizer 'adagrad'", "adafactor, adam"],
    "mu.register_residual(mu.nn.Block, 'mlp down')": ["'mlp down' is not a path below a Block", "mlp.layers[-1]"],
    "mu.mup().replace('ouput', lr=1.0)": ["role 'ouput'", "did you mean 'output'"],
    "mu.mup().replace('output', learning_rate=1.0)": ["'learning_rate'", "init_std, lr"],
    "mu.mup().tune('output', multplier=1.0)": ["'multplier'", "did you mean 'multiplier'"],
    "mu.parameterize(make, mu.mup(), base=dict(d_model=8), target=dict(d_model=8.0))": ["d_model must be int, got 8.0"],
    "mu.register_axes(mu.nn.Linear, weigth=('in', 'out'))": ["'weigth'", "did you mean 'weight'"],
    "make(d_model=8, activation='rele', key=key)": ["activation 'rele'", "did you mean 'relu'"],
    "make(d_model=8, norm_gain='vectors', key=key)": ["gain 'vectors'", "did you mean 'vector'"],
    "make(d_model=8, attention_backend='flesh', key=key)(tokens)": ["backend 'flesh'", "blockwise"],
    "make(d_model=8, remat='projection', key=key)": ["remat 'projection'", "did you mean 'projections'"],
    "mu.adamw(tree, learning_rate=0.1, decay='coupled')": ["decay 'coupled'", "independent, l2, scaled, standard"],
    "mu.adamw(tree, learning_rate=mu.warmup_schedule(total=9, warmup=1))": ["learning_rate is a number", "schedule="],
    "mu.adamw(tree, learning_rate='0.1')": ["learning_rate must be float, got '0.1'"],
    "mu.adamw(tree, learning_rate=float('nan'))": ["learning_rate must be finite, got nan"],
    "mu.adamw(tree, learning_rate=0.1, b1=1.5)": ["b1 must be at least 0 and below 1, got 1.5"],
    "mu.adamw(tree, learning_rate=0.1, eps=-1)": ["eps must be at least 0, got -1"],
    "mu.adamw(tree, learning_rate=0.1, clip_norm=0)": ["clip_norm must be above 0, got 0"],
    "mu.adamw(tree, learning_rate=0.1, schedule=0.5)": ["schedule is a function", "got 0.5"],
    "mu.adamw(model, learning_rate=0.1)": ["adamw takes the tree of rules", "got Transformer"],
    "mu.scaled(model, tree)": ["the tree of rules is the first argument and the model the second"],
    "mu.fold(model, tree)": ["the tree of rules is the first argument and the model the second"],
    "mu.table(model)": ["table takes the tree of rules", "got Transformer"],
    "mu.to_json(model)": ["to_json takes the tree of rules", "got Transformer"],
    "mu.initialize(model, key)": ["initialize takes the tree of rules", "got Transformer"],
    "mu.parameterize(make, mu.mup, base=dict(d_model=8), target=dict(d_model=8))": ["got mup", "write mup()"],
    "mu.parameterize(make, mu.mup(), base=8, target=8)": ["sizes by name", "got 8 and 8"],
    "mu.adamw(tree, learning_rate=0.1).init(wider)": [
        "embedding.weight is an array [11, 16] here and [11, 8] in the tree"
    ],
    "mu.adamw(tree, learning_rate=None)": ["learning_rate must be float, got None"],
    "mu.scaled(tree, tree)": ["a tree of rules was given in place of the model"],
    "mu.initialize(tree, 0)": ["key must be a random key", "got 0"],
    "mu.initialize(tree, jax.random.split(key, 2))": ["one random key, got 2 keys", "jax.vmap"],
    "mu.multi_transform(tree, None)": ["factory must be a function"],
    "mu.multi_transform(tree, lambda rule: None)": ["factory must make an optax transformation, and made None"],
    "mu.mup().tune('output', multiplier=float('nan'))": ["multiplier of output must be finite, got nan"],
    "mu.mup().tune('output', lr='2')": ["lr of output must be float, got '2'"],
    "mu.mup().shift('output', 0)": ["a shift is by a positive factor, got 0"],
    "mu.sweep(mu.SweepConfig(), out='out', launcher=mu.Slurm)": [
        "a launcher, e.g. equimu.Slurm() or 'slurm'",
        "class Slurm",
    ],
    "mu.sweep(mu.SweepConfig(), out='out', launcher='sloorm')": ["launcher 'sloorm'", "did you mean 'slurm'"],
    "mu.mup().replace('output', init_std='x')": ["a law must be float, got 'x'"],
    "mu.completep('1')": ["alpha must be float, got '1'"],
    "mu.parameterization.parameterization_from_text('tpv(4)')": ["table 4", "3, 8, 9"],
    "mu.parameterization.parameterization_from_text('mup(form=absolut)')": [
        "form 'absolut'",
        "did you mean 'absolute'",
    ],
    "mu.parameterization.parameterization_from_text('completep(alpha=half)')": ["alpha must be float, got 'half'"],
    "mu.parameterization.parameterization_from_text('mup.tune(3, lr=1)')": ["where must be str, got 3"],
    "mu.parameterization.parameterization_from_text('mup.replace(ouput, lr=1)')": ["did you mean 'output'"],
    "mu.parameterization.parameterization_from_text(mu.mup)": ["a parameterization must be str, got the function mup"],
    "mu.parameterization.parameterization_from_dict([])": ["a parameterization must be a dict by names, got []"],
    "mu.parameterization.parameterization_to_dict(mu.mup)": ["table must be Parameterization, got the function mup"],
    "mu.parameterization.register_parameterization('mine', 3)": ["function must be a function", "got 3"],
    "mu.parameterize(make, mu.mup(), base=dict(width=8), target=dict(width=8))": [
        "make cannot be called as make(width=..., key=key)"
    ],
    "mu.parameterize(make, mu.completed_p(), **small, batch_ratio=float('nan'))": ["batch_ratio must be finite"],
    "mu.check_uses(model, len, tokens)": ["check_uses takes the tree of rules", "got Transformer"],
    "mu.check_uses(tree, lambda model, x: x, tokens)": ["function uses no array of the model"],
    "check(sizes=[8, 16])": ["each of sizes must be a dict by names, got 8"],
    "check(tree=tree)": ["tree must be a function", "got a tree"],
    "check(seeds=0)": ["seeds is a number of seeds or a list", "got 0"],
    "check(optimizer=lambda tree: None)": ["optimizer must make an optax transformation, and made None"],
    "mu.warmup_schedule(total=9, warmup=1, decay='linaer')": ["decay 'linaer'", "did you mean 'linear'"],
    "mu.LanguageModel(loss_denominator='masks')": ["loss_denominator 'masks'", "did you mean 'mask'"],
    "mu.LanguageModel(text=3)": ["text must be"],
    "mu.RunConfig(task=3)": ["task must be an equimu.Task, got 3"],
    "mu.RunConfig(parameterization=3)": ["parameterization must be a table", "got 3"],
    "mu.RunConfig(size={'widht': 3})": ["size names 'widht'", "did you mean 'width'"],
    "mu.task(name='mine', make=3, data=None, loss=len)": ["data must be"],
}
PROGRAM = """
import equinox as eqx, functools, json, jax, jax.numpy as jnp, equimu as mu
make = functools.partial(mu.nn.Transformer, vocab_size=11, n_layer=1, head_dim=8)
tree = mu.parameterize(make, mu.mup(), base=dict(d_model=8), target=dict(d_model=8))
model = make(d_model=8, key=jax.random.key(0))
wider = eqx.filter(make(d_model=16, key=jax.random.key(0)), eqx.is_inexact_array)
small = dict(base=dict(d_model=8), target=dict(d_model=8))
key, tokens = jax.random.key(0), jnp.arange(4)
def check(**odd):
    given = dict(sizes=[dict(d_model=8), dict(d_model=16)], optimizer=lambda tree: mu.adamw(tree, learning_rate=0.1))
    call = {name: odd.pop(name) for name in ("seeds", "tree") if name in odd}
    loss = lambda model, tokens: model(tokens).sum()
    probe = mu.diagnostics.CoordinateProbe(make, base=dict(d_model=8), loss=loss, batches=[tokens], **given | odd)
    probe(mu.mup(), **call)
def message(expression):
    try:
        eval(expression)
    except mu.EquimuError as error:
        return str(error)
    return "no error"
print(json.dumps([message(expression) for expression in EXPRESSIONS]))
"""


@pytest.fixture(scope="module")
def messages():
    program = PROGRAM.replace("EXPRESSIONS", repr(list(WRONG)))
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(zip(WRONG, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("expression", WRONG)
def test_wrong_choice_is_told_in_one_line_with_what_is_right(messages, expression):
    assert all(word in messages[expression] for word in WRONG[expression]), messages[expression]
    assert "\n" not in messages[expression]
