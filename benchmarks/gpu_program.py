"""python -m benchmarks.gpu_program: what a step costs on an H100 beside its products, read off a program compiled without one.

python -m benchmarks.gpu_program --markdown program.md

The step of `benchmarks.gpu`: 2048 wide, 12 blocks, 16 sequences of 1024 tokens, bfloat16. The rows undo one after another what
the library chooses on GPUs: blocks that recompute what is cheap, norms that are measured by a program of their own, blocks that
are not scanned. Of each: temporaries in memory; kernels that a step starts outside of the loop over the logits' chunks, which
is the same in all; and the bytes that those of them read and write which are no products and no attention.

Needs `equimu[cuda]`, or jax-cuda13-plugin alone; with nvidia-cudnn-cu13 attention is cuDNN's. One process a row, half a minute.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks._markdown import print_table

_ROWS = ["as it is", "all results kept", "and norms measured at each step", "and blocks scanned"]
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$", re.MULTILINE)
_HEADER = ["program", "temporaries, GiB", "kernels", "of them no products", "GiB that these move", "ms at 3.35 TB/s"]


def compiled(changes: int) -> dict[str, float]:
    """The figures of a row, in a process made for it: the first so many choices are undone."""
    from equimu._device import compiling_for
    from equimu.nn import Transformer
    from equimu.plans.machines import COMPILERS, machines
    from equimu.runs import RunConfig, Sizes
    from equimu.sharding import make_mesh
    from equimu.tasks import LanguageModel, ModelConfig, TextConfig
    from equimu.training import build_tree, hyperparameters_of, program_for

    if changes >= 1:
        Transformer._rematerialised = lambda self, layer: layer
    if changes >= 3:
        Transformer.unrolled_on_gpu = 0
    model = ModelConfig(head_dim=128, vocab_size=32768, dtype="bfloat16")
    task = LanguageModel(model=model, text=TextConfig(rows=16, seq=1024))
    config = RunConfig(task=task, size=Sizes(width=2048, depth=12), base=Sizes(width=128))
    devices = list(COMPILERS["cuda"].devices(machines()["h100"], "1", 1))
    with compiling_for(devices[0]):
        program, numbers = program_for(config, build_tree(config, 16), make_mesh(1, 1, 1, devices=devices))
        step = program.traced_step(task.batch_like(), numbers, hyperparameters_of(config), changes >= 2)
        done = step.lower().compile()
    temporaries = done.memory_analysis().temp_size_in_bytes
    return {"temporaries": temporaries, **(kernels(done.as_text()) if changes < 3 else {})}


def kernels(text: str) -> dict[str, float]:
    """How many kernels a program starts outside of its loops, how many of them are no products, and the bytes these move."""
    entry = text[text.index("\nENTRY ") :]
    sizes: dict[str, int] = {}
    found = {"kernels": 0, "others": 0, "moved": 0}
    for name, result, opcode, rest in re.findall(_LINE, entry[: entry.index("\n}")]):
        sizes[name] = sum(_bytes(*shape) for shape in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", result))
        if opcode not in ("fusion", "copy", "custom-call"):
            continue
        found["kernels"] += 1
        if opcode != "custom-call" and "kind=kCustom" not in rest:
            found["others"] += 1
            read = re.findall(r"%([\w.\-]+)", rest[: rest.index(")")])
            found["moved"] += sizes[name] + sum(sizes[operand] for operand in read)
    return found


def _bytes(dtype: str, shape: str) -> int:
    bits = int(re.sub(r"\D", "", dtype) or 8)
    return bits // 8 * math.prod(int(n) for n in shape.split(",") if n)


def row(changes: int) -> list[str]:
    """A row, as texts."""
    from equimu.plans.machines import COMPILERS

    code = f"import json; from benchmarks.gpu_program import compiled; print(json.dumps(compiled({changes})))"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **COMPILERS["cuda"].environment(1)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        return [_ROWS[changes], (done.stderr.strip().splitlines() or ["it failed"])[-1], *[""] * (len(_HEADER) - 2)]
    found = json.loads(done.stdout.splitlines()[-1])
    cells = [_ROWS[changes], f"{found['temporaries'] / 2**30:.2f}"]
    if "moved" not in found:
        return [*cells, *["(in loops)"] * 4]
    moved = found["moved"]
    return [*cells, str(found["kernels"]), str(found["others"]), f"{moved / 2**30:.1f}", f"{moved / 3.35e9:.1f}"]


def main() -> None:
    """Prints a row as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, help="file for the table")
    given = parser.parse_args()
    print_table(_HEADER, map(row, range(len(_ROWS))), given.markdown)


if __name__ == "__main__":
    main()
