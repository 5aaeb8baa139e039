"""Plans as tables on a terminal, and as JSON."""

import dataclasses
import json
from collections.abc import Sequence

from equimu._terminal import print_rows, wrapped
from equimu.plans._mesh import decoder_of
from equimu.plans._plan import Plan, advice
from equimu.plans._sweep import Candidate
from equimu.plans.machines import machines

_GIB = 2**30
_SHOWN = 12  # of a sweep's candidates


def print_plan(made: Plan) -> None:
    """A plan as tables, and whether it fits.

    Args:
        made: the plan.
    """
    in_hosts = f" in {made.hosts} hosts" if made.hosts > 1 else ""
    print(f"{made.topology}: {made.devices} devices{in_hosts}, mesh {made.mesh} (data×fsdp×tensor)\n")
    for title, rows in (
        ("model and step", _step(made)),
        ("memory of a device", _memory(made)),
        ("collectives of a device and step", _collectives(made)),
        ("time of a step", _times(made)),
    ):
        if rows:
            print_rows((), [("  " + name, *values) for name, *values in rows], title=title)
    for note in made.notes:
        print(wrapped(f"note: {note}"))
    if made.fits:
        print(f"fits {made.topology}")


def plan_to_json(made: Plan) -> str:
    """A plan as JSON, its advice with it if it does not fit.

    Args:
        made: the plan.
    """
    return json.dumps({**_plain(made), "advice": None if made.fits else advice(made)}, indent=2)


def print_candidates(candidates: Sequence[Candidate]) -> None:
    """A sweep's candidates as a table, compiled ones first."""
    header = ("mesh", "rows", "parts", "GiB a device", "s a step", "tokens a day", "utilisation", "by")
    print_rows(
        header, [_candidate(candidate) for candidate in candidates[:_SHOWN]], text=(0, len(header) - 1), spare=(2, 6)
    )
    if len(candidates) > _SHOWN:
        print(f"and {len(candidates) - _SHOWN} more that are estimated to fit")


def candidates_to_json(candidates: Sequence[Candidate]) -> str:
    """A sweep's candidates as JSON, without their configs."""
    return json.dumps(
        [
            {
                "mesh": dataclasses.asdict(c.mesh),
                "rows": decoder_of(c.config).text.rows,
                "accumulate": c.config.accumulate,
                "estimate": dataclasses.asdict(c.estimate),
                "plan": None if c.plan is None else _plain(c.plan),
            }
            for c in candidates
        ],
        indent=2,
    )


def _plain(made: Plan) -> dict[str, object]:
    return {
        **dataclasses.asdict(made),
        "chip": None if made.chip is None else dataclasses.asdict(machines()[made.chip]),
    }


def _step(made: Plan) -> list[tuple[str, ...]]:
    rows = [
        ("parameters", f"{made.parameters:,}"),
        (made.unit, f"{made.tokens:,}"),
        ("rows × parts", f"{made.rows} in {made.accumulate}"),
        ("FLOPs the mathematics needs", f"{made.model_flops:.4g}"),
    ]
    if made.counted_flops is not None:
        ratio = made.counted_flops / made.model_flops
        rows.append(("FLOPs counted in the program", f"{made.counted_flops:.4g} ({ratio:.2f} times)"))
    rows += [(f"kernel {name}", f"{calls:g}") for name, calls in sorted(made.kernels.items())]
    return [*rows, ("seconds to trace, to compile", f"{made.trace_seconds:.1f}, {made.compile_seconds:.1f}")]


def _memory(made: Plan) -> list[tuple[str, ...]]:
    memory = made.memory
    parts = memory.by_kind if made.counted_flops is not None or memory.temporaries else {}
    rows = [(name, f"{size / _GIB:.3f} GiB", f"{size / memory.total:.0%}") for name, size in parts.items()]
    rows.append(("total", f"{memory.total / _GIB:.3f} GiB", "100%"))
    if memory.available is not None:
        share = memory.total / memory.available
        rows.append(("the device has", f"{memory.available / _GIB:.3f} GiB", f"{share:.0%} used"))
    return rows


def _collectives(made: Plan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kind, traffic in sorted(made.collectives.items()):
        row = (kind, f"{traffic.count:g}", f"{traffic.bytes / 1e9:.3f} GB sent")
        if made.hosts > 1:
            row += (f"{traffic.across:g} between hosts", f"{traffic.network / 1e9:.3f} GB over the network")
        rows.append(row)
    return rows


def _times(made: Plan) -> list[tuple[str, ...]]:
    times = made.times
    if times is None or made.tokens_per_day is None or made.utilisation is None:
        return []
    return [
        ("operations at the peak", f"{times.compute:.3f} s"),
        ("bytes of the main memory", f"{times.memory:.3f} s"),
        ("bytes of the links", f"{times.network:.3f} s"),
        ("roofline, the largest of these", f"{times.roofline:.3f} s"),
        (
            "the compiler's schedule" if times.by_cycles else "instructions one after the other",
            f"{times.schedule:.3f} s",
        ),
        (f"{made.unit} a day", f"{made.tokens_per_day:.4g}"),
        ("model FLOPs utilisation", f"{made.utilisation:.1%}"),
    ]


def _candidate(candidate: Candidate) -> tuple[str, ...]:
    made, config, guess = candidate.plan, candidate.config, candidate.estimate
    head = (str(candidate.mesh), str(decoder_of(config).text.rows), str(config.accumulate))
    if made is None:
        seconds = "" if guess.seconds is None else f"{guess.seconds:.3f}"
        return (*head, f"{guess.memory / _GIB:.2f}", seconds, "", "", "estimate")
    seconds = "" if made.times is None else f"{made.times.schedule:.3f}"
    day = "" if made.tokens_per_day is None else f"{made.tokens_per_day:.4g}"
    share = "" if made.utilisation is None else f"{made.utilisation:.1%}"
    return (*head, f"{made.memory.total / _GIB:.2f}", seconds, day, share, "compiled")
