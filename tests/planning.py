"""A small decoder to plan for, what a compiled step of it might be, and programs as text."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from equimu.plans._compile import CompiledStep
from equimu.plans._count import Counts, Traffic
from equimu.plans._plan import plan_from_compiled_step
from equimu.plans._topology import parse_topology
from equimu.runs import RunConfig
from equimu.tasks import LanguageModel, ModelConfig, TextConfig

EXAMPLE_FILES = Path(__file__).parent.parent / "examples"


def decoder(size, *, base=None, parameterization="mup", seq=32, rows=16, vocab_size=256, **model):
    task = LanguageModel(model=ModelConfig(vocab_size=vocab_size, **model), text=TextConfig(seq=seq, rows=rows))
    return RunConfig(task=task, size=size, base=base or {}, parameterization=parameterization)


TINY_SIZE = {"width": 64, "depth": 3}


TINY = decoder(TINY_SIZE, base={"width": 32}, head_dim=16, remat=True)


GIB = 2**30

FACTS = CompiledStep(
    rows=16,
    unit="tokens",
    units_per_row=32,
    parameters=10**9,
    model_flops=2e14,
    weights=4 * GIB,
    optimizer=2 * GIB,
    batch=0,
    activations=3 * GIB,
    total=10 * GIB,
    available=None,
    counts=Counts(flops=1e12, bytes=1e9, cycles=1e8, collectives={"all-gather": Traffic(3, 2e9)}, exposed_bytes=1e9),
    kernel_flops=1e11,
    trace_seconds=1.0,
    compile_seconds=2.0,
)


def planned_on(topology, mesh, **change):
    """The plan of a step with these facts changed."""
    return plan_from_compiled_step(TINY, parse_topology(topology), mesh, dataclasses.replace(FACTS, **change))


def text_of(f, *args, **kwargs):
    return jax.jit(f, **kwargs).lower(*args).compile().as_text()


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)
