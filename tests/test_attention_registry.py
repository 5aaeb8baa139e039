"""Users' own attention backends, and the kernels that backends declare."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equimu import EquimuError, register_backend
from equimu.attention import Backend, Kernel, backends, dot_product_attention, explain, kernel_products
from equimu.tasks import ModelConfig
from equimu.training import kernel_flops
from equimu.training._products import product_flops

SHAPE = (1, 64, 2, 8)


def negate(q, k, v, **rest):
    assert set(rest) == {"scale", "q_offset", "q_segments", "k_segments", "visibility"}
    return -q


def arrays():
    return [jax.random.normal(jax.random.key(i), SHAPE) for i in range(3)]


def attend(**options):
    return dot_product_attention(*arrays(), scale=0.1, **options)


def test_a_registered_backend_is_called_by_its_name():
    register_backend(Backend(name="mine", run=negate))
    np.testing.assert_array_equal(attend(backend="mine"), -arrays()[0])
    assert ModelConfig(attention_backend="mine").attention_backend == "mine"
    assert "mine" in backends()
    with pytest.raises(TypeError):
        backends()["other"] = backends()["mine"]


def test_auto_takes_it_only_where_it_is_preferred():
    before = explain(*arrays(), scale=0.1).chosen
    register_backend(Backend(name="mine", run=negate))
    assert explain(*arrays(), scale=0.1).chosen == before
    assert explain(*arrays(), scale=0.1).others["mine"] == f"{before} comes first"
    register_backend(Backend(name="mine", run=negate, preferred_on=("cpu", "rocm")))
    np.testing.assert_array_equal(attend(), -arrays()[0])
    chosen = {at: explain(*arrays(), scale=0.1, platform=at).chosen for at in ("cpu", "rocm", "tpu")}
    assert (chosen["cpu"], chosen["rocm"]) == ("mine", "mine") and chosen["tpu"] != "mine"
    program = jax.jit(functools.partial(dot_product_attention, scale=0.1)).trace(*arrays())
    assert "negate" in program.lower(lowering_platforms=("rocm",)).as_text()
    assert "negate" not in program.lower(lowering_platforms=("cuda",)).as_text()


def test_where_it_cannot_serve_auto_goes_on_and_its_name_is_an_error():
    why = lambda problem: f"it takes 32 positions, not {problem.seq_k}"  # noqa: E731
    register_backend(Backend(name="mine", run=negate, unsupported_reason=why, preferred_on=("cpu",)))
    assert explain(*arrays(), scale=0.1).chosen != "mine"
    with pytest.raises(EquimuError, match="backend 'mine' cannot serve this call: it takes 32 positions, not 64"):
        attend(backend="mine")


def test_what_is_registered_last_comes_first():
    for name in ("one", "two", "one"):
        register_backend(Backend(name=name, run=negate, preferred_on=("cpu",)))
    assert explain(*arrays(), scale=0.1).chosen == "one"


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"name": "flash"}, "'flash' is an attention backend of equimu's own"),
        ({"name": "auto"}, "'auto' is an attention backend of equimu's own"),
        ({"name": "-x"}, "cannot have the name '-x'"),
        ({"platforms": ("gpu",)}, "platforms 'gpu' is unknown: .*cuda"),
        ({"platforms": ("tpu",), "preferred_on": ("cpu",)}, "preferred on cpu, and runs on"),
    ],
)
def test_mistakes(fields, words):
    with pytest.raises(EquimuError, match=words):
        register_backend(Backend(**{"name": "mine", "run": negate, **fields}))


def test_an_unknown_name_lists_the_registry():
    register_backend(Backend(name="mine", run=negate))
    for call in (lambda: attend(backend="mien"), lambda: ModelConfig(attention_backend="mien")):
        with pytest.raises(EquimuError, match="'mien' is unknown.*did you mean 'mine'"):
            call()


# What kernels are priced at


def products(function):
    """Matrix products of a program, each of as many operations as one of all pairs of positions."""
    q = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    _, seq, heads, head_dim = SHAPE
    return product_flops(jax.make_jaxpr(function)(q, q, q)) / (2 * heads * seq * seq * head_dim)


def test_declared_products_are_those_of_the_formula_and_what_is_made_again():
    def out(q, k, v):
        return jnp.sum(dot_product_attention(q, k, v, scale=0.1, causal=False, backend="reference"))

    forward = products(out)
    backward = products(jax.grad(out, argnums=(0, 1, 2))) - forward
    declared = kernel_products()
    assert declared["equimu_attention_forward"] == declared["splash_mha_fwd_residuals"] == forward
    # The scores are made again: once by a single kernel; by each of two, and the gradient of the weights by the second again.
    assert declared["equimu_attention_backward"] == backward + 1
    assert declared["splash_mha_dq_no_residuals"] + declared["splash_mha_dkv_no_residuals"] == backward + 3


@pytest.mark.parametrize(
    "name, times",
    [  # as compiled programs have them
        ("equimu_attention_forward", 1),
        ("transpose_jvp_equimu_attention_backward__", 2.5),
        ("splash_mha_fwd_segmented_residuals", 1),
        ("splash_mha_dq_no_residuals", 1.5),
        ("splash_mha_dkv_segmented_no_residuals", 2),
        ("kernel_of_something_else", 0),
    ],
)
def test_the_price_of_a_kernel(name, times):
    assert kernel_flops(name, 1e9) == times * 1e9


def test_a_user_declares_kernels_of_their_own():
    register_backend(Backend(name="mine", run=negate, kernels=(Kernel(name="my_forward", products=4),)))
    assert kernel_flops("jvp_my_forward_", 1e9) == 2e9
