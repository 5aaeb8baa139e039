"""`equimu sweep --suggest`: the cells to add, and the flags that run them."""

import re
import shlex

from equimu._errors import EquimuError
from equimu._terminal import wrapped
from equimu._values import Real
from equimu.reports import Addition, JointLaw, Report, Suggestion, suggest
from equimu.sweeps import SweepConfig

_SIZE = re.compile(r"([\w.]+)=([\d.]+(?:e[+-]?\d+)?)")


def target_of(given: tuple[str, ...], config: SweepConfig) -> dict[str, Real]:
    """The sizes that `--suggest` names.

    Raises:
        EquimuError: a text is not a size, or the sizes are not those that the sweep varies, each once.
    """
    found: dict[str, float] = {}
    for text in given:
        match = _SIZE.fullmatch(text)
        if match is None or match.group(1) in found:
            raise EquimuError(
                f"--suggest takes each size by name once, e.g. --suggest width=1024 steps=8000; got {text!r}"
            )
        found[match.group(1)] = float(match.group(2))
    varied = [name for name, values in config.over.items() if len(values) > 1]
    if given and (set(found) != set(varied) or len(varied) < 2):
        named = " ".join(f"{name}=..." for name in varied)
        raise EquimuError(
            f"--suggest names {', '.join(found)}, but the sweep varies {', '.join(varied)}: "
            + (
                f"write --suggest {named}"
                if len(varied) > 1
                else "it needs values of two sizes or more, e.g. --over.steps"
            )
        )
    return found


def print_suggestions(report: Report, target: dict[str, Real], config: SweepConfig, out: str) -> None:
    """Prints what to add to the sweep of each panel."""
    for panel in report.laws:
        if panel.law is None:
            print(wrapped(f"{panel.panel}: no cells can be suggested: {panel.why_not}"))
            continue
        print(wrapped(_heading(panel.law, suggested := suggest(panel.law, target))))
        for each in suggested.additions:
            print(f"  equimu sweep {_flags(panel.law, each, config)} --out {out}")
    if report.laws:
        print(f"with the sweep's other flags as they are, and then: equimu report {out} --over {' '.join(config.over)}")


def _heading(law: JointLaw, suggested: Suggestion) -> str:
    at = ", ".join(f"{name} {value:g}" for name, value in suggested.target.items())
    point = law.at(**suggested.target).point
    digits = law.fitted.digits
    now, then = (f"{law.fitted.shown(half):.{digits}f}" for half in (suggested.before, suggested.after))
    still = "" if suggested.halves else ", which is as far as such cells get"
    return (
        f"{law.panel}: at {at} the law predicts {law.fitted.label} {law.fitted.shown(point):.{digits}f} ± {now}; "
        f"{suggested.cells} more cells make that about ± {then}{still}:"
    )


def _flags(law: JointLaw, addition: Addition, config: SweepConfig) -> str:
    fixed = {name: values[0] for name, values in config.over.items() if name not in law.names}
    over = [f"--over.{_flag(name)} {value:g}" for name, value in {**fixed, **addition.sizes}.items()]
    # Rules are relative to the smallest size of a grid, which of these cells would be another one.
    sizes = {path.removeprefix("size.") for path in config.axes.over if path.startswith("size.")}
    base = {name: min(values) for name, values in config.over.items() if name in sizes} | dict(config.base)
    values = " ".join(_value(law, point) for point in addition.points)
    return " ".join(
        [
            f"--panels {shlex.quote(law.panel)}",
            *over,
            *(f"--base.{_flag(name)} {value:g}" for name, value in base.items()),
            f"--fit.{_flag(law.fitted.name)} {values}",
            f"--seeds {_seeds(law, addition)}",
        ]
    )


def _seeds(law: JointLaw, addition: Addition) -> str:
    """New seeds with those that were run, which are not run again: a single number would stand for as many seeds."""
    old = [curve.seeds for curve, sizes in zip(law.curves, law.sizes, strict=True) if sizes == addition.sizes]
    seeds = sorted({*addition.seeds, *(seed for each in old for seed in each)})
    if seeds == list(range(len(seeds))):
        return str(len(seeds))
    return " ".join(map(str, seeds if len(seeds) > 1 else [0, *seeds]))


def _value(law: JointLaw, point: Real) -> str:
    return f"2**{point:g}" if law.fitted.scale == "log2" else f"{law.fitted.value(point):g}"


def _flag(name: str) -> str:
    return name.replace("_", "-")
