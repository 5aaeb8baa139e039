"""The machines that plans are for: their figures, names and registry."""

import json
import re

import pytest
from planning import TINY

from equimu._errors import EquimuError
from equimu.plans import (
    Machine,
    examples,
    machines,
    plan,
    plan_to_json,
    register_machine,
)
from equimu.plans._topology import parse_topology
from equimu.plans.machines._nvidia import CARDS

# Operations of the tensor cores of a processor in a cycle, dense and in bfloat16, by the white papers of the architectures; and
# the clock in GHz that XLA's target configs give them.
TENSOR_CORES = {"a100": (2048, 1.41), "h100": (4096, 1.8295), "h200": (4096, 1.8295), "b200": (8192, 1.8353)}


@pytest.mark.parametrize("chip", [chip for chip in machines().values() if chip.has_times], ids=lambda chip: chip.name)
def test_a_chip_has_the_peak_of_its_matrix_units(chip):
    if chip.compiler == "cuda":
        operations, clock = TENSOR_CORES[chip.name]
        assert chip.flops == pytest.approx(CARDS[chip.name]["core_count"] * operations * clock * 1e9, rel=0.012)
        assert chip.network < chip.interconnect
    else:
        assert chip.flops == pytest.approx(2 * chip.matrix_units * chip.matrix_size**2 * chip.clock, rel=0.01)
    # Published operations per byte of main memory lie between 130 and 570, and links are slower than memory.
    assert 130 < chip.flops / chip.bandwidth < 570
    assert chip.interconnect < chip.bandwidth
    assert chip.source


@pytest.mark.parametrize("name", examples())
def test_topologies_are_read_from_their_names(name):
    devices = {
        "v3:8x8": 128,
        "v3:16x8": 256,
        "v4:4x4x8": 128,
        "v5e:16x16": 256,
        "v5p:4x4x8": 128,
        "v6e:16x16": 256,
        "a100:8": 8,
        "h100:8": 8,
        "h100:8x8": 64,
        "h200:8": 8,
        "b200:8": 8,
        "cpu:8": 8,
    }
    assert parse_topology(name).devices == devices[name]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "v9:4x4",
        "v3",
        "v3:4x4x4",
        "v5p:4x4",
        "cpu:2x2",
        "cpu:0",
        "v3:16 x 8",
        "h100",
        "h100:0",
        "h100:2x2x2",
        "h100:8x",
    ],
)
def test_an_unknown_topology_lists_those_there_are(name):
    with pytest.raises(EquimuError, match=re.escape(f"topology {name!r} is unknown")) as error:
        parse_topology(name)
    assert all(example in str(error.value) for example in examples())


@pytest.fixture
def cluster():
    """A machine of a user's own, of which no other process knows."""
    figures = dict(memory=10**9, flops=1e14, bandwidth=1e12, interconnect=1e11)
    register_machine(Machine(name="cluster", dimensions=2, examples=("2x4",), **figures))


def test_a_registered_machine_is_known_everywhere(cluster):
    assert parse_topology("cluster:2x4").devices == 8
    assert "cluster:2x4" in examples()
    for wrong in ("cluster:8", "clutser:2x4"):
        with pytest.raises(EquimuError, match="cpu:8, cluster:2x4$"):
            parse_topology(wrong)


@pytest.mark.slow  # a process that imports jax anew
def test_its_figures_reach_the_process_that_compiles(cluster):
    made = plan(TINY, "cluster:1x2", fsdp=2)
    assert (made.chip, made.devices, made.memory.available) == ("cluster", 2, 10**9)
    # counted_flops are those of both devices
    assert made.times.compute == pytest.approx(made.counted_flops / 2 / 1e14)
    assert not made.times.by_cycles and made.times.schedule >= max(made.times.compute, made.times.memory)
    assert json.loads(plan_to_json(made))["chip"]["bandwidth"] == 1e12


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"name": "v4"}, "'v4' is a machine of equimu's own"),
        ({"name": "my:pod"}, "is not a word"),
        ({"flops": 1e12}, "give all three, or none"),
        ({"memory": -1}, "machine.memory must be at least 1"),
    ],
)
def test_mistakes_of_machines(fields, words, cluster):
    with pytest.raises(EquimuError, match=words):
        register_machine(Machine(**{"name": "mine", **fields}))
