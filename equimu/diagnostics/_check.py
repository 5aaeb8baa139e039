"""`coord_check`: does a model behave, as it grows, as its parameterization says?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from equimu._errors import EquimuError
from equimu._values import Count, check, check_function, check_keys, shown
from equimu.diagnostics._explain import explain
from equimu.diagnostics._measure import Experiment, Forward, Loss, MakeOptimizer, Measured
from equimu.diagnostics._pool import first_of_pool, pooled
from equimu.diagnostics._result import CoordinateCheck
from equimu.diagnostics._theory import theory
from equimu.diagnostics._verdicts import leaf_rows, site_rows
from equimu.parameterization import Parameterization, Tree, disagreements, parameterize, rules_of, scaled

EditTree: TypeAlias = Callable[[Tree[Any]], Tree[Any]]
SEEDS = range(6)


class CoordinateProbe:
    """The experiment of a coordinate check for one model, loss and optimizer.

    Its programs are compiled once, for any number of parameterizations, seeds and edited trees. Its arguments
    `make`, `base`, `sizes`, `loss`, `batches`, `optimizer`, `steps` and `forward` are those of `coord_check`.

    Raises:
        EquimuError: as of `coord_check`.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        *,
        base: Mapping[str, int],
        sizes: Sequence[Mapping[str, int]],
        loss: Loss,
        batches: Sequence[Any],
        optimizer: MakeOptimizer,
        steps: int = 3,
        forward: Forward = scaled,
    ):
        """All arguments are those of `coord_check`."""
        if not isinstance(batches, list) or not batches:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EquimuError("batches is a list of batches, and not empty; write [batch] for a single one")
        check(Count, steps=steps)
        check_function("loss", loss, "of a model and a batch")
        check_function(
            "optimizer", optimizer, "from a tree of rules to an optimizer, e.g. lambda tree: adamw(tree, ...)"
        )
        check_keys("base", base)
        if not isinstance(sizes, list | tuple):
            raise EquimuError(
                f"sizes is a list of sizes by name, e.g. [{{'width': 64}}, {{'width': 128}}], got {shown(sizes)}"
            )
        for size in sizes:
            check_keys("each of sizes", size)
        self._make = make
        self._base = dict(base)
        self._targets = [{**base, **size} for size in sizes]
        self._size = _varied(self._targets, self._base)
        self._steps = steps
        self._experiment = Experiment(loss=loss, batches=batches, optimizer=optimizer, steps=steps, forward=forward)

    def __call__(
        self,
        parameterization: Parameterization,
        *,
        seeds: int | Sequence[int] = SEEDS,
        tree: EditTree = lambda tree: tree,
        on_size: Callable[[int, int], None] = lambda done, size: None,
    ) -> CoordinateCheck:
        """Trains at all sizes, and judges; arguments and result are those of `coord_check`.

        Raises:
            EquimuError: as of `coord_check`.
        """
        listed = range(seeds) if isinstance(seeds, int) else seeds
        if not isinstance(listed, Sequence) or not listed:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EquimuError(f"seeds is a number of seeds or a list of them, at least one; got {shown(seeds)}")
        check_function("tree", tree, "from a tree of rules to an edited one")
        if rules_of(tree):
            raise EquimuError("tree must be a function from a tree of rules to an edited one, got a tree")
        trees = [parameterize(self._make, parameterization, base=self._base, target=target) for target in self._targets]
        sizes = [target[self._size] for target in self._targets]
        measured: list[Measured] = []
        for own, size in zip(trees, sizes, strict=True):
            measured.append(self._experiment.measure(tree(own), listed))
            on_size(len(measured), size)
        doubts = disagreements(trees[0], measured[0].uses)
        measured = pooled(measured)
        unreached = self._unreached(tree(trees[0]), measured)
        decays = any(bool(np.any(one.decay > 0)) for one in measured)
        said = theory(
            trees,
            sizes,
            measured[0].leaves,
            [one.sites for one in measured],
            about=[one.about for one in measured],
            last=measured[0].last,
            decays=decays,
        )
        rows = site_rows(measured, sizes, said) + leaf_rows(measured, sizes, said, unreached)
        for one in measured:
            if not np.isfinite(one.output).all():
                raise EquimuError(
                    f"activations are no longer finite within {self._steps} steps; lower the learning rate"
                )
        flatness = {
            path: [float(one.flatness[..., index].max(axis=1).mean()) for one in measured]
            for index, path in enumerate(measured[0].leaves)
        }
        return CoordinateCheck(
            parameterization=parameterization.name,
            optimizer=parameterization.optimizer,
            size=self._size,
            sizes=tuple(sizes),
            seeds=len(listed),
            steps=self._steps,
            predicted_growth=said.growth,
            rows=tuple(explain(row, said, parameterization, sizes, flatness, doubts) for row in rows),
            notes=(
                *map(str, doubts),
                *(f"{path} has a learning rate and never moves: the loss does not depend on it" for path in unreached),
            ),
        )

    def _unreached(self, tree: Tree[Any], measured: Sequence[Measured]) -> list[str]:
        """Leaves that never move because the loss does not depend on them."""
        never = np.all([~one.update.any(axis=(0, 1)) for one in measured], axis=0)
        paths = [path for path, still in zip(measured[0].leaves, never, strict=True) if still]
        rates = {rule.path: rule.lr for rule in rules_of(tree)}
        paths = [path for path in paths if rates[first_of_pool(path)] != 0]
        if not paths:
            return []
        reached = dict(zip(rates, self._experiment.reached(tree), strict=True))
        return [path for path in paths if not reached[first_of_pool(path)]]


def coord_check(
    make: Callable[..., Any],
    parameterization: Parameterization,
    *,
    base: Mapping[str, int],
    sizes: Sequence[Mapping[str, int]],
    loss: Loss,
    batches: Sequence[Any],
    optimizer: MakeOptimizer,
    steps: int = 3,
    seeds: int | Sequence[int] = SEEDS,
    forward: Forward = scaled,
    tree: EditTree = lambda tree: tree,
) -> CoordinateCheck:
    """Trains a model for a few steps at several sizes, and tells whether it behaves as its parameterization says.

    Every output of every module is recorded, of any Equinox model as it is, and every leaf's draw, update and decay. Each is
    compared, as a power of the size, with what the laws of the parameterization predict.

    Args:
        make: the model's constructor, as for `parameterize`.
        parameterization: what the model should do; its laws are the yardstick.
        base: the sizes of the small model, as for `parameterize`.
        sizes: what of them is changed, e.g. `[{"d_model": 64}, {"d_model": 128}, {"d_model": 256}]`; widths or
            depths. At least two; three or more tell a power from a bend.
        loss: of a model and a batch, a scalar. The model is what the forward pass uses: its multipliers are applied. A loss
            with an argument `state` is given the `eqx.nn.State` that the model starts with.
        batches: a list of batches of one shape, used in turn; activations are recorded on the first.
        optimizer: from a tree of rules to the optimizer, e.g. `lambda tree: equimu.adamw(tree, learning_rate=2**-9)`. Choose a
            learning rate so small that a few steps are far from the end of training.
        steps: updates.
        seeds: of the initial weights; a number n stands for 0 to n - 1. The intervals come from their spread.
        forward: from a tree and a model to what the loss is given.
        tree: what is done to each tree of rules before it is used, for trees that are edited by hand.

    Returns:
        Rows and verdict.

    Raises:
        EquimuError: sizes that do not vary or fit, a loss that is not a scalar or calls no module, training that is not
            finite.
    """
    probe = CoordinateProbe(
        make,
        base=base,
        sizes=sizes,
        loss=loss,
        batches=batches,
        optimizer=optimizer,
        steps=steps,
        forward=forward,
    )
    return probe(parameterization, seeds=seeds, tree=tree)


def _varied(targets: Sequence[Mapping[str, int]], base: Mapping[str, int]) -> str:
    """The name of the size that varies; where several do, they must grow together."""
    for target in targets:
        if set(target) != set(base):
            odd = min(set(target) - set(base))
            raise EquimuError(f"sizes name {odd!r}, which base does not; name each size in both")
    varied = [name for name in base if len({target[name] for target in targets}) > 1]
    if not varied:
        raise EquimuError(
            f"sizes must hold at least two values of one of {', '.join(sorted(base))}, got {list(targets)}"
        )
    values = [target[varied[0]] for target in targets]
    if values != sorted(set(values)):
        raise EquimuError(f"sizes must grow from one to the next, got {varied[0]} {values}")
    for name in varied[1:]:
        if any(
            target[name] * values[0] != targets[0][name] * value for target, value in zip(targets, values, strict=True)
        ):
            raise EquimuError(f"{varied[0]} and {name} vary, and not in one ratio; vary one at a time")
    return varied[0]
