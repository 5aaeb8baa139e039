"""Plans for NVIDIA GPUs: names and figures everywhere, and steps compiled where the compiler is installed."""

import dataclasses
import functools
import importlib.metadata
import re
import time

import jax
import pytest
from aot import needs_cuda
from commands import call
from json_schemas import check_schema
from planning import EXAMPLE_FILES, GIB, TINY_SIZE, decoder, planned_on

from equimu._errors import EquimuError
from equimu.nn import Transformer
from equimu.plans import Machine, MeshShape, machines, plan, plan_to_json, print_plan, register_machine
from equimu.plans._compile import compile_step
from equimu.plans._count import Counts, Traffic
from equimu.plans._estimate import estimate
from equimu.plans._mesh import mesh_for
from equimu.plans._plan import plan_from_compiled_step
from equimu.plans._topology import check_compiler, environment_for, parse_topology
from equimu.plans.machines._nvidia import CARDS, target_config
from equimu.runs import RunConfig
from equimu.tasks import find_task
from equimu.training import build_tree


@pytest.mark.parametrize(
    "name, devices, hosts", [("h100:1", 1, 1), ("h100:8", 8, 1), ("a100:4x2", 8, 4), ("b200:8x8", 64, 8)]
)
def test_hosts_stand_before_devices(name, devices, hosts):
    found = parse_topology(name)
    assert (found.devices, found.hosts, found.per_host) == (devices, hosts, devices // hosts)


@pytest.mark.parametrize(
    "name, words",
    [
        ("h100:16", "has 16 devices a host, and a host of h100 holds 8; several hosts are h100:2x8"),
        ("h100:1000x8", "has 8000 devices, more than can be compiled for"),
        ("h100:8x8x8", "'h100:8x8x8' is unknown"),
    ],
)
def test_sizes_that_there_are_not_are_one_line(name, words, capsys):
    with pytest.raises(EquimuError, match=re.escape(words)):
        parse_topology(name)
    code, _, err = call(capsys, "plan", name)
    assert code == 2 and err.count("\n") == 1 and words in err


def without(*packages):
    found = importlib.metadata.version

    def version(name):
        if name in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name.startswith(("jax-cuda13", "nvidia")) else found(name)

    return version


def test_without_the_packages_they_are_named(monkeypatch, capsys):
    monkeypatch.setattr(jax, "__version__", "0.12.0")
    monkeypatch.setattr(importlib.metadata, "version", without("jax-cuda13-pjrt"))
    code, _, err = call(capsys, "plan", "h100:8")
    assert code == 2 and err.count("\n") == 1
    assert "needs jax-cuda13-pjrt, which is not installed: pip install 'equimu[cuda]'" in err


def test_an_older_jax_is_named(monkeypatch, capsys):
    monkeypatch.setattr(jax, "__version__", "0.10.1")
    monkeypatch.setattr(importlib.metadata, "version", without())
    code, _, err = call(capsys, "plan", "h100:8")
    assert code == 2 and err.count("\n") == 1
    assert "needs jax >= 0.12, which Python 3.12 or newer gets, and this is 0.10.1: pip install 'equimu[cuda]'" in err
    monkeypatch.setattr(jax, "__version__", "0.12.0.1")
    check_compiler(parse_topology("h100:8"))


def test_the_process_that_compiles_keeps_the_flags_of_the_caller(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=there")
    found = environment_for(parse_topology("h100:8"))
    assert found["JAX_PLATFORMS"] == "cpu" and found["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] == "1"
    assert found["XLA_FLAGS"] == "--xla_dump_to=there --xla_gpu_autotune_level=0"


@pytest.mark.parametrize("name", CARDS)
def test_what_the_compiler_is_told_of_a_card_is_what_the_plan_reckons_with(name):
    machine = machines()[name]
    text = target_config(machine)
    fields = dict(re.findall(r"^ +(\w+): ([\d.]+)$", text, re.MULTILINE))
    assert (
        float(fields["memory_bandwidth"]) == machine.bandwidth and int(fields["device_memory_size"]) == machine.memory
    )
    assert text.count("{") == text.count("}") and f'device_description_str: "{machine.kind}"' in text
    # 32 lanes for each quarter of a processor, and as much shared memory for a block as a processor has, less 1 KiB
    assert int(fields["fpus_per_core"]) in (64, 128)
    assert int(fields["shared_memory_per_core"]) - int(fields["shared_memory_per_block_optin"]) == 1024


def test_a_card_of_ones_own_is_compiled_as_one_that_is_known():
    figures = dict(memory=2**36, flops=1e15, bandwidth=3e12, interconnect=1e11)
    mine = Machine(name="mine", compiler="cuda", compiled_as="h100", kind="NVIDIA H100 NVL", **figures)
    assert "core_count: 132" in target_config(mine) and "NVIDIA H100 NVL" in target_config(mine)
    with pytest.raises(ValueError, match="knows a100, h100, h200, b200, not 'l4'"):
        target_config(dataclasses.replace(mine, compiled_as="l4"))
    with pytest.raises(EquimuError, match="per_host of mine needs machine.network"):
        register_machine(dataclasses.replace(mine, per_host=4))


COUNTS = Counts(
    flops=1e12,
    bytes=1e9,
    work=3e12,
    collectives={"all-gather": Traffic(3, 9e9), "all-reduce": Traffic(2, 8e9, 2, 1e9)},
    exposed_bytes=9e8,
    exposed_network=5e8,
)
planned = functools.partial(
    planned_on, "h100:8x8", MeshShape(8, 8, 1), counts=COUNTS, kernel_flops=1e12, model_flops=6.4e13
)


def test_times_of_links_and_network():
    made, card = planned(), machines()["h100"]
    assert made.hosts == 8 and not made.times.by_cycles
    assert made.times.network == max(17e9 / card.interconnect, 1e9 / card.network)
    assert made.times.roofline == made.times.network
    busy = (3e12 + 1e12) / card.flops
    assert made.times.schedule == max(made.times.roofline, busy + 9e8 / card.interconnect + 5e8 / card.network)
    slow = planned(counts=dataclasses.replace(COUNTS, exposed_network=5e9))
    assert slow.times.schedule == pytest.approx(busy + 9e8 / card.interconnect + 5e9 / card.network)


def test_what_is_printed_says_what_crosses_between_hosts(capsys):
    made = planned()
    check_schema("plan", plan_to_json(made))
    print_plan(made)
    lines = [re.sub(r" +", " ", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert "h100:8x8: 64 devices in 8 hosts, mesh 8×8×1 (data×fsdp×tensor)" in lines
    assert "all-reduce 2 8.000 GB sent 2 between hosts 1.000 GB over the network" in lines
    assert "all-gather 3 9.000 GB sent 0 between hosts 0.000 GB over the network" in lines


def test_notes_tell_of_memory_that_jax_does_not_take_and_of_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", without("nvidia-cudnn-cu13"))
    assert [note.split()[0] for note in planned().notes] == ["nvidia-cudnn-cu13"]
    monkeypatch.setattr(importlib.metadata, "version", without())
    assert planned().notes == ()
    (note,) = planned(total=70 * GIB).notes
    assert "this needs 88%: set XLA_PYTHON_CLIENT_MEM_FRACTION" in note
    assert planned(total=90 * GIB).notes == () and not planned(total=90 * GIB).fits


def test_estimates_prefer_meshes_whose_gathers_stay_in_a_host():
    config = decoder({"width": 2048, "depth": 4}, base={"width": 128}, seq=64, rows=64, head_dim=128, remat=True)
    tree, card = build_tree(config, 64), machines()["h100"]

    def seconds(per_host, *mesh):
        return estimate(config, tree, MeshShape(*mesh), card, per_host=per_host).seconds

    # 16 devices in one host, and in two: where the axis stays in a host, nothing changes
    assert seconds(8, 1, 16, 1) > seconds(16, 1, 16, 1)
    assert seconds(8, 2, 8, 1) - seconds(16, 2, 8, 1) < seconds(8, 1, 16, 1)
    assert seconds(4, 1, 4, 1) == seconds(8, 1, 4, 1)


def compiled(config, topology, **mesh):
    """The plan, compiled in this process."""
    machine = parse_topology(topology)
    shape = mesh_for(machine, **mesh)
    facts = compile_step(config, machine, **dataclasses.asdict(shape), clock=time.perf_counter)
    return plan_from_compiled_step(config, machine, shape, facts)


@needs_cuda
@pytest.mark.usefixtures("nothing_kept")
def test_a_step_for_one_gpu_has_the_products_that_the_mathematics_needs():
    config = decoder(TINY_SIZE, base={"width": 32}, head_dim=16, attention_backend="reference")
    made = compiled(config, "h100:1")
    seq, rows, layers, width = 32, 16, 3, 64
    unseen = 3 * 4 * layers * width * rows * (seq * seq - seq * (seq + 1) / 2)
    assert made.counted_flops == pytest.approx(made.model_flops + unseen, rel=0.01)
    assert made.fits and not made.collectives and made.chip == "h100"
    assert sum(made.memory.by_kind.values()) == made.memory.total
    assert 0 < made.times.roofline <= made.times.schedule


@pytest.mark.long
@needs_cuda
@pytest.mark.usefixtures("nothing_kept")
def test_the_convolutions_of_cudnn_have_the_operations_of_those_of_the_cpu():
    task = find_task(f"{EXAMPLE_FILES / 'classifier.py'}:Gratings")
    config = RunConfig(task=task(rows=8, examples=256), size={"width": 16})
    made = compiled(config, "h100:1")
    assert made.counted_flops == compiled(config, "cpu:1").counted_flops
    assert {"cudnn$convBackwardFilter", "cudnn$convBackwardInput"} <= made.kernels.keys()


@pytest.mark.long
@needs_cuda
@pytest.mark.usefixtures("nothing_kept")
def test_a_sharded_step_tells_what_crosses_between_hosts():
    model = dict(seq=64, rows=16, head_dim=64, remat=True, attention_backend="reference")
    config = decoder({"width": 256, "depth": 2}, base={"width": 128, "depth": 2}, **model)
    one, two = compiled(config, "h100:8", fsdp=4, tensor=2), compiled(config, "h100:2x4", data=2, fsdp=4)
    assert {"all-gather", "reduce-scatter"} <= one.collectives.keys()
    assert not any(traffic.across for traffic in one.collectives.values())
    # The weights are gathered inside a host, and their gradients summed over both.
    gathers, sums = two.collectives["all-gather"], two.collectives["all-reduce"]
    assert gathers.count > 0 and gathers.across == 0 and sums.across > 0
    assert sums.network == pytest.approx(4 * two.parameters / 4, rel=0.1)
    assert two.memory.weights == pytest.approx(4 * two.parameters / 4, rel=0.01)


@needs_cuda
@pytest.mark.slow  # a process that imports jax anew
def test_the_command_plans_for_gpus():
    config = decoder(TINY_SIZE, base={"width": 32}, head_dim=16, remat=True)
    made = plan(config, "h100:2x2")
    assert made.fits and made.hosts == 2 and made.collectives["all-gather"].across > 0


@needs_cuda
@pytest.mark.slow
@pytest.mark.usefixtures("nothing_kept")
def test_the_temporaries_are_those_that_a_card_reported(monkeypatch):
    """The unrolled step of `benchmarks.gpu`: jax on an H100 said 11.8 GiB while its blocks kept all of their results."""
    model = dict(seq=1024, rows=16, vocab_size=32768, head_dim=128, dtype="bfloat16")
    config = decoder({"width": 2048, "depth": 12}, base={"width": 128}, **model)

    def temporaries(made):
        return (made.memory.activations + made.memory.temporaries) / GIB

    made = compiled(config, "h100:1")
    assert temporaries(made) < 10.5
    # Products of matrices: of the mathematics, and of kernels, whose backward passes make the scores again.
    assert made.counted_flops / made.model_flops == pytest.approx(1, abs=0.05)
    monkeypatch.setattr(Transformer, "_rematerialised", lambda self, layer: layer)
    assert temporaries(compiled(config, "h100:1")) == pytest.approx(11.8, rel=0.1)
