"""python -m benchmarks.gpu: all that needs a graphics card, in under six minutes on an H100.

python -m benchmarks.gpu                   # writes benchmarks/results/<date>-<card>.md
python -m benchmarks.gpu --out DIR         # or that file in another folder
python -m benchmarks.gpu --quick           # every part with tiny shapes, on any machine: that the script itself runs

Correctness comes first, then attention, the train step and a sweep. A part that fails says so in one line, and the next one is
measured all the same; torch, tokamax and FlashAttention are measured where they are installed.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch and the sweep's process need memory, too

import jax

from benchmarks.throughput import machine, table
from equimu._errors import EquimuError

# What is measured, and the share of the time after which a part begins nothing more.
PARTS = {"correct": 0.3, "attention": 0.3, "step": 0.25, "sweep": 0.15}
PACKAGES = ("tokamax", "torch", "dew-flash-attn-cu13", "dew-flash-attn-cu12", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the parts and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny shapes: that the script runs to its end")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results", help="folder of the page"
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="leave the others out")
    parser.add_argument("--minutes", type=float, default=6.0, help="for the parts that are measured, together")
    options = parser.parse_args(arguments)
    if not options.quick and jax.default_backend() != "gpu":
        raise EquimuError("this machine has no GPU that JAX knows; --quick runs on any machine")
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    head = f"{machine()}{''.join(', ' + text for text in versions)}"
    print(head, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    card = re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    page = options.out / f"{datetime.date.today()}-{card}.md"
    texts, ends = [head], list[dict[str, Any]]()
    end, second = time.monotonic(), options.minutes * 60 / sum(PARTS[part] for part in options.parts)
    for part in options.parts:
        end += PARTS[part] * second
        rows, failed, begin = list[dict[str, Any]](), "", time.monotonic()
        try:
            measure: Callable[..., Any] = importlib.import_module(f"benchmarks.card._{part}").measure
            for row in measure(quick=options.quick, end=end):
                rows.append(row)
                print(part, {key: value for key, value in row.items() if value != ""}, flush=True)
        except Exception as error:  # the other parts are measured all the same
            failed = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            print(part, "failed:", failed, flush=True)
        troubles = sum(bool(row.get("failed")) for row in rows) + bool(failed)
        ends.append(
            {
                "part": part,
                "rows": len(rows),
                "failed": troubles,
                "seconds": round(time.monotonic() - begin),
                "says": failed or importlib.import_module("benchmarks.card._says").SAYS[part](rows),
            }
        )
        texts.append(f"## {part}\n\n{failed and failed + chr(10) * 2}{table(rows)}")
        page.write_text("\n\n".join([*texts, f"## summary\n\n{table(ends)}"]) + "\n")  # also where it is ended early
    print(f"\n{table(ends)}\n\n{page}", flush=True)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    try:
        main()
    except EquimuError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
