"""A line of the campaign's table."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What was tried how often, and what of it failed.

    - `part`, `what`: the line's first cells.
    - `count`: of tries.
    - `outcome`: in words and figures.
    - `failures`: a line for each failed try; none is a pass.
    """

    part: str
    what: str
    count: int
    outcome: str
    failures: tuple[str, ...] = ()
