"""Kernels of other libraries behind our arguments: the adapter for checked shard_maps, and what each kernel is given."""

import functools
import importlib.util
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from attention_cases import CASES, errors, inputs, oracle, outcome, segments, unpack
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, PartitionSpec
from tiers import long_but

from equimu._errors import EquimuError
from equimu.attention import _opaque_call, dot_product_attention, explain
from equimu.attention._jax_nn import cudnn
from equimu.attention._splash import splash
from equimu.attention._tokamax import tokamax
from equimu.attention._visible import Visibility

pytestmark = pytest.mark.usefixtures("light_compilation")

needs_tokamax = pytest.mark.skipif(importlib.util.find_spec("tokamax") is None, reason="tokamax is not installed")


def call(run, q, k, v, *, scale, causal=True, window=None, segment_ids=None, q_offset=0, **options):
    """A backend's function with the arguments of `dot_product_attention`; whether it can serve is not asked."""
    rest = dict(scale=scale, q_offset=q_offset, q_segments=segment_ids, k_segments=segment_ids)
    return run(q, k, v, **rest, visibility=Visibility(causal=causal, window=window), **options)


# On the CPU each kernel has something else of its library in its place, behind the same arguments and adapter.
KERNELS = {
    "splash": functools.partial(call, splash, interpret=True),
    "cudnn": functools.partial(call, cudnn, implementation="xla"),
    "tokamax": functools.partial(call, tokamax, implementation=("xla",)),
}
every_kernel = pytest.mark.parametrize(
    "kernel", [pytest.param(name, marks=needs_tokamax if name == "tokamax" else ()) for name in KERNELS]
)
PLAIN = {name: CASES[name] for name in ("odd", "no multiple of a block", "uneven head_dim", "bidirectional", "window")}


@pytest.mark.parametrize(
    "case",
    long_but(
        ("odd", "window", "bidirectional window", "packed", "later"),
        {name: case for name, case in CASES.items() if name != "packed pair"},
    ),
)
def test_splash_matches_the_oracle(case):
    arrays, options = unpack(case)
    expected = oracle(*arrays[:3], d_out=arrays[3], **options)
    assert jnp.all(errors(outcome(*arrays, attend=KERNELS["splash"], **options), expected) < 4e-6)


@pytest.mark.parametrize("case", long_but(("odd", "window"), PLAIN))
@pytest.mark.parametrize("kernel", ["cudnn", pytest.param("tokamax", marks=needs_tokamax)])
def test_arguments_are_mapped_as_the_oracle_has_them(kernel, case):
    arrays, options = unpack(case)
    expected = oracle(*arrays[:3], d_out=arrays[3], **options)
    assert jnp.all(errors(outcome(*arrays, attend=KERNELS[kernel], **options), expected) < 4e-6)
    constant = jax.jit(functools.partial(KERNELS[kernel], **options))(*arrays[:3])
    assert jnp.all(errors(constant, expected[0]) < 4e-6)


@pytest.mark.slow
@pytest.mark.parametrize("options", [dict(causal=False), dict(segment_ids=segments(600), window=200)])
def test_splash_with_several_blocks(options):
    arrays = inputs(600, heads=2, kv_heads=1)
    expected = outcome(*arrays, scale=0.25, backend="reference", **options)
    assert jnp.all(errors(outcome(*arrays, attend=KERNELS["splash"], scale=0.25, **options), expected) < 4e-6)


@every_kernel
@pytest.mark.parametrize(
    "transformation",
    long_but(
        ("vmap", "scan", "remat vmap shard_map"),
        ("eager vmap", "vmap", "remat", "scan", "shard_map", "remat vmap shard_map"),
    ),
)
def test_gradients_of_what_devices_share_and_do_not_share(kernel, transformation):
    """q varies over the rows of the mesh, k, v and scale are shared: their gradients are sums over the devices."""
    q, k, v, d_out = inputs(20, batch=(4,))
    k, v = k[0], v[0]
    attend = KERNELS[kernel]

    def rows(q, d_out, k, v, scale):
        def row(q, d_out):
            return jnp.sum(d_out * attend(q, k, v, scale=scale))

        mapped = jax.checkpoint(row) if "remat" in transformation else row
        if "scan" in transformation:
            return jnp.sum(jax.lax.scan(lambda _, row: (None, mapped(*row)), None, (q, d_out))[1])
        if "vmap" in transformation:
            return jnp.sum(jax.vmap(mapped)(q, d_out))
        return sum(mapped(*row) for row in zip(q, d_out, strict=True))

    def loss(q, k, v, scale):
        if "shard_map" not in transformation:
            return rows(q, d_out, k, v, scale)
        mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
        spec, same = PartitionSpec("data"), PartitionSpec()
        local = jax.shard_map(
            lambda *arguments: jax.lax.psum(rows(*arguments), "data"),
            mesh=mesh,
            in_specs=(spec, spec, same, same, same),
            out_specs=same,
        )
        return local(q, d_out, k, v, scale)

    gradients = jax.grad(loss, argnums=(0, 1, 2, 3))
    gradients = gradients if transformation == "eager vmap" else jax.jit(gradients)
    one_by_one = [oracle(q[i], k, v, scale=0.25, d_out=d_out[i])[1] for i in range(4)]
    dq, dk, dv, d_scale = zip(*one_by_one, strict=True)
    expected = jnp.stack(dq), sum(dk), sum(dv), sum(d_scale)
    assert jnp.all(errors(gradients(q, k, v, jnp.float32(0.25)), expected) < 4e-6)


def test_without_the_adapter_splash_does_not_compose(monkeypatch):
    """When this fails, JAX has learned to type such kernels, and the adapter can go."""
    monkeypatch.setattr("equimu.attention._splash.foreign", lambda function, *arrays: function(*arrays))
    q, k, v, _ = inputs(20, batch=(2,))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    attend = functools.partial(KERNELS["splash"], scale=0.25)
    with pytest.raises(ValueError, match="manual_axis_type"):
        jax.eval_shape(jax.shard_map(attend, mesh=mesh, in_specs=spec, out_specs=spec), q, k, v)


def test_the_adapter_types_its_output_as_its_inputs_vary():
    def local(x, y):
        types = [jax.typeof(_opaque_call.foreign(jnp.add, *pair)).manual_axis_type.varying for pair in ((x, y), (y, y))]
        assert types == [{"data"}, set()]
        return x

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    jax.eval_shape(jax.shard_map(local, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec), shape, shape)


def test_the_switch_of_the_check_is_where_it_was_and_is_put_back():
    def local(x):
        _opaque_call.foreign(jnp.sin, x)
        assert _opaque_call.config._check_vma.value  # as on entry
        return x

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    jax.eval_shape(
        jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec), jax.ShapeDtypeStruct((2,), jnp.float32)
    )
    assert not _opaque_call.config._check_vma.value


def test_a_trial_run_is_one_of_its_own_even_while_a_shard_map_is_traced(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = []

    def local(x):
        found.append(_opaque_call.trial(functools.partial(jax.nn.dot_product_attention, is_causal=True)))
        found.append(_opaque_call.trial(lambda q, k, v: q * jnp.nan))
        found.append(_opaque_call.trial(lambda q, k, v: q.missing))
        return x

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    jax.eval_shape(
        jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec), jax.ShapeDtypeStruct((2,), jnp.float32)
    )
    assert found[0] is None
    assert "not finite" in found[1] and "missing" in found[2]


# ---- choosing


def shaped(dtype=jnp.bfloat16, seq=300, head_dim=64):
    return [jax.ShapeDtypeStruct((1, seq, 4, head_dim), dtype)] * 3


IDS = jax.ShapeDtypeStruct((1, 300), jnp.int32)


@pytest.mark.parametrize(
    "backend, shape, options, reason",
    [
        ("splash", dict(dtype=jnp.float16), dict(), "not float16"),
        ("splash", dict(head_dim=384), dict(), "head_dim 384 is more than 256"),
        ("splash", dict(), dict(q_offset=jnp.int32(1)), "q_offset must be a Python number"),
        ("splash", dict(), dict(segment_ids=(IDS, jax.ShapeDtypeStruct((1, 300), jnp.int32))), "see no key"),
        ("splash", dict(), dict(segment_ids=IDS, q_offset=3), "see no key"),
        ("tokamax", dict(), dict(segment_ids=IDS), "segment_ids only as a mask"),
        ("tokamax", dict(), dict(q_offset=3), "no q_offset"),
        ("tokamax", dict(), dict(), "tokamax is not installed|no CUDA device"),
        ("cudnn", dict(), dict(scale=jnp.float32(1)), "no CUDA device"),  # no longer that the scale is traced
    ],
)
def test_why_not(backend, shape, options, reason):
    platform = "tpu" if backend == "splash" else "cuda"
    explanation = explain(*shaped(**shape), **dict(scale=0.1) | options, platform=platform)
    assert explanation.chosen != backend
    assert re.search(reason, explanation.others[backend])


@pytest.mark.parametrize("options", [dict(), dict(q_offset=3), dict(segment_ids=IDS), dict(scale=jnp.float32(1))])
def test_a_kernel_comes_first_on_a_tpu(options):
    options = dict(scale=0.1) | options
    assert explain(*shaped(), **options, platform="tpu").chosen == "splash"
    # where ours was compared and won
    ours = explain(*shaped(head_dim=128), **options, platform="tpu").chosen
    assert ours == ("splash" if "segment_ids" in options else "pallas_tpu")


def mesh_of(kind, platform):
    device = AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    return jax.sharding.use_abstract_mesh(AbstractMesh((2,), ("data",), abstract_device=device))


@pytest.mark.parametrize(
    "kind, platform, seen, chosen",
    [
        ("TPU v5", "tpu", "tpu", "splash"),
        ("TPU v3", "tpu", "tpu", "blockwise"),
        ("NVIDIA H100 80GB HBM3", "gpu", "cuda", "blockwise"),  # its kernels are only tried on the machine itself
        ("AMD Instinct MI300X", "gpu", "rocm", "blockwise"),
        ("cpu", "cpu", "cpu", "blockwise"),
    ],
)
def test_the_mesh_names_the_device(kind, platform, seen, chosen):
    with mesh_of(kind, platform):
        explanation = explain(*shaped(), scale=0.1)
    assert (explanation.platform, explanation.chosen) == (seen, chosen)


def test_a_mesh_of_another_platform_refuses_a_kernel():
    q, k, v, _ = inputs(20)
    with mesh_of("cpu", "cpu"), pytest.raises(EquimuError, match="'splash' cannot serve.*runs on tpu, not on cpu"):
        dot_product_attention(q, k, v, scale=0.25, backend="splash")


def test_only_the_platform_that_the_mesh_names_is_traced(monkeypatch):
    def traced(*arguments, **rest):
        raise AssertionError("traced for a TPU")

    monkeypatch.setattr("equimu.attention._splash.foreign", traced)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    attend = functools.partial(dot_product_attention, scale=0.25)
    jax.eval_shape(jax.shard_map(attend, mesh=mesh, in_specs=spec, out_specs=spec), *inputs(300)[:3])
    with pytest.raises(AssertionError, match="traced for a TPU"):
        jax.eval_shape(attend, *inputs(300)[:3])


# ---- lowering for what is not there


def lowered(platform, backend, dtype=jnp.bfloat16, **options):
    """The program of a loss and its gradients inside a checked shard_map whose mesh names no device."""
    mesh = AbstractMesh((2,), ("data",), axis_types=(AxisType.Auto,))

    def local(q, k, v):
        attend = functools.partial(dot_product_attention, scale=0.1, backend=backend, **options)
        loss = jax.value_and_grad(
            lambda *arrays: jnp.sum(jax.vmap(attend)(*arrays).astype(jnp.float32) ** 2), (0, 1, 2)
        )
        value, gradients = loss(q, k, v)
        return jax.lax.psum(value, "data"), gradients

    rows = PartitionSpec("data")
    step = jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=(PartitionSpec(), rows))
    shapes = [jax.ShapeDtypeStruct((2, 600, 4, 64), dtype)] * 3
    return jax.jit(step).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("backend", ["auto", "blockwise", "jax", "reference"])
def test_a_step_is_lowered_for_cuda(backend):
    text = lowered("cuda", backend)
    assert "dot_general" in text and "tpu_custom_call" not in text


@pytest.mark.parametrize("backend", ["cudnn", "tokamax"])
def test_what_needs_the_device_says_so_when_lowered_for_cuda(backend):
    with pytest.raises(EquimuError, match="no CUDA device|not installed"):
        lowered("cuda", backend)
    pytest.skip(f"{backend} cannot be lowered without a CUDA device and its libraries")


@pytest.mark.parametrize("backend", ["auto", "splash"])
def test_a_step_is_lowered_for_a_tpu(backend):
    text = lowered("tpu", backend)
    assert text.count("tpu_custom_call") >= 3 and "while" not in text
    assert "tpu_custom_call" not in lowered("cpu", "auto")


def test_importing_the_package_imports_no_kernels():
    heavy = "{'tokamax', 'jax.experimental.pallas.tpu'}"
    code = f"import sys, equimu.attention; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
