"""How arrays are used is read off the traced program, under any transform, and compared with what is declared."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name
from tiers import long_but

import equimu as mu
from benchmarks.coordinate._subjects import subjects
from equimu.declarations._leaves import locate
from equimu.parameterization._uses import uses, words_of

N, CLASSES = 16, 3

pytestmark = pytest.mark.usefixtures("light_compilation")


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


X = shape(5, N)


def only(function, *model, x=X):
    """The uses of a single array in `function(array, x)`."""
    return uses(lambda model, x: function(*model, x), list(model), x)["[0]"]


def kinds(found):
    return [(use.kind, use.partner, sorted(use.contracted), sorted(use.kept)) for use in found]


# --- one operation at a time: what it does with each axis is known from the operation


@pytest.mark.parametrize(
    ("function", "array", "expected"),
    [
        (lambda w, x: x @ w, shape(N, 4), ("product", "data", [0], [1])),
        (lambda w, x: x @ w.T, shape(4, N), ("product", "data", [1], [0])),
        (lambda w, x: jnp.tanh(x) @ (3 * w.astype(jnp.float32)).T, shape(4, N), ("product", "data", [1], [0])),
        (lambda w, x: x @ w.reshape(2, 8, 4).reshape(N, 4), shape(N, 4), ("product", "data", [0], [1])),
        (lambda w, x: x @ w[:, :2], shape(N, 4), ("product", "data", [0], [1])),
        (lambda w, x: x @ (w / jnp.linalg.norm(w, axis=0)), shape(N, 4), ("product", "data", [0], [1])),
        (lambda w, x: jnp.einsum("thi,hio->to", x.reshape(5, 4, 4), w), shape(4, 4, 7), ("product", "data", [0, 1], [2])),
        (lambda w, x: jax.vmap(lambda one: w @ one)(x), shape(4, N), ("product", "data", [1], [0])),
        (lambda w, x: jax.checkpoint(lambda w, x: x @ w)(w, x), shape(N, 4), ("product", "data", [0], [1])),
        (lambda w, x: checkpoint_name(x, "x") @ checkpoint_name(w, "w"), shape(N, 4), ("product", "data", [0], [1])),
        (lambda w, x: jax.jit(lambda w, x: x @ w)(w, x), shape(N, 4), ("product", "data", [0], [1])),
        (lambda w, x: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x @ w + 1), shape(N, 4), ("product", "data", [0], [1])),
        (lambda w, x: jax.nn.one_hot(x[0].astype(int), 9) @ w, shape(9, N), ("product", "data", [0], [1])),
        # A vector: contracted by a product, by an elementwise one and a sum, or not at all.
        (lambda w, x: x @ w, shape(N), ("product", "data", [0], [])),
        (lambda w, x: jnp.sum(x * w, axis=-1) / 7, shape(N), ("multiply", "data", [0], [])),
        (lambda w, x: jnp.mean(w * jnp.tanh(x) * 2.0, axis=-1), shape(N), ("multiply", "data", [0], [])),
        (lambda w, x: jnp.tanh(x * w).sum(-1), shape(N), ("multiply", "data", [], [0])),
        (lambda w, x: jax.nn.standardize(x * w), shape(N), ("multiply", "data", [], [0])),
        (lambda w, x: x + w, shape(N), ("add", "data", [], [0])),
        (lambda w, x: x - 2 * w, shape(N), ("add", "data", [], [0])),
    ],
)  # fmt: skip
def test_operations(function, array, expected):
    found = kinds(only(function, array))
    assert all(one == expected for one in found) and found


def test_convolutions_and_look_ups():
    image = shape(1, 8, 6, 6)

    def convolved(groups):
        return lambda w, x: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", feature_group_count=groups)

    (use,) = only(convolved(1), shape(12, 8, 3, 3), x=image)
    assert use.contracted == {1, 2, 3} and use.kernel == {2, 3} and use.kept == {0}
    (use,) = only(convolved(4), shape(12, 2, 3, 3), x=image)
    assert use.kernel == {1, 2, 3}
    ids = shape(2, 5, dtype=jnp.int32)
    for read in (
        lambda w, t: w[t],
        lambda w, t: jnp.take(w, t, axis=0),
        lambda w, t: jax.vmap(lambda i: w[i])(t[0]),
        lambda w, t: w[t[0, 0]],
    ):
        (use,) = only(read, shape(9, N), x=ids)
        assert use.kind == "lookup" and use.read == {0} and use.kept == {1}
    # A fixed part of an array is not a look-up.
    assert only(lambda w, x: x @ w[2], shape(3, N, 4))[0].kind == "product"


def test_stacks_are_followed_through_a_scan():
    def layers(w, x):
        return jax.lax.scan(lambda h, one: (jnp.tanh(h @ one), None), x, w)[0]

    (use,) = only(layers, shape(3, N, N))
    assert use.partner == "activation" and use.contracted == {1} and use.kept == {2}
    # The last layer's features leave the loop, and those of the others are read by the next one, both after a tanh.
    assert use.fates[2] == {"bent", "output"}


def test_one_array_of_a_low_rank_pair_is_not_multiplied_away():
    found = uses(lambda m, x: x @ (m[0] @ m[1]), [shape(N, 2), shape(2, 4)], X)
    assert kinds(found["[0]"]) == [("product", "data", [0, 1], [])]
    assert kinds(found["[1]"]) == [("product", "data", [0], [1])]


def test_each_use_is_counted_and_shared_code_is_no_shared_use():
    layer = jax.jit(lambda w, x: x @ w)
    found = uses(lambda m, x: layer(m[0], layer(m[0], layer(m[1], x))), [shape(N, N)] * 2, X)
    assert [len(found[path]) for path in ("[0]", "[1]")] == [2, 1]
    assert uses(lambda m, x: x, [shape(N)], X) == {"[0]": ()}


# --- what becomes of an outcome


def attention(keys, x):
    scores = jnp.tanh(x)[:, :4] @ (x @ keys).T
    return jax.nn.softmax(scores) @ x


@pytest.mark.parametrize(
    ("function", "inside"),
    [
        (attention, True),
        (lambda w, x: attention(w / 1.0, x * 2), True),
        (lambda w, x: jax.nn.softmax(x @ w) @ jnp.tanh(x)[:4], False),  # a router's outputs are shares
        (lambda w, x: x @ w, False),
        (lambda w, x: jax.nn.standardize(x @ w) @ jnp.tanh(x)[:4, :4], True),  # a norm between them
    ],
)
def test_what_is_multiplied_with_features_stays_inside(function, inside):
    (use,) = only(function, shape(N, 4))
    assert use.stays_inside(1) == inside


# --- declarations


class Scored(eqx.Module):
    """Features, and a vector or a matrix that scores them."""

    first: eqx.nn.Linear
    scorer: jax.Array

    def __init__(self, width, *, key):
        self.first = eqx.nn.Linear(N, width, key=key)
        self.scorer = jax.random.normal(key, (width,))

    def __call__(self, x):
        return jnp.tanh(self.first(x)) @ self.scorer


class Gained(Scored):
    def __call__(self, x):
        return jnp.tanh(self.first(x)) * self.scorer


class TiedByHand(eqx.Module):
    embedding: eqx.nn.Embedding

    def __init__(self, width, *, key):
        self.embedding = eqx.nn.Embedding(9, width, key=key)

    def __call__(self, x):
        return jax.vmap(self.embedding)(x.astype(int)) @ self.embedding.weight.T


class TiedByProperty(eqx.Module):
    readout: eqx.nn.Linear

    def __init__(self, width, *, key):
        self.readout = eqx.nn.Linear(width, 9, use_bias=False, key=key)

    @property
    def embedding(self):
        return self.readout.weight

    def __call__(self, x):
        return jax.vmap(self.readout)(self.embedding[x.astype(int)])


class FewKeys(eqx.Module):
    query: eqx.nn.Linear
    key: eqx.nn.Linear

    def __init__(self, width, *, key):
        self.query = eqx.nn.Linear(N, width, key=key)
        self.key = eqx.nn.Linear(width, 4, key=key)

    def __call__(self, x):
        h = self.query(x)
        return jax.nn.softmax(h.reshape(-1, 4) @ self.key(h)) @ h.reshape(-1, 4)


def told(make, parameterization=None):
    tree = mu.parameterize(make, parameterization or mu.mup(), base={"width": 8}, target={"width": 16})
    return [str(found) for found in mu.check_uses(tree, lambda model, x: jax.vmap(model)(x), X)]


def told_whole(make):
    tree = mu.parameterize(make, mu.mup(), base={"width": 8}, target={"width": 16})
    return [str(found) for found in mu.check_uses(tree, lambda model, x: model(x), shape(N))]


def test_a_vector_that_features_are_contracted_with_is_a_readout():
    (line,) = told(Scored)
    assert line.startswith("scorer is used as a readout") and line.endswith(
        'equimu.register_axes(Scored, scorer=("in",))'
    )
    assert told(Gained) == []


def test_a_table_that_is_used_twice_is_told():
    for make, path in ((TiedByHand, "embedding.weight"), (TiedByProperty, "readout.weight")):
        (line,) = told_whole(make)
        assert line.startswith(f"{path} is used twice") and "TiedEmbedding" in line


def test_keys_of_few_heads_are_no_readout_and_the_line_is_right():
    (line,) = told(FewKeys)
    assert line.endswith('equimu.register_axes(FewKeys, **{"key.weight": ("inner", "in")})')

    class Declared(FewKeys):
        pass

    mu.register_axes(Declared, **{"key.weight": ("inner", "in")})
    assert told(Declared) == []


@pytest.mark.parametrize(
    "name",
    long_but(
        subjects().keys() - {"encoder-decoder", "residual net of lists", "state space", "transformer, biases"},
        list(subjects()),
    ),
)
def test_models_that_are_declared_right_agree(name):
    one = subjects()[name]
    tree = mu.parameterize(one.make, mu.tpv(8), base=one.base, target=one.base | one.sizes[1])
    assert mu.check_uses(tree, one.loss, one.batches[0]) == []
    # And the uses alone give the words that the library's own layers are declared with.
    found = uses(one.loss, tree, one.batches[0])
    same = {"inner": "out", "stack": "table"}  # one fan, and none
    model = eqx.filter_eval_shape(lambda key: one.make(**one.base, key=key), jax.random.key(0))
    for leaf in locate(model):
        if leaf.axes is None or len(leaf.shape) < 2 or leaf.axes.tied or "bias" in leaf.path:
            continue
        words = words_of(
            leaf, found[leaf.path], [a for a, size in enumerate(leaf.shape) if size >= min(one.base.values())]
        )
        wanted = tuple(same.get(word, word) for word in leaf.axes.words)
        assert words is not None
        words = words[-len(wanted) :]  # copies that all read the same input, such as experts, are seen as outputs
        assert tuple(same.get(word, word) for word in words) == wanted, leaf.path


class Tied(eqx.Module):
    table: jax.Array
    scale: Any

    def __init__(self, width, scale, *, key):
        self.table, self.scale = jax.random.normal(key, (11, width)), scale

    def __call__(self, ids):
        return self.table[ids] @ self.table.T


class Multiplied(Tied):
    def __call__(self, ids):
        return super().__call__(ids) * self.scale


mu.register_axes(Tied, table=mu.axes("table", "out", tied=("out", "in"), tied_multiplier="scale"))


def test_a_tie_needs_an_array_that_the_model_multiplies_by():
    def tree_of(cls, scale):
        return mu.parameterize(
            lambda width, key: cls(width, scale, key=key), mu.tpv(8), base={"width": 8}, target={"width": 16}
        )

    for nothing in (None, 1.0):
        with pytest.raises(
            mu.EquimuError, match="table is declared to be used twice.*Tied.scale, which is not an array"
        ):
            tree_of(Tied, nothing)
    ids = jnp.arange(6)
    (unused,) = mu.check_uses(tree_of(Tied, jnp.asarray(1.0)), lambda model, ids: model(ids).sum(), ids)
    assert unused.path == "scale" and "the model does not use it" in str(unused)
    assert mu.check_uses(tree_of(Multiplied, jnp.asarray(1.0)), lambda model, ids: model(ids).sum(), ids) == []
