"""The step of a run compiled for a machine that need not be here: what the plan is made of."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding

from equimu._device import compiling_for
from equimu._errors import EquimuError
from equimu._types import PyTree
from equimu._values import Real
from equimu.plans._count import Counts, count
from equimu.plans._saved_activations import saved_bytes
from equimu.plans._topology import Topology, devices_of
from equimu.runs import RunConfig
from equimu.sharding import BATCH, make_mesh, rows_of_process
from equimu.training import (
    TrainState,
    attention_flops_of_layer,
    build_tree,
    hyperparameters_of,
    kernel_flops,
    model_flops,
    parameter_count,
    program_for,
)

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledStep:
    """Of a compiled step; bytes and counts of one device.

    Attributes:
        rows: of a batch.
        unit, units_per_row: what logs count, and how many of it a row has.
        parameters: entries of all trained arrays, on all devices together.
        model_flops: operations that the mathematics needs, on all devices together.
        weights, optimizer, batch: bytes of what goes in.
        activations: bytes kept between the forward and the backward pass, of the program before it was compiled.
        total: bytes that the program needs at once.
        available: bytes that the compiler has for it, where it said so.
        counts: what the program does; None where it does not fit, as the compiler then makes none.
        kernel_flops: operations of its kernels.
        trace_seconds, compile_seconds: that it took.
    """

    rows: int
    unit: str
    units_per_row: int
    parameters: int
    model_flops: Real
    weights: int
    optimizer: int
    batch: int
    activations: int
    total: int
    available: int | None
    counts: Counts | None
    kernel_flops: Real
    trace_seconds: Real
    compile_seconds: Real


def compile_step(
    config: RunConfig, topology: Topology, *, data: int, fsdp: int, tensor: int, clock: Any
) -> CompiledStep:
    """Compiles the step of `equimu train`, in a process with the environment of `environment_for`.

    Args:
        config: the run.
        topology: the machine.
        data, fsdp, tensor: its mesh.
        clock: a function that tells the time in seconds.

    Raises:
        EquimuError: whatever `equimu train` would refuse; a machine that the compiler does not know.
    """
    devices = devices_of(topology)
    mesh = make_mesh(data, fsdp, tensor, devices=devices)
    begin = clock()
    with compiling_for(devices[0]):
        step = _traced(config, mesh)
        tree, batch, traced, state = step.tree, step.batch, step.traced, step.state
        rows = jax.tree.leaves(batch)[0].shape[0]
        lowered = traced.lower()
        traced_at = clock()
        weights, optimizer = _bytes(state.params), _bytes(state.opt_state)
        total, available, text = _compiled(lowered, weights + optimizer + _bytes(batch))
    compiled_at = clock()
    counts = None if text is None else _counts(text, topology, mesh, devices)
    forward = attention_flops_of_layer(config) / config.accumulate / mesh.size
    kernels = {} if counts is None else counts.kernels
    unit, units_per_row = config.task.units()
    return CompiledStep(
        rows=rows,
        unit=unit,
        units_per_row=units_per_row,
        parameters=parameter_count(tree),
        model_flops=model_flops(config, tree, traced.jaxpr),
        weights=weights,
        optimizer=optimizer,
        batch=_bytes(batch),
        activations=saved_bytes(traced.jaxpr),
        total=total,
        available=available,
        counts=counts,
        kernel_flops=sum(calls * kernel_flops(name, forward) for name, calls in kernels.items()),
        trace_seconds=traced_at - begin,
        compile_seconds=compiled_at - traced_at,
    )


def _counts(text: str, topology: Topology, mesh: Mesh, devices: Sequence[Any]) -> Counts:
    machine = topology.machine
    at = {device: place for place, device in enumerate(devices)}
    hosts = [at[device] // topology.per_host for device in mesh.devices.flat] if topology.hosts > 1 else []
    return count(text, hosts=hosts, balance=(machine.flops or 0.0) / (machine.bandwidth or 1.0))


def training_flops(config: RunConfig) -> Real:
    """Operations of the matrix products of a whole training, without recomputation and validation.

    Args:
        config: the run. Nothing of it is compiled.

    Raises:
        EquimuError: whatever `equimu train` would refuse.
    """
    step = _traced(config, make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    return config.steps * model_flops(config, step.tree, step.traced.jaxpr)


class _TracedStep(NamedTuple):
    tree: PyTree
    batch: PyTree
    traced: jax.stages.Traced
    state: TrainState


def _traced(config: RunConfig, mesh: Mesh) -> _TracedStep:
    like = config.task.batch_like()
    rows = jax.tree.leaves(like)[0].shape[0]
    rows_of_process(mesh, rows)
    tree = build_tree(config, rows)
    program, numbers = program_for(config, tree, mesh)
    place = NamedSharding(mesh, BATCH)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), like)
    traced = program.traced_step(batch, numbers, hyperparameters_of(config))
    return _TracedStep(tree, batch, traced, program.state(program.state_like))


def _compiled(lowered: Any, inputs: int) -> tuple[int, int | None, str | None]:
    """Bytes that the program needs and, if it does not fit, those that it could have; else its text.

    A refusal tells of the program alone, without the bytes of its inputs.
    """
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed, available = needed_and_available(str(error))
        return needed + inputs, available, None
    memory = compiled.memory_analysis()
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return total, None, compiled.as_text()


def needed_and_available(message: str) -> tuple[int, int]:
    """The bytes that a program needs beside its inputs and those that the device has, from the compiler's refusal.

    Raises:
        EquimuError: it refuses for another reason.
    """
    size = r"([\d.]+)([KMGT]?)i?B?"
    wordings = (
        rf"Used {size} of {size} hbm",  # of libtpu 0.0.41
        rf"memory required for HLO temporaries \({size}\) exceeds available HBM \({size}\)",  # of 0.0.50
    )
    found = next(filter(None, (re.search(words, message) for words in wordings)), None)
    if found is None:
        raise EquimuError(f"the compiler refuses this step: {' '.join(message.split())[:300]}")
    needed, available = (round(float(found[n]) * _UNITS[found[n + 1]]) for n in (1, 3))
    return needed, available


def _bytes(tree: PyTree) -> int:
    """Bytes a device of arrays given by their shapes and shardings."""
    return sum(x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(tree))
