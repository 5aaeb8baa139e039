"""python -m benchmarks.same_bits: are the bits of a training still what they were? Of ten small runs of the default decoder.

python -m benchmarks.same_bits                                            # compares with the table that is kept
python -m benchmarks.same_bits --record benchmarks/results/same-bits.json # writes it

A change that is to leave every number alone, such as a refactoring, proves it so. A table holds for one model of CPU, one
version of JAX and one of Python, whose standard library is the text. Exit code 1: a run differs, or fails; 2: the table is of
another machine.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from equimu.optim import SGD, Adafactor, AdamW, Lion, Muon, Optimizer
from equimu.runs import RunConfig
from equimu.tasks import LanguageModel, ModelConfig, TextConfig
from equimu.training import RuntimeConfig, train

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "benchmarks" / "results" / "same-bits.json"
METRICS = ("loss", "grad_norm", "update_rms", "validation_loss")
MADE_ON = ("machine", "jax", "python")  # what the bits hold for
SECONDS = 600


class Case(NamedTuple):
    """A run.

    - `run`, `runtime`: its configs.
    - `processes`: that train it together.
    - `devices`: of each of them.
    """

    run: RunConfig
    runtime: RuntimeConfig
    processes: int = 1
    devices: int = 1


def configs(address: str | None = None, process: int | None = None) -> dict[str, Case]:
    """The runs by their names; together they use about all options.

    Args:
        address: at which the processes of a run find each other.
        process: number of this one.
    """

    def run(
        model: ModelConfig,
        rules: str,
        optimizer: Optimizer,
        seed: int,
        width: int = 64,
        base_depth: int = 2,
        loss: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> RunConfig:
        text = TextConfig(corpus="stdlib", seq=32, rows=8, windows="document" if seed % 2 else "concatenate")
        return RunConfig(
            task=LanguageModel(model=model, text=text, **(loss or {})),
            size={"width": width, "depth": 2},
            base={"width": 32, "depth": base_depth},
            parameterization=rules,
            optimizer=optimizer,
            steps=12,
            seed=seed,
            log_every=1,
            validation_batches=2,
            **more,
        )

    alone = RuntimeConfig(save_final=True)
    return {
        "adamw": Case(
            run(
                ModelConfig(),
                "mup.tune(output, multiplier=4).tune(blocks.mlp, lr=0.5)",
                AdamW(weight_decay=0.01, warmup=0.25, schedule="cosine"),
                seed=0,
            ),
            alone,
        ),
        "lion": Case(
            run(
                ModelConfig(activation="gelu", use_bias=True, norm_gain="scalar", unroll=2),
                "tpv(8, form=absolute)",
                Lion(
                    learning_rate=2**-4,
                    b2=0.99,
                    weight_decay=0.1,
                    weight_decay_rule="standard",
                    schedule="constant",
                    first_moment_dtype="bfloat16",
                ),
                seed=1,
            ),
            alone,
        ),
        "muon": Case(
            run(
                ModelConfig(remat=True),
                "spectral(form=relative, eps=lr)",
                Muon(momentum=0.95, weight_decay=0.1, weight_decay_rule="scaled"),
                seed=2,
            ),
            alone,
        ),
        "adafactor": Case(
            run(
                ModelConfig(activation="squared_relu", remat="projections", rotary_base=None),
                "depth_mup.replace(output, init_std=fan_in**-0.5)",
                Adafactor(clip_norm=None, floor=0.1),
                seed=3,
                base_depth=1,
            ),
            alone,
        ),
        "sgd": Case(
            run(
                ModelConfig(norm_eps=1e-6, zero_query=True),
                "everett(ntk, alignment=none, eps=constant)",
                SGD(learning_rate=0.5, weight_decay=1e-3, weight_decay_rule="standard"),
                seed=4,
            ),
            alone,
        ),
        "tied": Case(
            run(
                ModelConfig(tie_embeddings=True, embedding_norm=True, attention_scale="1/sqrt(head_dim)"),
                "tpv(8)",
                AdamW(weight_decay=0.1, weight_decay_rule="standard"),
                seed=5,
            ),
            alone,
        ),
        "grouped": Case(
            run(
                ModelConfig(
                    n_kv_head=2,
                    activation="swiglu",
                    d_ff_multiple=3.0,
                    qk_norm=True,
                    norm_gain="vector",
                    zero_residual=True,
                    zero_unembedding=True,
                    dtype="bfloat16",
                ),
                "completep",
                AdamW(b2=0.99, weight_decay=0.01, warmup=0.5),
                seed=6,
                base_depth=1,
            ),
            alone,
        ),
        "accumulate": Case(
            run(
                ModelConfig(head_dim=8),
                "umup",
                AdamW(learning_rate=0.5, schedule="cosine"),
                seed=7,
                width=32,
                base_depth=1,
                loss={"z_loss": 1e-3, "loss_denominator": "positions", "loss_chunk": 64},
                accumulate=2,
                on_nonfinite="skip",
            ),
            alone,
        ),
        "mesh": Case(
            run(
                ModelConfig(n_kv_head=2, activation="swiglu", norm_gain="vector"),
                "completed_p(alpha=0.5)",
                AdamW(weight_decay=0.01, weight_decay_rule="scaled"),
                seed=8,
                base_depth=1,
                base_rows=4,
                base_steps=6,
                on_nonfinite="record",
            ),
            RuntimeConfig(save_final=True, data=2, fsdp=2, tensor=2),
            devices=8,
        ),
        "processes": Case(
            run(
                ModelConfig(use_bias=True),
                "mup(form=absolute)",
                Muon(learning_rate=2**-3, weight_decay=0.01),
                seed=9,
                accumulate=2,
            ),
            RuntimeConfig(
                save_final=True,
                data=2,
                fsdp=2,
                coordinator=address,
                processes=None if address is None else 2,
                process_id=process,
            ),
            processes=2,
            devices=2,
        ),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Compares the bits of trainings with those of a table, or makes the table."""

    record: Path | None = None
    """write the table to this file, and compare nothing"""
    against: Path = TABLE
    """the table to compare with"""
    one: str | None = None
    """train this run only, in this process and into `out`"""
    out: Path | None = None
    """folder of the one run"""
    address: str | None = None
    """at which the processes of the one run find each other"""
    process: int | None = None
    """number of this one"""


class FailedError(Exception):
    """A run that did not end as it should."""


def main(config: Config) -> int:
    """Does what is asked; the exit code."""
    if config.one is not None:
        case = configs(config.address, config.process)[config.one]
        train(case.run, out=config.out or Path("runs/same-bits"), runtime=case.runtime)
        return 0
    made_on = {"machine": cpu(), "jax": importlib.metadata.version("jax"), "python": platform.python_version()}
    with tempfile.TemporaryDirectory() as folder:
        if config.record is not None:
            return record(config.record, made_on, Path(folder))
        return compare(json.loads(config.against.read_text()), made_on, Path(folder))


def record(file: Path, made_on: dict[str, str], folder: Path) -> int:
    """Trains all, and writes the table."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    runs: dict[str, Any] = {}
    for name, case in configs().items():
        try:
            runs[name] = trained(name, case, folder)
        except FailedError as error:
            print(f"benchmarks.same_bits: {name} {error}", file=sys.stderr)
            return 1
    file.write_text(json.dumps({**made_on, "commit": commit.stdout.strip(), "runs": runs}, indent=1) + "\n")
    return 0


def compare(table: dict[str, Any], made_on: dict[str, str], folder: Path) -> int:
    """Trains all, and prints a line for each."""
    others = [f"{key} {table[key]}, not {made_on[key]}" for key in MADE_ON if table[key] != made_on[key]]
    if others:
        print(f"the table cannot be compared with: it is of {'; '.join(others)}")
        return 2
    cases = configs()
    worst = 0
    for name in dict.fromkeys([*table["runs"], *cases]):
        was = table["runs"].get(name)
        try:
            now = trained(name, cases[name], folder) if name in cases else None
        except FailedError as error:
            print(f"{name} {error}", flush=True)
            worst = 1
            continue
        if was is None or now is None:
            print(f"{name}: differs, only {'here' if was is None else 'in the table'}", flush=True)
            worst = 1
            continue
        different = [what for what in ("losses", "arrays") if was[what] != now[what]]
        message = f"differs ({' and '.join(different)})" if different else "same"
        losses = ", ".join(f"{what} {was[what]!r} → {now[what]!r}" for what in ("first", "last"))
        print(f"{name}: {message}, losses {losses}", flush=True)
        worst = max(worst, len(different) > 0)
    return int(worst)


def trained(name: str, case: Case, folder: Path) -> dict[str, Any]:
    """Trains a run in processes of its own, and hashes what it left.

    Raises:
        FailedError: a process failed.
    """
    out = folder / name
    together = ["--address", f"localhost:{free_port()}"] if case.processes > 1 else []
    commands = [
        [sys.executable, "-m", "benchmarks.same_bits", "--one", name, "--out", str(out), *together]
        + (["--process", str(index)] if together else [])
        for index in range(case.processes)
    ]
    # Nothing of this environment may matter, nor the number of cores; and the text is made into tokens by this very code.
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
    environment = {
        **clean,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(case.devices),
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        "EQUIMU_CACHE": str(folder / "cache"),
    }
    run_all(commands, environment)
    try:
        return evidence(out)
    except (OSError, ValueError) as error:
        raise FailedError(f"failed, it left no run that can be read: {error}") from None


def run_all(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> None:
    """Runs commands side by side.

    Raises:
        FailedError: one failed, or took too long.
    """
    pipes: dict[str, Any] = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) for command in commands]
    try:
        errors = [process.communicate(timeout=SECONDS)[1] for process in processes]
    except subprocess.TimeoutExpired:
        raise FailedError(f"failed, it took more than {SECONDS} s") from None
    finally:
        for process in processes:
            process.kill()  # nothing, where it has ended
            process.wait()
    for process, error in zip(processes, errors, strict=True):
        if process.returncode != 0:
            raise FailedError(f"failed with {process.returncode}: {(error.strip().splitlines() or [''])[-1]}")


def evidence(out: Path) -> dict[str, Any]:
    """What a run left below a folder, as hashes.

    Raises:
        ValueError: it is not there.
    """
    (metrics,) = out.rglob("metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    values = [(key, row[key]) for row in rows for key in METRICS if key in row]
    numbers = np.array([math.nan if value is None else value for _, value in values], "<f8")
    arrays = hashlib.sha256()
    for array in final_arrays(metrics.parent):
        arrays.update(f"{array.dtype} {array.shape} ".encode())
        arrays.update(array.tobytes())
    return {
        "losses": hashlib.sha256(numbers.tobytes()).hexdigest(),
        "arrays": arrays.hexdigest(),
        "first": next(value for key, value in values if key == "loss"),
        "last": next(value for key, value in values if key == "validation_loss"),
    }


def final_arrays(run: Path) -> list[np.ndarray]:
    """The arrays of a run's last checkpoint, in their order; read as zarr, whatever the library calls them."""
    import tensorstore

    steps = {int(path.name[5:]): path for path in run.rglob("step-*") if path.name[5:].isdigit()}
    if not steps:
        raise ValueError("there is no checkpoint")
    folders = sorted(path.parent for path in steps[max(steps)].glob("*/zarr.json"))
    if not folders:
        raise ValueError("the checkpoint holds no arrays")
    specs = [{"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}} for folder in folders]
    return [np.asarray(tensorstore.open(spec, open=True, read=True).result().read().result()) for spec in specs]


def cpu() -> str:
    """The model of this machine's processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
