"""What came of the synthetic grids, as a table."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.joint_law._grids import Outcome
from benchmarks.verdicts._judge import share

_HEADER = (
    "kind",
    "grids",
    "target covered",
    "exponents covered",
    "median interval ±",
    "RMS error",
    "within 0.3 octaves",
)


def summary(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """A row for each kind, and one for all together."""
    every = [outcome for group in outcomes.values() for outcome in group]
    rows = [_row(kind, group) for kind, group in {**outcomes, "all": every}.items()]
    lines = [_HEADER, ("---", *["---:"] * (len(_HEADER) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(kind: str, group: Sequence[Outcome]) -> tuple[str, ...]:
    exponents = [held for outcome in group for held in outcome.exponents]
    errors = np.array([outcome.error for outcome in group])
    return (
        kind,
        str(len(group)),
        share(sum(outcome.inside for outcome in group), len(group)),
        share(sum(exponents), len(exponents)),
        f"{np.median([outcome.half for outcome in group]):.2f}",
        f"{np.sqrt(np.mean(errors**2)):.2f}",
        share(int(np.sum(np.abs(errors) <= 0.3)), len(group)),
    )
