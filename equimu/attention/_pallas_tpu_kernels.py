"""The names of our TPU kernels in compiled programs, and the matrix products that each makes."""

from equimu.attention._backend import Kernel

FORWARD = Kernel(name="equimu_attention_forward", products=2)  # s = k qᵀ, out = vᵀ p
BACKWARD = Kernel(name="equimu_attention_backward", products=5)  # s again, dp = v doutᵀ, and dv, dk and dq
