"""What is known of a site beside its values."""

import dataclasses
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["module", "scores", "dotted", "rows", "outcome"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a site.

    - `kind`: what a `module` puts out, or what `register_sites` declares of it; found in the program: `scores`, products of two
      activations that a softmax is taken of; `dotted`, products with an array in the same place; `rows` that are looked up
      in an array; and the `outcome`.
    - `layers`: the axes of the record that are layers of a stack that is scanned over.
    - `span`: of products, how many features are summed; `of`: the arrays that made these, or that is looked up.
    - `layer_of`: the site of which it is one layer.
    - `is_sum`: of an outcome, whether it is a sum over features or a product of two activations, without any array.
    """

    kind: Kind = "module"
    layers: tuple[int, ...] = ()
    span: int = 1
    of: frozenset[str] = frozenset()
    layer_of: str = ""
    is_sum: bool = False
