"""Trees and models in the right places, and exchanged: what a type checker finds is on the lines that end in `error`."""

from typing import assert_type

import jax
from my_lab import Classifier

import equimu as mu

key = jax.random.key(0)
tree = mu.parameterize(Classifier, mu.mup(), base={"width": 16}, target={"width": 32})
model = mu.initialize(tree, key)
assert_type(model, Classifier)
assert_type(mu.scaled(tree, model), Classifier)
print(mu.table(tree), tree.gated.gain.lr)
mu.adamw(tree, learning_rate=1)
other = mu.parameterize(Classifier, mu.mup(form="absolute"), base={"width": 16}, target={"width": 32})
model, state = mu.convert(model, None, tree, other)

mu.initialize(model, key)  # error
mu.scaled(model, tree)  # error
mu.scaled(tree, tree)  # error
mu.fold(model, tree)  # error
mu.table(model)  # error
mu.adamw(model, learning_rate=1)  # error
mu.convert(tree, state, model, other)  # error
