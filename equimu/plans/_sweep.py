"""Plans for the meshes and batches that there could be, best first."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

from equimu._errors import EquimuError
from equimu._values import Count, Real, Seconds, Size, check, checked
from equimu.plans._estimate import Estimate, estimate
from equimu.plans._mesh import MeshShape, decoder_of, meshes, unsupported_reason
from equimu.plans._plan import Plan, plan
from equimu.plans._topology import check_compiler, parse_topology
from equimu.runs import RunConfig
from equimu.training import build_tree

# Memory of an estimate, as a share of what there is, above which a candidate is not compiled: estimates are rough.
_HOPELESS = 1.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to carry out a run: the estimate of it, and the plan if it was compiled.

    - `config`: of the run, with its micro-batches and recomputation.
    - `mesh`: how the devices are arranged.
    - `estimate`: by a formula.
    - `plan`: of the compiled step; None if it was not compiled.
    """

    config: RunConfig
    mesh: MeshShape
    estimate: Estimate
    plan: Plan | None = None


def sweep_plans(
    config: RunConfig,
    topology: str,
    *,
    rows: Sequence[int] = (),
    accumulate: Sequence[int] = (),
    compiled: int = 4,
    seconds: Real = 600.0,
    on_plan: Callable[[Plan, int, int], None] | None = None,
) -> tuple[Candidate, ...]:
    """Candidates that fit, fastest first a token: those that were compiled, then those that are only estimated to.

    All meshes of the machine that divide rows, heads, hidden units and positions are estimated; the best of them are compiled.

    Args:
        config: the run.
        topology: as in `plan`.
        rows: sizes of a batch to try; the config's by default.
        accumulate: numbers of parts to work a batch off in; 1, 2, 4, 8 and 16 by default.
        compiled: how many to compile.
        seconds: after which no further one is begun, nor the last one waited for.
        on_plan: called with each plan as it is made, the number of those made, and of those to make.

    Raises:
        EquimuError: as `plan`; no mesh divides the run.
    """
    rows, accumulate = checked("rows", rows, tuple[Size, ...]), checked("accumulate", accumulate, tuple[Count, ...])
    check(Size, compiled=compiled)
    check(Seconds, seconds=seconds)
    check(RunConfig, config=config)
    found = parse_topology(topology)
    check_compiler(found)
    task = decoder_of(config)
    tree = build_tree(config, task.text.rows)
    candidates: list[Candidate] = []
    for n in rows or (task.text.rows,):
        own = dataclasses.replace(task, text=dataclasses.replace(task.text, rows=n))
        for parts in [a for a in accumulate or (1, 2, 4, 8, 16) if n % a == 0]:
            tried = dataclasses.replace(config, task=own, accumulate=parts)
            for mesh in meshes(found):
                if unsupported_reason(tried, mesh) is None:
                    guess = estimate(tried, tree, mesh, found.machine, per_host=found.per_host)
                    candidates.append(Candidate(config=tried, mesh=mesh, estimate=guess))
    if not candidates:
        reason = unsupported_reason(config, meshes(found)[0])
        raise EquimuError(f"no mesh of {topology} divides this run ({reason}); change text.rows or the model's sizes")
    available = found.machine.memory or math.inf
    hopeful = [c for c in candidates if c.estimate.memory <= _HOPELESS * available]
    hopeful.sort(key=lambda c: (c.estimate.memory > available, _estimated_time(c), c.estimate.memory))
    end = time.monotonic() + seconds
    made: list[Candidate] = []
    for at, candidate in enumerate(hopeful[:compiled]):
        left = end - time.monotonic()
        if left <= 0:
            break
        try:
            result = plan(
                candidate.config,
                topology,
                **dataclasses.asdict(candidate.mesh),
                seconds=left,
            )
        except EquimuError:
            if not made:
                raise
            break
        made.append(dataclasses.replace(candidate, plan=result))
        if on_plan is not None:
            on_plan(result, at + 1, min(compiled, len(hopeful)))
    fitting = sorted((c for c in made if c.plan and c.plan.fits), key=_planned_time)
    rest = [c for c in hopeful[len(made) :] if c.estimate.memory <= available]
    return (*fitting, *rest)


def _estimated_time(candidate: Candidate) -> Real:
    """Seconds a token, so that batches of different sizes compare; where times are unknown, all are alike."""
    text = decoder_of(candidate.config).text
    return (candidate.estimate.seconds or 0.0) / (text.rows * text.seq)


def _planned_time(candidate: Candidate) -> tuple[Real, int]:
    assert candidate.plan is not None
    times, memory = candidate.plan.times, candidate.plan.memory.total
    return (times.schedule / candidate.plan.tokens if times else 0.0), memory
