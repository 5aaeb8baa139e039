"""python -m benchmarks.coordinate_faults: which planted mistakes the coordinate check catches, and whether healthy models pass.

python -m benchmarks.coordinate_faults                           # the table of mistakes, as Markdown
python -m benchmarks.coordinate_faults --healthy                 # every parameterization × optimizer × model, without mistakes
python -m benchmarks.coordinate_faults --healthy --subject MLP --optimizer adam sgd
"""

import dataclasses
import sys
import time
from typing import Literal

import tyro

from benchmarks.coordinate._faults import Fault
from benchmarks.coordinate._faults_of_use import all_faults
from benchmarks.coordinate._healthy import healthy
from equimu.diagnostics import CoordinateCheck

_Optimizer = Literal["adam", "sign", "sgd", "adafactor", "muon"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Plants mistakes, or checks healthy models."""

    only: str = ""
    """mistakes whose description contains this"""
    healthy: bool = False
    """check healthy models instead"""
    subject: tuple[str, ...] = ()
    """of these kinds only"""
    optimizer: tuple[_Optimizer, ...] = ("adam", "sign", "sgd", "adafactor", "muon")
    """with these only"""


def main(config: Config) -> int:
    """Prints the table as it comes; returns how many lines of it are not as they should be."""
    return _healthy(config) if config.healthy else _faults(config)


def _faults(config: Config) -> int:
    print("| mistake | caught by | named | first site that shows it | false alarm without it |\n|---|---|---|---|---|")
    wrong = 0
    for fault in all_faults():
        if config.only not in fault.what:
            continue
        begin = time.monotonic()
        good, bad = fault.healthy(), fault.planted()
        print(_line(fault, good, bad), flush=True)
        print(f"{fault.what}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
        wrong += bad.passed or not fault.is_named(bad) or not good.passed
    return wrong


def _line(fault: Fault, good: CoordinateCheck, bad: CoordinateCheck) -> str:
    if bad.passed:
        return f"| {fault.what} | **missed** | | | {'no' if good.passed else '**yes**'} |"
    first = bad.failures[0]
    caught = f"{first.kind} {first.quantity}: {first.exponent} for {first.expected}"
    others = len(bad.failures) - 1
    named = (
        f"`{first.name}`" + (f" and {others} more" if others else "") + ("" if fault.is_named(bad) else " **wrong**")
    )
    site = "" if bad.first_site is None else f"`{bad.first_site.name}`"
    return f"| {fault.what} | {caught} | {named} | {site} | {'no' if good.passed else '**yes**'} |"


def _healthy(config: Config) -> int:
    print(
        "| model | optimizer | tables | rows | off | largest miss of a site, of an update |\n|---|---|---|---|---|---|"
    )
    groups: dict[tuple[str, str], list[tuple[str, CoordinateCheck]]] = {}
    alarms = 0
    for name, family, table, check in healthy(config.subject, config.optimizer):
        if (name, family) not in groups and groups:
            print(_group(*groups.popitem()), flush=True)
        groups.setdefault((name, family), []).append((table, check))
        alarms += not check.passed
    for key, found in groups.items():
        print(_group(key, found), flush=True)
    return alarms


def _group(key: tuple[str, str], found: list[tuple[str, CoordinateCheck]]) -> str:
    rows = [row for _, check in found for row in check.rows]
    off = [f"{table}: {check.verdict}" for table, check in found if not check.passed]

    def largest(quantities: tuple[str, ...]) -> str:
        misses = [
            abs(row.expected.off_by(row.exponent.value))
            for row in rows
            if row.quantity in quantities and row.exponent.value is not None
        ]
        return f"{max(misses):.2f}"

    cells = (
        *key,
        str(len(found)),
        str(len(rows)),
        "; ".join(off) or "none",
        f"{largest(('output', 'change'))}, {largest(('update',))}",
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)) != 0)
