"""Healthy models: every parameterization with every optimizer that it is defined for, on every kind of model."""

from collections.abc import Iterator
from typing import Any

import equimu as mu
from benchmarks.coordinate._subjects import Subject, subjects
from equimu.diagnostics import CoordinateCheck, CoordinateProbe
from equimu.parameterization import Family, Parameterization

OPTIMIZERS: dict[Family, Any] = {
    "adam": lambda tree: mu.adamw(tree, learning_rate=2**-9, weight_decay=1e-3),
    "sign": lambda tree: mu.lion(tree, learning_rate=2**-10, weight_decay=1e-3),
    "sgd": lambda tree: mu.sgd(tree, learning_rate=0.02, momentum=0.9),
    "adafactor": lambda tree: mu.adafactor(tree, learning_rate=2**-8),
    "muon": lambda tree: mu.muon(tree, learning_rate=2**-6, adam_learning_rate=2**-9),
}
TABLES: dict[str, Any] = {
    "SP": mu.sp,
    "μP relative": mu.mup,
    "μP absolute": lambda **how: mu.mup("absolute", **how),
    "Table 3": lambda **how: mu.tpv(3, **how),
    "Table 8": lambda **how: mu.tpv(8, **how),
    "Table 9": lambda **how: mu.tpv(9, form="absolute", **how),
    "NTK": mu.ntk,
    "mean-field": mu.mean_field,
    "Everett SP full": lambda **how: mu.everett("sp", **how),
    "Everett NTK full": lambda **how: mu.everett("ntk", **how),
    "Everett μP none": lambda **how: mu.everett("mup", "none", **how),
    "spectral": mu.spectral,
    "u-μP": mu.umup,
    "depth-μP": lambda **how: mu.depth_mup(decay="independent", **how),
    "CompleteP": lambda **how: mu.completep(decay="independent", **how),
    "Complete(d)P": lambda **how: mu.completed_p(decay="independent", **how),
}


def tables(family: Family) -> dict[str, Parameterization]:
    """Those that are defined for a family of optimizers, by name."""
    made: dict[str, Parameterization] = {}
    for name, table in TABLES.items():
        try:
            made[name] = table(optimizer=family)
        except mu.EquimuError:
            continue  # it says so, and is tested to
    return made


def probe(subject: Subject, family: Family) -> CoordinateProbe:
    """The experiment."""
    return CoordinateProbe(
        subject.make,
        base=subject.base,
        sizes=subject.sizes,
        loss=subject.loss,
        batches=subject.batches,
        optimizer=OPTIMIZERS[family],
    )


def healthy(
    names: tuple[str, ...] = (), families: tuple[Family, ...] = tuple(OPTIMIZERS), seeds: Any = range(6)
) -> Iterator[tuple[str, Family, str, CoordinateCheck]]:
    """Subject, optimizer, table and check of each combination that is defined."""
    for family in families:
        for name in names or tuple(subjects()):
            experiment = probe(subjects()[name], family)
            for table, parameterization in tables(family).items():
                try:
                    yield name, family, table, experiment(parameterization, seeds=seeds)
                except mu.EquimuError as error:
                    if "tied" not in str(error):  # not every table permits tied embeddings
                        raise
