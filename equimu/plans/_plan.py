"""The plan of a run on a machine: does it fit, and what does a step take?"""

import dataclasses
from collections.abc import Mapping

from equimu._errors import EquimuError, ExitCode
from equimu._values import Real, Seconds, Size, check
from equimu.plans._child import compile_elsewhere
from equimu.plans._compile import CompiledStep
from equimu.plans._count import Counts, Traffic
from equimu.plans._mesh import MeshShape, mesh_for
from equimu.plans._topology import Topology, parse_topology
from equimu.plans.machines import COMPILERS, Machine
from equimu.runs import RunConfig

_DAY = 86_400


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one device.

    Attributes:
        weights: of the trained arrays.
        optimizer: of its state.
        batch: of its rows.
        activations: kept between the forward and the backward pass, as the traced program has them.
        temporaries: all else that the compiled program needs at once: gradients, gathered weights, intermediates, its code.
        total: of the compiled program.
        available: on the device; None where it is unknown, as on a CPU.
    """

    weights: int
    optimizer: int
    batch: int
    activations: int
    temporaries: int
    total: int
    available: int | None

    @property
    def by_kind(self) -> Mapping[str, int]:
        """The parts that add up to the total."""
        names = ("weights", "optimizer", "batch", "activations", "temporaries")
        return {name: getattr(self, name) for name in names}

    @property
    def largest(self) -> str:
        """The part that needs most."""
        return max(self.by_kind, key=lambda name: self.by_kind[name])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of a step.

    Attributes:
        compute: of the counted operations at the chip's peak.
        memory: of the counted bytes at the bandwidth of the main memory.
        network: of what the collectives send at the bandwidth of the links; of that inside a host and that between hosts, the
            longer.
        roofline: the largest of these; no program of these counts can be faster.
        schedule: of the compiler's cycles, of kernels at the chip's peak, and of the collectives that nothing runs beside.
            Where the compiler reports no cycles, the longer of operations and bytes of each instruction in place of them, and
            at least the roofline.
        by_cycles: whether the compiler reports cycles.
    """

    compute: Real
    memory: Real
    network: Real
    roofline: Real
    schedule: Real
    by_cycles: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a step of a run takes on a machine.

    Attributes:
        topology: name of the machine.
        devices: their number.
        hosts: that a slower network joins; 1 where all devices are joined alike.
        mesh: their arrangement.
        chip: name of their kind; None where its figures are unknown, as those of CPUs are.
        unit: what is counted: `"tokens"`, or `"examples"`.
        tokens: of a step, in these units.
        rows, accumulate: of a step, and the parts that it is computed in.
        parameters: entries of all trained arrays.
        model_flops: operations of a step that the mathematics needs.
        counted_flops: operations of a step in the compiled program, recomputation included; None if it does not fit.
        memory: of one device.
        fits: whether that is enough.
        collectives: of one device, by kind.
        kernels: how often each fused kernel, and each call of a library such as cuBLAS, runs in a step, by name.
        times: of a step; None where the machine's figures are unknown, and if it does not fit.
        tokens_per_day, utilisation: at the schedule's time. Utilisation is that of the peak by the operations that the
            mathematics needs.
        trace_seconds, compile_seconds: what it took to know.
        unknown_loops: loops in the program whose number of iterations is not a constant of it: see `count`.
        notes: what else there is to know of how the program was compiled and is run, a sentence each.
    """

    topology: str
    devices: int
    hosts: int
    mesh: MeshShape
    chip: str | None
    unit: str
    tokens: int
    rows: int
    accumulate: int
    parameters: int
    model_flops: Real
    counted_flops: Real | None
    memory: Memory
    fits: bool
    collectives: Mapping[str, Traffic]
    kernels: Mapping[str, Real]
    times: Times | None
    tokens_per_day: Real | None
    utilisation: Real | None
    trace_seconds: Real
    compile_seconds: Real
    unknown_loops: int
    notes: tuple[str, ...]


class NotFittingError(EquimuError):
    """A run needs more memory than the machine has."""

    exit_code = ExitCode.NO


def plan(
    config: RunConfig,
    topology: str,
    *,
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    seconds: Real | None = None,
) -> Plan:
    """What the step of `train` takes on a machine that need not be here: it is compiled for it, and the program is read.

    Args:
        config: the run.
        topology: the machine: `v3:16x8`, `v5p:4x4x8`, `h100:8`, `h100:4x8` (4 hosts of 8 devices), `cpu:8`, or one of your
            own (`register_machine`). For TPUs the extra `tpu` must be installed, for NVIDIA's GPUs the extra `cuda`.
        data, fsdp, tensor: devices along each axis of the mesh; all of them along `fsdp` where all three are 1.
        seconds: after which the compilation is given up.

    Returns:
        The plan; `fits` says whether the memory suffices.

    Raises:
        EquimuError: whatever `train` would refuse; an unknown topology; the compiler is not installed.

    Example:
        >>> plan = mu.plan(config, "v5p:4x4x8")
        >>> plan.fits, plan.memory.total, plan.times.schedule
    """
    check(Size, data=data, fsdp=fsdp, tensor=tensor)
    check(Seconds | None, seconds=seconds)
    check(RunConfig, config=config)
    found = parse_topology(topology)
    mesh = mesh_for(found, data, fsdp, tensor)
    facts = compile_elsewhere(config, found, **dataclasses.asdict(mesh), seconds=seconds)
    return plan_from_compiled_step(config, found, mesh, facts)


def plan_from_compiled_step(config: RunConfig, topology: Topology, mesh: MeshShape, facts: CompiledStep) -> Plan:
    """What the facts of a compiled step mean on a machine."""
    machine, counts = topology.machine, facts.counts
    tokens = facts.rows * facts.units_per_row
    memory = _memory(facts, machine)
    times = None if counts is None else _times(facts, counts, machine)
    return Plan(
        topology=topology.name,
        devices=topology.devices,
        hosts=topology.hosts,
        mesh=mesh,
        chip=machine.name if machine.has_times else None,
        tokens=tokens,
        rows=facts.rows,
        unit=facts.unit,
        accumulate=config.accumulate,
        parameters=facts.parameters,
        model_flops=facts.model_flops,
        counted_flops=None if counts is None else (counts.flops + facts.kernel_flops) * topology.devices,
        memory=memory,
        fits=counts is not None and (memory.available is None or memory.total <= memory.available),
        collectives={} if counts is None else counts.collectives,
        kernels={} if counts is None else counts.kernels,
        times=times,
        tokens_per_day=None if times is None else tokens / times.schedule * _DAY,
        utilisation=None
        if times is None or machine.flops is None
        else facts.model_flops / topology.devices / (times.schedule * machine.flops),
        trace_seconds=facts.trace_seconds,
        compile_seconds=facts.compile_seconds,
        unknown_loops=0 if counts is None else counts.unknown_loops,
        notes=COMPILERS[machine.compiler].notes(memory.total / memory.available if memory.available else None),
    )


def advice(made: Plan) -> str:
    """One line for a plan that does not fit: what needs most, and what to change.

    Args:
        made: the plan.
    """
    memory, mesh = made.memory, made.mesh
    spread = f"spread it over more devices (mesh {mesh} data×fsdp×tensor: more fsdp, less data)"
    what = {
        "weights": spread if mesh.data > 1 else "take more devices or a smaller model",
        "optimizer": f"{spread if mesh.data > 1 else 'take more devices'}, or optimizer.first_moment_dtype=bfloat16",
        "batch": "take fewer rows",
        "activations": f"model.remat=true, accumulate above {made.accumulate}, or more devices along tensor",
        "temporaries": f"accumulate above {made.accumulate}, model.remat=true, or more devices along tensor or fsdp",
    }[memory.largest]
    need, have = memory.total / 2**30, (memory.available or 0) / 2**30
    most = getattr(memory, memory.largest) / 2**30
    return (
        f"does not fit: {need:.2f} GiB a device of {have:.2f}; most of it, {most:.2f} GiB, is {memory.largest}: {what}; "
        "--sweep tries the others"
    )


def _memory(facts: CompiledStep, machine: Machine) -> Memory:
    inputs = facts.weights + facts.optimizer + facts.batch
    activations = max(0, min(facts.activations, facts.total - inputs))
    available = facts.available or machine.memory
    return Memory(
        weights=facts.weights,
        optimizer=facts.optimizer,
        batch=facts.batch,
        activations=activations,
        temporaries=max(0, facts.total - inputs - activations),
        total=facts.total,
        available=available,
    )


def _times(facts: CompiledStep, counts: Counts, machine: Machine) -> Times | None:
    if machine.flops is None or machine.bandwidth is None or machine.interconnect is None:
        return None
    compute = (counts.flops + facts.kernel_flops) / machine.flops
    memory = counts.bytes / machine.bandwidth
    between = machine.network or machine.interconnect
    sent = sum(traffic.bytes for traffic in counts.collectives.values())
    sent_out = sum(traffic.network for traffic in counts.collectives.values())
    network = max(sent / machine.interconnect, sent_out / between)
    roofline = max(compute, memory, network)
    busy = counts.work / machine.flops if machine.clock is None else counts.cycles / machine.clock
    exposed = counts.exposed_bytes / machine.interconnect + counts.exposed_network / between
    schedule = busy + facts.kernel_flops / machine.flops + exposed
    return Times(
        compute=compute,
        memory=memory,
        network=network,
        roofline=roofline,
        schedule=schedule if machine.clock is not None else max(schedule, roofline),
        by_cycles=machine.clock is not None,
    )
