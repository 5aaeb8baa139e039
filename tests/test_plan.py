"""Plans: counts against independent counts, parsers against programs whose collectives and loops are known, and the command."""

import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from commands import call
from json_schemas import check_schema
from planning import EXAMPLE_FILES, GIB, TINY, TINY_SIZE, array, decoder, planned_on

import equimu.cli
from equimu._errors import EquimuError
from equimu.optim import optimizer_class
from equimu.plans import (
    MeshShape,
    NotFittingError,
    advice,
    machines,
    plan,
    plan_to_json,
    sweep_plans,
)
from equimu.plans._child import _CODE
from equimu.plans._compile import compile_step, needed_and_available
from equimu.plans._estimate import estimate, optimizer_bytes, weight_bytes
from equimu.plans._mesh import mesh_for, meshes, unsupported_reason
from equimu.plans._plan import plan_from_compiled_step
from equimu.plans._saved_activations import saved_bytes
from equimu.plans._topology import parse_topology
from equimu.runs import RunConfig, config_from_dict
from equimu.tasks import find_task
from equimu.training import build_tree, matrix_entries, model_flops, parameter_count


@pytest.mark.parametrize("parts", [1, 4])
def test_what_a_scan_keeps_for_the_backward_pass(parts):
    layers, rows, width = 5, 32, 64

    def loss(w, x):
        layer = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
        return jnp.sum(jax.lax.scan(layer, x, w)[0])

    def step(w, x):
        gradient = jax.grad(loss)
        return jax.lax.scan(lambda g, x: (g + gradient(w, x), None), jnp.zeros_like(w), x)[0]

    jaxpr = jax.make_jaxpr(step)(array(layers, width, width), array(parts, rows // parts, width))
    assert saved_bytes(jaxpr) == layers * rows // parts * width * 4


@pytest.mark.parametrize(
    "change", [{}, {"n_kv_head": 2}, {"activation": "swiglu"}, {"tie_embeddings": True}, {"use_bias": True}]
)
def test_the_analytic_count_is_that_of_the_architecture(change):
    rules = "tpv(8)" if change.get("tie_embeddings") else "mup"
    config = decoder(
        TINY_SIZE, parameterization=rules, rows=4, vocab_size=100, head_dim=16, d_ff_multiple=2.0, **change
    )
    tree = build_tree(config, 4)
    d, layers, vocabulary = 64, 3, 100
    heads_of_keys = change.get("n_kv_head", 4)
    attention = 2 * d * d + 2 * d * heads_of_keys * 16
    mlp = (3 if change.get("activation") == "swiglu" else 2) * d * 128
    matrices = layers * (attention + mlp) + d * vocabulary
    pairs = 32 * 33 // 2
    assert matrix_entries(tree) == matrices
    # Of each pair of positions, row and layer: a product for the score and one for the value, two operations an entry of width.
    assert model_flops(config, tree, None) == 3 * (2 * matrices * 4 * 32 + 2 * 2 * d * pairs * 4 * layers)
    embedding = d * vocabulary * (not change.get("tie_embeddings"))
    if change.get("use_bias"):
        embedding += layers * (4 * d + 128 + d) + vocabulary
    readout_multiplier = 1 if change.get("tie_embeddings") else 0
    assert parameter_count(tree) in (matrices + embedding, matrices + embedding + readout_multiplier)


def facts_of(config, topology="cpu:8", **mesh):
    machine = parse_topology(topology)
    shape = dataclasses.asdict(mesh_for(machine, **mesh))
    return compile_step(config, machine, **shape, clock=time.perf_counter)


@pytest.mark.long
def test_counted_operations_are_the_analytic_ones_and_the_hidden_scores():
    """Without recomputation, the program does what the mathematics needs, and the scores that nobody may see."""
    config = decoder(TINY_SIZE, base={"width": 32}, head_dim=16, attention_backend="reference")
    facts = facts_of(config, "cpu:1")
    seq, rows, layers, width = 32, 16, 3, 64
    unseen = 3 * 4 * layers * width * rows * (seq * seq - seq * (seq + 1) / 2)
    assert facts.counts is not None
    assert facts.counts.flops == pytest.approx(facts.model_flops + unseen, rel=0.01)


@pytest.mark.long
def test_a_model_with_state_is_planned():
    task = find_task(f"{EXAMPLE_FILES / 'classifier.py'}:Gratings")  # BatchNorm
    config = RunConfig(task=task(rows=8, examples=256), size={"width": 16})
    facts = facts_of(config, "cpu:2", fsdp=2)
    assert facts.counts is not None and 0 < 2 * facts.counts.flops <= facts.model_flops
    assert facts.unit == "examples" and facts.weights > 0


@pytest.mark.long
def test_recomputation_is_counted_and_not_needed():
    without = decoder(TINY_SIZE, base={"width": 32}, head_dim=16)
    again, once = facts_of(TINY, "cpu:1"), facts_of(without, "cpu:1")
    assert again.model_flops == once.model_flops
    assert 1.1 < again.counts.flops / once.counts.flops < 4 / 3
    assert again.activations < once.activations


def test_weights_and_optimizer_fall_as_one_over_n():
    config = decoder({"width": 512, "depth": 2}, base={"width": 64}, vocab_size=512, head_dim=64)
    tree = build_tree(config, 16)
    whole = weight_bytes(tree, MeshShape(1, 1, 1))
    for n in (8, 16, 32, 64, 128, 256):
        own = weight_bytes(tree, MeshShape(1, n, 1))
        assert own == whole / n
        # and the counters of updates, a few bytes
        assert optimizer_bytes(config, tree, own) == pytest.approx(2 * whole / n, rel=1e-6)


@pytest.mark.parametrize(
    "name, mesh",
    [
        ("lion", (1, 8, 1)),
        pytest.param("adamw", (2, 2, 2), marks=pytest.mark.long),
        pytest.param("sgd", (8, 1, 1), marks=pytest.mark.long),
    ],
)
def test_the_compiled_step_holds_what_is_estimated(name, mesh):
    config = dataclasses.replace(TINY, optimizer=optimizer_class(name)())
    facts = facts_of(config, data=mesh[0], fsdp=mesh[1], tensor=mesh[2])
    guess = estimate(config, build_tree(config, 16), MeshShape(*mesh), machines()["cpu"])
    assert facts.weights + facts.optimizer == pytest.approx(guess.state, rel=0.001)
    assert facts.batch == 3 * 4 * 16 * 32 / (mesh[0] * mesh[1])
    assert facts.weights + facts.optimizer + facts.batch < facts.total
    made = plan_from_compiled_step(config, parse_topology("cpu:8"), MeshShape(*mesh), facts)
    assert sum(made.memory.by_kind.values()) == made.memory.total == facts.total
    assert made.fits and made.times is None


def test_all_meshes_of_a_machine():
    found = meshes(parse_topology("cpu:8"))
    assert len(set(found)) == len(found) == 10
    assert {m.data * m.fsdp * m.tensor for m in found} == {8}


def test_a_mesh_must_have_the_devices():
    machine = parse_topology("cpu:8")
    assert mesh_for(machine) == MeshShape(1, 8, 1)
    with pytest.raises(EquimuError, match="of 4 devices.*cpu:8 has 8"):
        mesh_for(machine, 2, 2, 1)


def test_why_a_mesh_does_not_divide_a_run():
    assert unsupported_reason(TINY, MeshShape(1, 16, 1)) is None
    assert "rows do not divide" in unsupported_reason(TINY, MeshShape(32, 1, 1))
    assert "4 heads do not divide" in unsupported_reason(TINY, MeshShape(1, 1, 8))


planned = functools.partial(planned_on, "v5e:16x16", MeshShape(1, 256, 1))


def test_times_follow_from_counts_and_figures():
    made, chip = planned(), machines()["v5e"]
    assert made.fits and made.memory.temporaries == 1 * GIB
    assert made.times.compute == 1.1e12 / chip.flops
    assert made.times.memory == 1e9 / chip.bandwidth
    assert made.times.network == 2e9 / chip.interconnect
    assert made.times.roofline == made.times.network
    assert made.times.schedule == pytest.approx(1e8 / 1.5e9 + 1e11 / chip.flops + 1e9 / chip.interconnect)
    assert made.tokens_per_day == pytest.approx(16 * 32 * 86400 / made.times.schedule)
    assert made.utilisation == pytest.approx(2e14 / 256 / chip.flops / made.times.schedule)
    assert made.counted_flops == 256 * 1.1e12


@pytest.mark.parametrize(
    "change, words",
    [
        ({"total": 40 * GIB}, "31.00 GiB, is temporaries: accumulate above 1"),
        ({"weights": 20 * GIB, "total": 27 * GIB}, "20.00 GiB, is weights: take more devices"),
        (
            {"optimizer": 20 * GIB, "total": 29 * GIB},
            "is optimizer: take more devices, or optimizer.first_moment_dtype=bfloat16",
        ),
        ({"activations": 20 * GIB, "total": 29 * GIB}, "is activations: model.remat=true"),
    ],
)
def test_what_does_not_fit_names_the_largest_part(change, words):
    made = planned(**change)
    assert not made.fits
    assert words in advice(made)
    assert f"{change['total'] / GIB:.2f} GiB a device of 16.00" in advice(made)
    assert check_schema("plan", plan_to_json(made))["advice"] == advice(made)


def test_the_compilers_refusal_is_read():
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded by 4.75G."
    later = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (20.50G) exceeds available HBM (15.75G). HLO module: jit__step."
    )
    assert needed_and_available(message) == needed_and_available(later) == (20.5 * GIB, 15.75 * GIB)
    refused = planned(counts=None, total=int(20.5 * GIB), available=int(15.75 * GIB))
    assert not refused.fits and refused.times is None and refused.counted_flops is None
    with pytest.raises(EquimuError, match="refuses this step: INTERNAL: a bug"):
        needed_and_available("INTERNAL: a\nbug")


def test_an_unknown_topology_is_a_mistake(capsys):
    code, _, err = call(capsys, "plan", "v7:8x8")
    assert code == 2 and err.count("\n") == 1 and "v5p:4x4x8" in err
    code, _, err = call(capsys, "plan")
    assert code == 2 and err.startswith("equimu: plan needs a machine after it, such as v3:8x8")


def test_without_the_compiler_the_pip_command_is_told(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else found(name))
    code, _, err = call(capsys, "plan", "v5e:16x16")
    assert code == 2 and err.count("\n") == 1 and "pip install 'equimu[tpu]'" in err


def test_what_does_not_fit_exits_with_1(monkeypatch, capsys):
    made = planned(total=40 * GIB)
    monkeypatch.setattr(importlib.import_module("equimu.cli._plan"), "plan", lambda *args, **kwargs: made)
    code, out, err = call(capsys, "plan", "v5e:16x16")
    assert code == 1 and "does not fit" in err and err.count("\n") == 1
    assert "the device has" in out and "all-gather" in out
    assert issubclass(NotFittingError, EquimuError)


@pytest.mark.slow  # processes that import jax anew
def test_the_command_plans_for_cpu_devices(capsys):
    flags = [
        "--size.width",
        "64",
        "--text.rows",
        "8",
        "--runtime.data",
        "2",
        "--runtime.tensor",
        "2",
        "--json",
    ]
    code, out, err = call(capsys, "plan", "cpu:4", *flags)
    found = check_schema("plan", out)
    assert code == 0, err
    assert found["mesh"] == {"data": 2, "fsdp": 1, "tensor": 2} and found["fits"] and found["advice"] is None
    assert found["collectives"]["all-gather"]["count"] > 0


@pytest.mark.slow
def test_mistakes_of_the_other_process_are_told_in_one_line(capsys):
    code, _, err = call(capsys, "plan", "cpu:4", "--text.rows", "6")
    assert code == 2 and err.count("\n") == 1 and "rows" in err and "Traceback" not in err


@pytest.mark.slow
def test_a_sweep_ranks_what_fits():
    made = []
    found = sweep_plans(
        TINY, "cpu:2", accumulate=(1, 2), compiled=2, on_plan=lambda plan, done, total: made.append(plan)
    )
    assert len(made) == 2 == sum(candidate.plan is not None for candidate in found)
    assert len(found) == 6  # three meshes, two accumulations
    sizes = [candidate.plan.memory.total for candidate in found if candidate.plan]
    assert sizes == sorted(sizes)


def test_a_sweep_compiles_the_best_and_drops_the_hopeless(monkeypatch):
    compiled = []

    def fake(config, topology, *, seconds, **mesh):
        compiled.append((config.accumulate, MeshShape(**mesh)))
        return dataclasses.replace(planned(), mesh=MeshShape(**mesh))

    module = sys.modules["equimu.plans._sweep"]  # by attribute, `equimu.plan` is the function
    monkeypatch.setattr(module, "plan", fake)
    monkeypatch.setattr(module, "check_compiler", lambda topology: None)
    model = dict(seq=4096, rows=1024, head_dim=128, dtype="bfloat16", remat=True)
    config = decoder({"width": 8192, "depth": 80}, base={"width": 1024, "depth": 80}, **model)
    found = sweep_plans(config, "v5e:16x16", compiled=3)
    assert len(compiled) == 3 and all(candidate.plan for candidate in found[:3])
    # 64B parameters in float32 with two moments: replicated they would need 768 GB a device.
    assert all(c.mesh.fsdp * c.mesh.tensor >= 128 for c in found)
    estimates = [c.estimate.seconds for c in found[3:]]
    assert estimates == sorted(estimates)


def needs_libtpu():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install 'equimu[tpu]'")


def example(name):
    return config_from_dict(tomllib.loads((EXAMPLE_FILES / name).read_text()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, topology, billions, share",
    [("paper-10b.toml", "v3:16x8", 10.19, 0.02), ("paper-4096.toml", "v3:8x8", 2.68, 0.02)],
)
def test_the_papers_runs_fit_their_machines(name, topology, billions, share):
    needs_libtpu()
    made = plan(example(name), topology)
    assert made.fits and made.memory.available == 16 * GIB
    assert made.parameters / 1e9 == pytest.approx(billions, rel=0.01)
    # float32 weights and bfloat16 momenta, spread over all cores
    assert made.memory.weights == pytest.approx(4 * made.parameters / made.devices, rel=0.001)
    assert made.memory.optimizer == pytest.approx(2 * made.parameters / made.devices, rel=0.001)
    assert made.memory.activations == 12 * 2**21 // made.devices * example(name).size["width"] * 2
    # Recomputed are the blocks, less the last product of each, which nothing reads: 8 of their 12 squares of the width.
    assert 1.15 < made.counted_flops / made.model_flops < 4 / 3
    assert not made.kernels  # a v3 runs none
    assert made.times.roofline <= made.times.schedule
    assert 0.3 < made.utilisation < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("topology, mesh", [("v4:2x2x1", (1, 4, 1)), ("v5e:2x4", (1, 4, 2)), ("v6e:2x2", (2, 2, 1))])
def test_the_fused_kernel_is_in_the_program(topology, mesh):
    needs_libtpu()
    model = dict(seq=512, head_dim=128, dtype="bfloat16", remat=True)
    config = decoder({"width": 512, "depth": 6}, base={"width": 128, "depth": 6}, **model)
    made = plan(config, topology, data=mesh[0], fsdp=mesh[1], tensor=mesh[2])
    assert made.fits
    assert len(made.kernels) >= 2  # forward and backward
    assert all(calls % 6 == 0 for calls in made.kernels.values())  # in each of the layers
    assert made.times.schedule >= made.times.roofline * 0.9


@pytest.mark.slow
def test_what_is_too_large_for_a_chip_is_told():
    needs_libtpu()
    model = dict(seq=256, rows=8, head_dim=128, dtype="bfloat16", remat=True)
    config = decoder({"width": 8192, "depth": 12}, base={"width": 128, "depth": 12}, **model)
    made = plan(config, "v5e:2x2")
    assert not made.fits and made.counted_flops is None
    assert made.memory.optimizer == pytest.approx(8 * made.parameters / 4, rel=0.001)
    assert made.memory.total > made.memory.weights + made.memory.optimizer + 16 * GIB  # gradients, and more
    assert sum(made.memory.by_kind.values()) == made.memory.total
    assert "does not fit" in advice(made)


@pytest.mark.slow
def test_a_size_that_the_compiler_does_not_know_is_told():
    needs_libtpu()
    with pytest.raises(EquimuError, match="'v5e:17x3' is unknown"):
        plan(TINY, "v5e:17x3")


@pytest.mark.long
def test_what_compiles_ends_with_the_process_that_asked(tmp_path):
    asked = tmp_path / "request.json"
    os.mkfifo(asked)  # it waits here, as in a compiler
    alive, held = os.pipe()
    package = str(Path(equimu.__file__).parents[1])
    command = [sys.executable, "-P", "-c", _CODE, package, str(asked), str(tmp_path / "facts.json"), str(alive)]
    with subprocess.Popen(command, pass_fds=[alive]) as child:
        os.close(alive)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(4)
        os.close(held)
        assert child.wait(30) == 1


@pytest.mark.slow
def test_the_package_stays_light():
    script = "import sys, equimu; sys.exit('libtpu' in sys.modules or 'jax.experimental.pallas' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=False
        ).returncode
        == 0
    )
