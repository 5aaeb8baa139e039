"""python -m benchmarks.paper_plans: the largest run of every group of arXiv 2404.05728, compiled for TPU pods without one.

python -m benchmarks.paper_plans --markdown plans.md
python -m benchmarks.paper_plans baseline llama

Needs `jax[tpu]`. The machines are the paper's: 128 cores of TPU v3, and 256 for a width of 8192 and for the model like Llama,
whose arrays and optimizer are sharded. A row says whether the step fits, how much of a device's memory it needs, and the time
of a step by the compiler's own schedule. One process a group, minutes each.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks._markdown import print_table
from equimu.presets import groups

_USUAL = ("v3:8x8", "--runtime.data", "32", "--runtime.fsdp", "4")
_MACHINES = {
    "combined_dm8192": ("v3:16x8", "--runtime.data", "16", "--runtime.fsdp", "16"),
    "combined_no_wd": ("v3:8x8", "--runtime.data", "16", "--runtime.fsdp", "8"),  # AdamW has twice the moments of Lion
    "llama": ("v3:16x8", "--runtime.data", "4", "--runtime.fsdp", "64"),
}
_HEADER = ["group", "machine", "mesh", "parameters", "fits", "memory", "seconds a step", "MFU"]


def row(group: str) -> list[str]:
    """The plan of a group's largest run, as texts."""
    machine = _MACHINES.get(group, _USUAL)
    command = [sys.executable, "-m", "equimu", "plan", *machine, "--config", f"paper:{group}", "--json"]
    done = subprocess.run([*command, "--seconds", "1800"], capture_output=True, text=True)
    mesh = f"data {machine[2]}, fsdp {machine[4]}"
    if not done.stdout.strip():
        return [group, machine[0], mesh, "", f"no: {done.stderr.strip()}", "", "", ""]
    plan = json.loads(done.stdout)
    memory, times = plan["memory"], plan["times"]
    return [
        *(group, machine[0], mesh, f"{plan['parameters']:.3g}", "yes" if plan["fits"] else "no"),
        f"{memory['total'] / memory['available']:.0%}" if memory["available"] else "",
        f"{times['schedule']:.2f}" if times else "",
        f"{plan['utilisation']:.0%}" if plan["utilisation"] else "",
    ]


def main() -> None:
    """Prints a row per group as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", help="all by default")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    given = parser.parse_args()
    print_table(_HEADER, map(row, given.groups or groups()), given.markdown)


if __name__ == "__main__":
    main()
