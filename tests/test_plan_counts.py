"""Counts of operations, bytes and collectives of compiled programs, against programs whose counts are known."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from planning import array, text_of

from equimu.plans import (
    Traffic,
)
from equimu.plans._count import count
from equimu.plans._groups import group_size, groups_of
from equimu.plans._hlo import Module
from equimu.sharding import make_mesh


def test_products_in_loops_count_as_often_as_the_loops_run():
    def f(w, x):
        def outer(x, w):
            return jax.lax.fori_loop(0, 3, lambda _, y: jnp.tanh(y @ w), x), None

        return jax.lax.scan(outer, x, w)[0]

    counts = count(text_of(f, array(7, 64, 64), array(128, 64)))
    assert counts.flops == 7 * 3 * 2 * 128 * 64 * 64
    assert counts.unknown_loops == 0


def test_batched_and_transposed_products():
    f = lambda a, b: jnp.einsum("bik,bjk->bij", a, b)  # noqa: E731
    assert count(text_of(f, array(5, 32, 96), array(5, 48, 96))).flops == 2 * 5 * 32 * 48 * 96


def test_loops_over_what_is_seen_run_half_as_often():
    def f(x, w):
        def rows(x, i):
            seen = jax.lax.fori_loop(0, i + 1, lambda _, y: jnp.tanh(y @ w), x)
            return seen, None

        return jax.lax.scan(rows, x, jnp.arange(8))[0]

    counts = count(text_of(f, array(64, 64), array(64, 64)))
    assert counts.unknown_loops == 1
    assert counts.flops == sum(range(1, 9)) * 2 * 64**3


def test_the_dearer_branch_counts():
    def f(p, x):
        return jax.lax.cond(p, lambda x: jnp.tanh(x @ x) @ x, lambda x: x @ x, x)

    assert count(text_of(f, jax.ShapeDtypeStruct((), jnp.bool_), array(64, 64))).flops == 2 * 2 * 64**3


@pytest.mark.parametrize("strides, padding", [((1, 1), "VALID"), ((2, 1), "SAME")])
def test_convolutions_count_the_entries_that_are_there(strides, padding):
    x, w = array(2, 9, 11, 3), array(3, 2, 3, 5)

    def f(x, w):
        return jax.lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    # Of ones, each output is the number of products that it sums.
    ones = f(*(jnp.ones(s.shape) for s in (x, w)))
    assert count(text_of(f, x, w)).flops == 2 * float(jnp.sum(ones))


def test_collectives_by_kind_with_count_and_bytes():
    mesh = make_mesh(1, 4, 2)

    def local(x):
        def layer(x, _):
            whole = jax.lax.all_gather(x, "fsdp", tiled=True)
            part = jax.lax.psum_scatter(jnp.sin(whole), "fsdp", tiled=True)
            part = jax.lax.ppermute(part, "tensor", [(0, 1), (1, 0)])
            return jnp.cos(part), None

        x, _ = jax.lax.scan(layer, x, None, length=6)
        return jax.lax.psum(jnp.sum(x, keepdims=True), ("fsdp", "tensor"))

    f = jax.shard_map(local, mesh=mesh, in_specs=P(("fsdp", "tensor")), out_specs=P())
    found = count(text_of(f, array(8 * 256))).collectives
    own = 256 * 4  # bytes
    assert found == {
        "all-gather": Traffic(6, 6 * 3 * own),
        "reduce-scatter": Traffic(6, 6 * 3 * own),
        "collective-permute": Traffic(6, 6 * own),
        "all-reduce": Traffic(1, 2 * 4 * 7 / 8),
    }


def test_of_a_stack_only_the_layer_is_read():
    def f(w, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    one, many = (count(text_of(f, array(n, 256, 256), array(256, 256))).bytes for n in (8, 16))
    assert many / one == pytest.approx(2, rel=0.05)
    assert one < 8 * 10 * 256 * 256 * 4


# What the compiler of a TPU writes, in its forms.
TPU = """HloModule jit_step, is_scheduled=true, num_partitions=8

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%start (p0: bf16[8,256]) -> (bf16[8,256], bf16[64,256]) {
  %p0 = bf16[8,256]{1,0:T(8,128)(2,1)} parameter(0)
  %g0 = bf16[64,256]{1,0:T(8,128)(2,1)} all-gather(%p0), replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %c0 = (bf16[8,256]{1,0:S(1)}, bf16[64,256]{1,0:S(1)}) custom-call(%g0), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (p1: bf16[8,256]) -> bf16[64,256] {
  %p1 = bf16[8,256]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %g1 = bf16[64,256]{1,0:T(8,128)(2,1)} all-gather(%p1), replica_groups=[1,8]<=[8], dimensions={0}
}

%done (p2: bf16[8,256]) -> bf16[64,256] {
  %p2 = bf16[8,256]{1,0:T(8,128)(2,1)} parameter(0)
  %g2 = bf16[64,256]{1,0:T(8,128)(2,1)} all-gather(%p2), replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %c2 = bf16[64,256]{1,0:T(8,128)(2,1)} custom-call(%p2, %g2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter (p3: f32[64,256]) -> f32[8,256] {
  %p3 = f32[64,256]{1,0:T(8,128)} parameter(0)
  %zero = s32[] constant(0)
  %r3 = f32[64,256]{1,0:T(8,128)} all-reduce(%p3), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%sum
  ROOT %d3 = f32[8,256]{1,0:T(8,128)} dynamic-slice(%r3, %zero, %zero), dynamic_slice_sizes={8,256}
}

%products (p4: bf16[32,4,64,128], p5: bf16[32,4,64,128]) -> f32[32,4,64,64] {
  %p4 = bf16[32,4,64,128]{3,2,1,0} parameter(0)
  %p5 = bf16[32,4,64,128]{3,2,1,0} parameter(1)
  ROOT %conv = f32[32,4,64,64]{3,2,1,0} convolution(%p4, %p5), WINDOW, dim_labels=01bf_01oi->01bf
}

%cond (state: (s32[], bf16[8,256])) -> pred[] {
  %state = (s32[]{:T(256)}, bf16[8,256]{1,0:T(8,128)(2,1)}) parameter(0)
  %n = s32[]{:T(256)} constant(12)
  %i = s32[]{:T(256)} get-tuple-element(%state), index=0
  ROOT %lt = pred[]{:T(1024)} compare(%i, %n), direction=LT
}

%body (state.1: (s32[], bf16[8,256])) -> (s32[], bf16[8,256]) {
  %state.1 = (s32[]{:T(256)}, /*index=1*/bf16[8,256]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(256)} get-tuple-element(%state.1), index=0
  %x = bf16[8,256]{1,0:T(8,128)(2,1)} get-tuple-element(%state.1), index=1
  %one = s32[]{:T(256)} constant(1)
  %next = s32[]{:T(256)} add(%i.1, %one)
  %begun = (bf16[8,256]{1,0:S(1)}, bf16[64,256]{1,0:S(1)}) fusion(%x), kind=kCustom, calls=%start
  %on = bf16[64,256]{1,0} fusion(%x), kind=kCustom, calls=%async_collective_fusion.1, backend_config={"estimated_cycles":"100"}
  %ended = bf16[64,256]{1,0} fusion(%x), kind=kCustom, calls=%done
  %kernel.7 = bf16[8,256]{1,0:T(8,128)(2,1)} custom-call(%x), custom_call_target="tpu_custom_call"
  ROOT %out = (s32[]{:T(256)}, bf16[8,256]{1,0:T(8,128)(2,1)}) tuple(%next, %kernel.7)
}

ENTRY %main (arg: bf16[8,256], g: f32[64,256], q: bf16[32,4,64,128]) -> f32[8,256] {
  %arg = bf16[8,256]{1,0:T(8,128)(2,1)} parameter(0)
  %g = f32[64,256]{1,0:T(8,128)} parameter(1)
  %q = bf16[32,4,64,128]{3,2,1,0} parameter(2)
  %begin = s32[]{:T(256)} constant(2)
  %copied = s32[]{:T(256)} copy(%begin)
  %init = (s32[]{:T(256)}, bf16[8,256]{1,0:T(8,128)(2,1)}) tuple(%copied, %arg)
  %loop = (s32[]{:T(256)}, bf16[8,256]{1,0:T(8,128)(2,1)}) while(%init), condition=%cond, body=%body
  %scores = f32[32,4,64,64]{3,2,1,0} fusion(%q, %q), kind=kOutput, calls=%products, backend_config={"estimated_cycles":"7"}
  ROOT %scattered = f32[8,256]{1,0:T(8,128)} fusion(%g), kind=kCustom, calls=%all-reduce-scatter
}
""".replace("WINDOW", "window={size=32x4 stride=31x3 lhs_dilate=32x4}")


def test_a_collective_that_is_hidden_counts_where_it_starts():
    found = count(TPU)
    assert found.collectives == {
        "all-gather": Traffic(10, 10 * 7 * 8 * 256 * 2),
        "reduce-scatter": Traffic(1, 64 * 256 * 4 * 7 / 8),
    }
    assert found.exposed_bytes == 64 * 256 * 4 * 7 / 8  # nothing runs beside the one that is not hidden


def test_loops_cycles_kernels_and_products_of_a_tpu_program():
    found = count(TPU)
    assert found.cycles == 10 * 100 + 7  # from 2 up to 12
    assert found.kernels == {"kernel": 10}
    assert found.flops == 2 * 32 * 4 * 64 * 64 * 128  # a batch of products, as a dilated convolution


def test_what_stays_on_the_chip_is_no_traffic_of_the_main_memory():
    slow = TPU.replace("S(1)", "S(0)")
    assert count(slow).bytes - count(TPU).bytes == 10 * (8 + 64) * 256 * 2


@pytest.mark.parametrize(
    "attributes, size",
    [
        (", replica_groups={{0,1},{2,3}}, dimensions={0}", 2),
        (", replica_groups=[32,8]<=[256], dimensions={0}", 8),
        (", replica_groups=[2,4]<=[4,2]T(1,0)", 4),
        (", replica_groups=mesh['axis_0'=1,'axis_1'=8,'axis_2'=2] {'axis_1','axis_2'}", 16),
        (", replica_groups=mesh['a'=2,'b'=8], device_ids=(0,2,1,3) {'b'}", 8),
        (", source_target_pairs={{0,1},{1,0}}", 2),
    ],
)
def test_the_groups_of_a_collective_in_all_forms(attributes, size):
    assert group_size(attributes) == size


def test_a_program_is_taken_apart_whole():
    text = text_of(lambda x: jnp.tanh(x @ x), array(64, 64))
    module = Module(text)
    lines = [line for line in text.splitlines() if re.match(r"\s+(ROOT )?%\S+ = ", line)]
    assert sum(1 for computation in module.computations.values() for _ in computation) == len(lines)


@pytest.mark.parametrize(
    "listed, others",
    [  # as jax 0.10 and jax 0.12 write the same sum over axes of a mesh of 2 × 2 × 2
        ("{{0,4},{1,5},{2,6},{3,7}}", ["mesh['a'=2,'b'=2,'c'=2] {'a'}", "[4,2]<=[2,4]T(1,0)"]),
        ("{{0,1,4,5},{2,3,6,7}}", ["mesh['a'=2,'b'=2,'c'=2] {'a','c'}", "[2,4]<=[2,2,2]T(1,0,2)"]),
        ("{{0,1,2,3},{4,5,6,7}}", ["mesh['a'=2,'b'=2,'c'=2] {'b','c'}", "[2,4]<=[8]", "mesh['a'=8] {'a':(2)4}"]),
        ("{{0,2},{1,3},{4,6},{5,7}}", ["mesh['a'=4,'b'=2], device_ids=(0,2,1,3,4,6,5,7) {'b'}"]),
        ("{{0,1},{2,3},{4,5},{6,7}}", ["mesh['a'=2,'b'=2,'c'=2] {'c'}", "mesh['a'=8] {'a':(4)2}"]),
        ("{{0,1,2,3,4,5,6,7}}", ["mesh['a'=2,'b'=4] {'a','b'}", "[1,8]<=[8]"]),
    ],
)
def test_all_forms_name_the_same_groups(listed, others):
    expected = groups_of(f", replica_groups={listed}, dimensions={{0}}")
    assert "{" + ",".join("{" + ",".join(map(str, group)) + "}" for group in expected) + "}" == listed
    for form in others:
        assert groups_of(f", channel_id=1, replica_groups={form}, use_global_device_ids=true") == expected


# What the compiler of a GPU writes, in its forms: two hosts of four devices.
GPU = """HloModule jit_step, is_scheduled=true, num_partitions=8

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%gemm_fusion (p0: bf16[64,32], p1: bf16[32,16]) -> bf16[64,16] {
  %p0 = bf16[64,32]{1,0} parameter(0)
  %p1 = bf16[32,16]{1,0} parameter(1)
  ROOT %dot = bf16[64,16]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: bf16[64,32], w: bf16[32,16]) -> f32[64] {
  %x = bf16[64,32]{1,0} parameter(0)
  %w = bf16[32,16]{1,0} parameter(1)
  %inside = ((bf16[32,16]{1,0}), bf16[128,16]{1,0}) all-gather-start(%w), replica_groups=mesh['d'=2,'f'=4] {'f'}, dimensions={0}
  %by_triton = bf16[64,16]{1,0} fusion(%x, %w), kind=kCustom, calls=%gemm_fusion, BY_TRITON
  %gathered = bf16[128,16]{1,0} all-gather-done(%inside)
  %product = (f32[16,32]{1,0}, s8[4096]{0}) custom-call(%by_triton, %x), custom_call_target="__cublas$lt$matmul", FIRST_AXES
  %attention = (bf16[64,16]{1,0}, u8[0]{0}) custom-call(%by_triton, %by_triton), custom_call_target="__cudnn$fmhaSoftmax"
  %pallas_call.3 = bf16[64,16]{1,0} custom-call(%by_triton), custom_call_target="__gpu$xla.gpu.triton", NAMED
  %mark = bf16[64,16]{1,0} custom-call(%pallas_call.3), custom_call_target="Sharding"
  %grads = f32[64]{0} parameter(2)
  %summed = f32[64]{0} all-reduce(%grads), replica_groups=mesh['d'=2,'f'=4] {'d'}, to_apply=%sum
  %everywhere = f32[64]{0} all-reduce(%summed), replica_groups=[1,8]<=[8], to_apply=%sum
  %shuffled = f32[64]{0} all-to-all(%everywhere), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  ROOT %sent = f32[64]{0} collective-permute(%shuffled), source_target_pairs={{0,1},{1,2},{2,3},{3,4},{4,5},{5,6},{6,7},{7,0}}
}
"""
for word, config in {
    "BY_TRITON": '{"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}}',
    "FIRST_AXES": '{"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"]}}}',
    "NAMED": '{name = "my_kernel", num_warps = 4 : i32}',
}.items():
    GPU = GPU.replace(word, f"backend_config={config}")


def test_what_stays_in_a_host_and_what_crosses_the_network():
    found = count(GPU, hosts=[0, 0, 0, 0, 1, 1, 1, 1])
    own = 64 * 4  # bytes of the gradients
    assert found.collectives == {
        "all-gather": Traffic(1, 3 * 32 * 16 * 2),
        # of two devices in two hosts all of it; of eight a ring for each of the four in a host
        "all-reduce": Traffic(2, own + 2 * own * 7 / 8, 2, own + 2 * own * 7 / 8 / 4),
        "all-to-all": Traffic(1, own * 7 / 8, 1, own / 2),  # half of it is for the other host
        "collective-permute": Traffic(1, own, 1, own),
    }
    assert found.exposed_bytes == 0  # the gather was begun before the product, and nothing else stays in a host
    assert found.exposed_network == sum(traffic.network for traffic in found.collectives.values())


def test_one_host_has_no_network():
    alike, one = count(GPU), count(GPU, hosts=[0] * 8)
    assert alike.collectives == one.collectives
    assert not any(traffic.across or traffic.network for traffic in one.collectives.values())
    assert one.exposed_bytes == sum(t.bytes for kind, t in one.collectives.items() if kind != "all-gather")


def test_kernels_and_products_of_a_gpu_program():
    found = count(GPU)
    assert found.flops == 2 * 64 * 32 * 16 + 2 * 16 * 32 * 64
    assert found.kernels == {
        "triton_nested_gemm_fusion": 1,
        "cublas$lt$matmul": 1,
        "cudnn$fmhaSoftmax": 1,
        "my_kernel": 1,
    }


def test_each_instruction_takes_its_operations_or_its_bytes():
    lean, rich = count(GPU, balance=1e-6), count(GPU, balance=1e6)
    assert lean.work == pytest.approx(lean.flops, rel=0.01)
    collectives = 2 * 64 * 4 * 4 + 32 * 16 * 2 * 6  # bytes that collectives read and write: they do not count as work
    assert rich.work == pytest.approx(1e6 * (rich.bytes - collectives), rel=0.01)
    assert count(GPU).work == count(GPU).flops


def test_what_another_thread_runs_is_no_part_of_the_schedule():
    aside = """%aside (a: f32[64,256]) -> f32[64,256] {
  %a = f32[64,256]{1,0} parameter(0)
  ROOT %g = f32[64,256]{1,0} fusion(%a), kind=kCustom, calls=%sum, backend_config={"estimated_cycles":"9223372036854775807"}
}, execution_thread="sparsecore"

ENTRY"""
    begun = '  %h = ((f32[64,256]), f32[64,256], u32[]) call-start(%g), async_execution_thread="sparsecore", to_apply=%aside\n'
    text = TPU.replace("ENTRY", aside).replace("  ROOT %scattered", f"{begun}  ROOT %scattered")
    assert count(text).cycles == count(TPU).cycles
    assert "aside" in Module(text).computations


def test_a_fusion_that_is_begun_moves_what_it_moves_at_once():
    begun = GPU.replace(
        "%by_triton = bf16[64,16]{1,0} fusion(%x, %w)",
        "%s = ((bf16[64,32]{1,0}, bf16[32,16]{1,0}), bf16[64,16]{1,0}, u32[]) fusion-start(%x, %w)",
    ).replace("  %gathered", "  %by_triton = bf16[64,16]{1,0} fusion-done(%s)\n  %gathered")
    assert count(begun) == count(GPU)
