"""What saving costs the training beside it, and how fast saving and restoring are beside plain numpy files."""

from pathlib import Path

from benchmarks.campaign._children import isolated
from benchmarks.campaign._result import Result
from benchmarks.suites import checkpoint

_SHARE = 0.02  # of training time, at a save a minute
_SPEED = 0.8  # of numpy's


def run(count: int, seed: int, folder: Path) -> list[Result]:
    """As many rounds of a state of 1 GiB. Nothing about it is random."""
    found = isolated(lambda: checkpoint.measure(rounds=count, folder=str(folder)), folder)
    share = (
        f"{found['cost']:.1%} of training time at a save a minute: {found['extra']:.2f} s a save "
        f"(quartiles {found['extra low']:.2f} to {found['extra high']:.2f}), {found['blocked']:.2f} s of them blocked; "
        f"{found['extra work']:.2f} s of processor time"
    )
    results = [
        Result(
            part="cost",
            what="saving 1 GiB while training",
            count=count * checkpoint.LOOPS,
            outcome=share,
            failures=(f"more than {_SHARE:.0%}",) * (found["cost"] > _SHARE),
        )
    ]
    for ours, theirs in checkpoint.PAIRS.items():
        outcome = f"{found[f'{ours} speed']:.2f} of numpy's speed ({found[ours]:.2f} s beside {found[theirs]:.2f} s)"
        # From the kernel's memory numpy copies once, and nothing that reads a checksum can keep up: told, not claimed.
        slow = found[f"{ours} speed"] < _SPEED and not ours.startswith("warm")
        failures = (f"less than {_SPEED}",) * slow
        results.append(Result(part="cost", what=f"{ours}, 1 GiB", count=count, outcome=outcome, failures=failures))
    return results
