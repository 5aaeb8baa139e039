"""The grid of a sweep: parameterizations × widths × learning rates × seeds."""

import dataclasses
import itertools
import re
import typing
from collections.abc import Iterator

from equimu._errors import EquimuError, nearest
from equimu._values import Log2, Seed, Size, check_fields
from equimu.train import ParameterizationConfig, RunConfig

_NAMES: tuple[str, ...] = typing.get_args(typing.get_type_hints(ParameterizationConfig)["name"])
# What may stand behind a name, for those tables that have a choice.
_WITH_FORM = ("mup", "tpv3", "tpv8", "tpv9", "spectral")
_WITH_ALPHA = ("completep", "completed-p")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A sweep of learning rates over widths, or over depths, each cell of which is one run."""

    run: RunConfig = RunConfig()
    """What all cells share."""
    parameterizations: tuple[str, ...] = ("mup", "sp")
    """Names as in parameterization.name; with -absolute behind them for that form, -none for Everett's other alignment, or a
    number for the power of the depth (completep-0.5)."""
    widths: tuple[Size, ...] = (32, 64, 128, 256)
    depths: tuple[Size, ...] = ()
    """Numbers of blocks, at the one width that run.model.width is, in place of widths."""
    log2_learning_rates: tuple[Log2, ...] = (-9.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0)
    seeds: tuple[Seed, ...] = (0, 1, 2)
    base_width: Size | None = None
    """Width that the rules are relative to; None for the smallest of the grid."""
    base_n_layer: Size | None = None
    """Depth that the rules are relative to; None for the smallest of the grid."""

    def __post_init__(self):
        check_fields(self)
        for name in ("parameterizations", "widths", "depths", "log2_learning_rates", "seeds"):
            values = getattr(self, name)
            if not values and name != "depths":
                raise EquimuError(f"the grid is empty: {name} has no value; give at least one")
            if len(set(values)) != len(values):
                raise EquimuError(f"{name} names a value twice: {', '.join(map(str, values))}")
        for name in self.parameterizations:
            _fields_of(name)
        default, given = RunConfig(), self.run
        if self.depths and self.widths != SweepConfig.widths:
            raise EquimuError(
                "a sweep is over widths or over depths; of a sweep over depths, the width is run.model.width"
            )
        along = (
            {"model.n_layer": (given.model.n_layer, default.model.n_layer, "depths")}
            if self.depths
            else {"model.width": (given.model.width, default.model.width, "widths")}
        )
        taken = along | {
            "optimizer.learning_rate": (
                given.optimizer.learning_rate,
                default.optimizer.learning_rate,
                "log2_learning_rates",
            ),
            "seed": (given.seed, default.seed, "seeds"),
            "parameterization.name": (
                given.parameterization.name,
                default.parameterization.name,
                "parameterizations",
            ),
            "parameterization.form": (
                given.parameterization.form,
                default.parameterization.form,
                "parameterizations",
            ),
            "parameterization.alignment": (
                given.parameterization.alignment,
                default.parameterization.alignment,
                "parameterizations",
            ),
            "parameterization.alpha": (
                given.parameterization.alpha,
                default.parameterization.alpha,
                "parameterizations",
            ),
            "parameterization.base_width": (
                given.parameterization.base_width,
                default.parameterization.base_width,
                "base_width",
            ),
            "parameterization.base_n_layer": (given.parameterization.base_n_layer, None, "base_n_layer"),
        }
        for name, (value, usual, grid) in taken.items():
            if value != usual:
                raise EquimuError(f"{name}={value} is for a single run; a sweep takes it from {grid}")


def cells(config: SweepConfig) -> Iterator[RunConfig]:
    """The runs of the grid, ordered such that those of one size, which share a compiled program, are neighbours."""
    run = config.run
    widths = (run.model.width,) if config.depths else config.widths
    depths = config.depths or (run.model.n_layer,)
    base_width = min(widths) if config.base_width is None else config.base_width
    base_n_layer = min(depths) if config.base_n_layer is None else config.base_n_layer
    for width, n_layer, name, seed, exponent in itertools.product(
        widths, depths, config.parameterizations, config.seeds, config.log2_learning_rates
    ):
        parameterization = dataclasses.replace(
            run.parameterization, **_fields_of(name), base_width=base_width, base_n_layer=base_n_layer
        )
        yield dataclasses.replace(
            run,
            model=dataclasses.replace(run.model, width=width, n_layer=n_layer),
            parameterization=parameterization,
            optimizer=dataclasses.replace(run.optimizer, learning_rate=2.0**exponent),
            seed=seed,
            # One cell that diverges is a result, and no reason to stop the others.
            on_nonfinite="record" if run.on_nonfinite == "stop" else run.on_nonfinite,
        )


def parameterization_name(config: ParameterizationConfig) -> str:
    """The name by which a grid asks for a parameterization."""
    if config.name in _WITH_FORM and config.form == "absolute":
        return f"{config.name}-absolute"
    if config.name.startswith("everett") and config.alignment == "none":
        return f"{config.name}-none"
    if config.name in _WITH_ALPHA and config.alpha != 1:
        return f"{config.name}-{config.alpha:g}"
    return config.name


def _fields_of(label: str) -> dict[str, typing.Any]:
    """The fields of a `ParameterizationConfig` that a label asks for; the inverse of `parameterization_name`."""
    if label in _NAMES:
        return {"name": label}
    name, _, choice = label.rpartition("-")
    if name in _WITH_FORM and choice == "absolute":
        return {"name": name, "form": choice}
    if name in _NAMES and name.startswith("everett") and choice == "none":
        return {"name": name, "alignment": choice}
    if name in _WITH_ALPHA and re.fullmatch(r"0?\.\d+", choice):
        return {"name": name, "alpha": float(choice)}
    raise EquimuError(f"parameterization {label!r} is unknown: {nearest(label, _NAMES)}")
