"""`coord_check`: does a model behave, as it grows, as its parameterization says?"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu.diagnostics._judge import Row, leaf_rows, site_rows
from equimu.diagnostics._measure import Experiment, Forward, Loss, MakeOptimizer
from equimu.diagnostics._theory import theory
from equimu.parameterization import Parameterization, parameterize, scaled

EditTree = Callable[[PyTree], PyTree]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordinateCheck:
    parameterization: str
    size: str
    sizes: tuple[int, ...]
    seeds: int
    steps: int
    growth: float
    rows: tuple[Row, ...]

    @property
    def off(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.off)

    @property
    def passed(self) -> bool:
        return not self.off


class CoordinateProbe:
    """The experiment of a coordinate check for one model, loss and optimizer, compiled once for any number of checks."""

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
        self._make = make
        self._base = dict(base)
        self._sizes = [{**base, **size} for size in sizes]
        self._name = _varied(self._sizes)
        self._experiment = Experiment(loss=loss, batches=batches, optimizer=optimizer, steps=steps, forward=forward)
        self._steps = steps

    def __call__(
        self,
        parameterization: Parameterization,
        *,
        seeds: Sequence[int] = range(4),
        tree: EditTree = lambda tree: tree,
    ) -> CoordinateCheck:
        trees = [parameterize(self._make, parameterization, base=self._base, target=size) for size in self._sizes]
        measured = [self._experiment.measure(tree(own), seeds) for own in trees]
        sizes = [size[self._name] for size in self._sizes]
        said = theory(trees, sizes, [one.sites for one in measured])
        rows = site_rows(measured, sizes, said) + leaf_rows(measured, sizes, said)
        return CoordinateCheck(
            parameterization=parameterization.name,
            size=self._name,
            sizes=tuple(sizes),
            seeds=len(seeds),
            steps=self._steps,
            growth=said.growth,
            rows=tuple(rows),
        )


def coord_check(make, parameterization, *, seeds=range(4), tree=lambda tree: tree, **how) -> CoordinateCheck:
    return CoordinateProbe(make, **how)(parameterization, seeds=seeds, tree=tree)


def _varied(sizes: Sequence[Mapping[str, int]]) -> str:
    varied = [name for name in sizes[0] if len({size[name] for size in sizes}) > 1]
    if not varied:
        raise EquimuError("no size varies")
    return varied[0]
