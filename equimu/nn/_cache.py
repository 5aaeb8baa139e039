"""What attention keeps of the positions that it has read."""

from typing import NamedTuple

from jaxtyping import Array, Float


class KeyValues(NamedTuple):
    """Keys and values of one sequence in one layer, normalised and rotated.

    How many of the positions are filled is not in it: whoever decodes counts them.

    - `keys`, `values`: of all positions that there is room for.
    """

    keys: Float[Array, "room kv_heads head_dim"]
    values: Float[Array, "room kv_heads head_dim"]
