"""Fails loudly on a jaxlib that computes wrong numbers on the CPU: 0.10.2 and 0.11.0 did (jax issue 39103)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.parametrize(("dtype", "n"), [("float64", 16_385), ("float32", 32_769)])
def test_compiled_matrix_vector_products_and_their_sum_are_right(dtype, n):
    # One row beyond a power of two, a product with a small matrix and a reduction, fused under vmap: the last rows were wrong.
    with jax.enable_x64(True):
        rows = jnp.zeros((n, 3), dtype).at[:, 0].set(jnp.arange(n, dtype=dtype))
        squares = jax.jit(jax.vmap(lambda row: jnp.sum(jnp.square(jnp.eye(3, dtype=dtype) @ row))))(rows)
        np.testing.assert_array_equal(np.asarray(squares), np.arange(n, dtype=dtype) ** 2)
