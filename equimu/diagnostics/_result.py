"""What a coordinate check found, and its verdict in a sentence."""

import dataclasses
import math
import textwrap

from equimu._lazy import late_method
from equimu._terminal import table_lines
from equimu._values import Real
from equimu.diagnostics._cells import COLUMNS, cells_of
from equimu.diagnostics._verdicts import Row

_MOST_NAMED = 3
# What is "off" in a sentence: of each quantity, how it is spoken of.
_SPOKEN = {
    "output": "its output goes",
    "change": "the change of its output goes",
    "weight": "its weights go",
    "update": "its updates go",
    "decay": "its decay goes",
}


# What a check prints as: a screen at most.
_COLUMNS, _LINES = 80, 40


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class CoordinateCheck:
    """What a coordinate check found. It prints as its verdict and notes; `table()` has every site and leaf.

    - `parameterization`, `optimizer`: name of the table, family of optimizers.
    - `size`, `sizes`: what was varied, and its values.
    - `seeds`, `steps`: how many of each.
    - `predicted_growth`: the power of the size by which features change, by the laws: 0 where training is maximal and stable.
    - `rows`: sites in the order of execution, then leaves.
    - `notes`: what is not a fault by itself, and may be the cause of one: arrays that are used otherwise than declared, or that
      the loss does not depend on.
    """

    parameterization: str
    optimizer: str
    size: str
    sizes: tuple[int, ...]
    seeds: int
    steps: int
    predicted_growth: Real
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The verdict and the notes, on a screen of 80 columns and 40 lines."""
        parts = [self.verdict, *(f"note: {note}" for note in self.notes)]
        lines = [line for part in parts for line in textwrap.wrap(part, _COLUMNS)]
        if len(lines) > _LINES:
            lines = [*lines[: _LINES - 1], "... (.verdict and .notes have all of it)"]
        return "\n".join(lines)

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.sizes))
        state = "passed" if self.passed else f"{len(self.off)} rows off"
        return f"<CoordinateCheck of {self.parameterization} over {self.size} {sizes}: {state}, {len(self.rows)} rows>"

    _repr_html_ = late_method("equimu.diagnostics._html", "html_check")

    def table(self) -> str:
        """Every site and every leaf, a line each: what was measured, and what is expected."""
        tables = [
            "\n".join([title, "", *table_lines(COLUMNS[kind], cells_of(self.rows, kind))])
            for kind, title in self.titles().items()
        ]
        return "\n\n".join(tables)

    def titles(self) -> dict[str, str]:
        """The titles of the two tables, of sites and of leaves."""
        powers = f"powers of {self.size} {' → '.join(map(str, self.sizes))}"
        return {
            "site": f"Activations under {self.parameterization} ({self.optimizer}): {powers}, {self.seeds} seeds; "
            f"changes after {self.steps} steps",
            "leaf": f"Arrays: {powers}",
        }

    @property
    def off(self) -> tuple[Row, ...]:
        """The rows that cannot be what they are expected to be."""
        return tuple(row for row in self.rows if row.off)

    @property
    def passed(self) -> bool:
        """Whether everything is as the parameterization says. That need not be stable: the standard one is not."""
        return not self.off

    @property
    def first_site(self) -> Row | None:
        """The first site off, in the order of execution."""
        return next((row for row in self.off if row.kind == "site"), None)

    @property
    def failures(self) -> tuple[Row, ...]:
        """What to look at: each leaf that is off, by the first of its rows that is; the first site if no leaf is."""
        leaves: dict[str, Row] = {}
        for row in self.off:
            if row.kind == "leaf":
                leaves.setdefault(row.name, row)
        if leaves:
            return tuple(leaves.values())
        return (self.first_site,) if self.first_site is not None else ()

    @property
    def growth(self) -> Real:
        """The largest measured power of the size that the change of a site goes with."""
        powers = [
            row.exponent.value for row in self.rows if row.quantity == "change" and row.exponent.value is not None
        ]
        return max(powers, default=0.0)

    @property
    def verdict(self) -> str:
        """One paragraph: what is off and what would explain it, or that nothing is."""
        if not self.passed:
            return self._what_is_off()
        over = f"over {self.size} {', '.join(map(str, self.sizes))}"
        counted = f"{len({row.name for row in self.rows if row.kind == 'site'})} sites and "
        counted += f"{len({row.name for row in self.rows if row.kind == 'leaf'})} leaves"
        if math.isinf(self.predicted_growth):
            return (
                f"passed: as {self.parameterization} says {over}: {counted}; of features it says nothing, since no "
                "residual branch is declared (register_residual)"
            )
        if self.predicted_growth > 0.01:
            return (
                f"passed: as {self.parameterization} says, which is not stable {over}: changes of activations grow by up to "
                f"{self.size}^{self.growth:.2f}; {counted} as expected"
            )
        return f"passed: as {self.parameterization} says {over}: {counted}"

    def _what_is_off(self) -> str:
        failures = self.failures
        message = "; ".join(self._tell(row) for row in failures[:_MOST_NAMED])
        if len(failures) > _MOST_NAMED:
            message += f"; and {len(failures) - _MOST_NAMED} more leaves"
        first = self.first_site
        if first is None:
            return f"off: {message}. No activation shows it at these sizes and steps."
        if first is failures[0]:
            return f"off: {message}"
        return f"off: {message}. The first site that shows it is {self._tell(first, why=False)}"

    def _tell(self, row: Row, *, why: bool = True) -> str:
        if row.exponent.value is None:
            return f"{row.name}: {row.why}"
        message = (
            f"{row.name}: {_SPOKEN[row.quantity]} as {self.size}^({row.exponent}) where {row.expected} is expected"
        )
        return f"{message}; {row.why}" if why else message
