"""Attention as pure functions on arrays, with an explicit scale."""

from equimu.attention._api import Explanation as Explanation
from equimu.attention._api import decode_attention as decode_attention
from equimu.attention._api import dot_product_attention as dot_product_attention
from equimu.attention._api import explain as explain
from equimu.attention._backend import Backend as Backend
from equimu.attention._backend import Kernel as Kernel
from equimu.attention._backends import backend_names as backend_names
from equimu.attention._backends import backends as backends
from equimu.attention._backends import kernel_products as kernel_products
from equimu.attention._backends import register_backend as register_backend
from equimu.attention._pallas_tpu import Blocks as Blocks
from equimu.attention._pallas_tpu import pallas_tpu as pallas_tpu
from equimu.attention._problem import Problem as Problem
from equimu.attention._visible import Visibility as Visibility
