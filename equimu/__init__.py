"""equimu: hyperparameter transfer (μP) in JAX, by trees of rules shaped like the model.

import equimu as mu

tree = mu.parameterize(make, mu.mup(), base={"d_model": 128}, target={"d_model": 1024})
model = mu.initialize(tree, key)
optimizer = mu.adamw(tree, learning_rate=2**-6)
logits = mu.scaled(tree, model)(tokens)

Names are imported when they are first asked for, since much of the library needs JAX and a report on finished runs does not.
"""

from equimu._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__)
