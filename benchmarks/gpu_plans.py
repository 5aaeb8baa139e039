"""python -m benchmarks.gpu_plans: runs planned for NVIDIA GPUs on a machine without one, and how long that takes.

python -m benchmarks.gpu_plans --markdown plans.md

Needs `equimu[cuda]`, or jax-cuda13-plugin alone. The first row is the step of `benchmarks.gpu`, for which an H100 reported 11.8
GiB of temporaries when the plan said 11.72; since then its blocks recompute what is cheap (`benchmarks.gpu_program`). The
others are of the sizes that are in use. One process a plan, a quarter of a minute each.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._markdown import print_table

_EXAMPLES = Path(__file__).parent.parent / "examples"
_STEP = "--size.width 2048 --size.depth 12 --base.width 128 --text.rows 16 --text.seq 1024"
_MODEL = "--model.head-dim 128 --model.vocab-size 32768 --model.dtype bfloat16"
_PLANS = {
    "width 2048, 12 blocks": ("h100:1", *_STEP.split(), *_MODEL.split()),
    "8B": ("h100:8", "--config", str(_EXAMPLES / "8b.toml")),
    "8B, data 4": ("h100:4x8", "--config", str(_EXAMPLES / "8b.toml"), *"--runtime.data 4 --runtime.fsdp 8".split()),
    "70B": ("h100:8x8", "--config", str(_EXAMPLES / "70b.toml"), "--accumulate", "16"),
    "70B, B200": ("b200:8x8", "--config", str(_EXAMPLES / "70b.toml"), "--accumulate", "16"),
}
_HEADER = [
    *("run", "machine", "parameters", "GiB a device", "of them temporaries", "step", "roofline", "tokens a day", "MFU"),
    *("GB sent", "GB over the network", "FLOPs, counted / needed", "seconds to plan"),
]


def row(name: str) -> list[str]:
    """A plan, as texts; temporaries with the activations, as a card reports them."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "equimu", "plan", *_PLANS[name], "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - begin
    if not done.stdout.strip():
        return [name, _PLANS[name][0], done.stderr.strip(), *[""] * (len(_HEADER) - 3)]
    plan = json.loads(done.stdout)
    memory, times, traffic = plan["memory"], plan["times"], plan["collectives"].values()
    temporaries = memory["activations"] + memory["temporaries"]
    return [
        *(name, plan["topology"], f"{plan['parameters']:.3g}"),
        f"{memory['total'] / 2**30:.1f} of {memory['available'] / 2**30:.1f}",
        f"{temporaries / 2**30:.2f}",
        *(f"{times['schedule']:.3g} s", f"{times['roofline']:.3g} s", f"{plan['tokens_per_day']:.3g}"),
        f"{plan['utilisation']:.0%}",
        *(f"{sum(t[key] for t in traffic) / 1e9:.3g}" for key in ("bytes", "network")),
        f"{plan['counted_flops'] / plan['model_flops']:.3f}",
        f"{seconds:.0f}",
    ]


def main() -> None:
    """Prints a row a plan as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, help="file for the table")
    given = parser.parse_args()
    print_table(_HEADER, map(row, _PLANS), given.markdown)


if __name__ == "__main__":
    main()
