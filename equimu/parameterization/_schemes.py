"""The parameterizations, as tables: for each role, each of the five numbers as a law.

Symbols and sources: `fan_in`, `fan_out` are absolute sizes, `..._ratio` sizes relative to the base model. "TP-V" is
Tensor Programs V (arXiv 2203.03466); "Lingle" is A Large-Scale Exploration of μ-Transfer (arXiv 2404.05728).
"""

import dataclasses
from typing import Literal, TypeAlias

from equimu._errors import EquimuError, nearest
from equimu._types import Scalar
from equimu.parameterization._law import (
    ONE,
    Law,
    as_law,
    fan_in,
    fan_in_ratio,
    fan_out,
    fan_out_ratio,
    width_ratio,
)
from equimu.parameterization._rule import FAMILIES, NUMBERS, ROLES, Family, Role

Form: TypeAlias = Literal["relative", "absolute"]
EpsRule: TypeAlias = Literal["gradient", "lr", "constant"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The five numbers of one role, as laws."""

    init_std: Law = fan_in**-0.5
    multiplier: Law = ONE
    lr: Law = ONE
    weight_decay: Law = ONE
    eps: Law = ONE

    def replace(self, **laws: Law | float) -> "Row":
        for name in laws:
            if name not in NUMBERS:
                raise EquimuError(f"a row has no {name!r}: {nearest(name, NUMBERS)}")
        return dataclasses.replace(self, **{name: as_law(law) for name, law in laws.items()})


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseConstants:
    """Factors on the five numbers of some leaves: what is tuned on the small model and carried to the large one.

    `where` is a role, or the path of a leaf or of a module (`"blocks.mlp"` stands for every leaf inside it). Factors
    may be traced.
    """

    where: str
    init_std: Scalar = 1.0
    multiplier: Scalar = 1.0
    lr: Scalar = 1.0
    weight_decay: Scalar = 1.0
    eps: Scalar = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameterization:
    """A table of laws, one row a role, for one family of optimizers.

    - `optimizer`: `"adam"` (any update normalised by a second moment), `"sign"` (Lion, signSGD) or `"sgd"`.
    - `constants`: base constants, applied in order on top of the laws.

    Example: a parameterization of one's own.
        >>> mine = Parameterization(name="mine", output=Row(init_std=1 / fan_in, lr=1 / width_ratio),
        ...                         hidden=Row(lr=1 / width_ratio))
    """

    name: str
    optimizer: Family = "adam"
    input: Row = Row()
    hidden: Row = Row()
    output: Row = Row()
    vector: Row = Row()
    scalar: Row = Row()
    constants: tuple[BaseConstants, ...] = ()

    def __post_init__(self):
        _check_choice("optimizer", self.optimizer, FAMILIES)

    def row(self, role: Role) -> Row:
        """The laws of a role."""
        return getattr(self, role)

    def replace(self, role: Role, **laws: Law | float) -> "Parameterization":
        """The same table with some laws of one role replaced, e.g. `mup().replace("output", init_std=fan_in**-0.5)`."""
        _check_choice("role", role, ROLES)
        return dataclasses.replace(self, **{role: self.row(role).replace(**laws)})

    def tune(self, where: str, **factors: Scalar) -> "Parameterization":
        """The same table with base constants on a role, module or leaf, e.g. `mup().tune("output", multiplier=4.0)`."""
        for name in factors:
            _check_choice("base constant", name, NUMBERS)
        return dataclasses.replace(self, constants=(*self.constants, BaseConstants(where=where, **factors)))


def sp(*, optimizer: Family = "adam") -> Parameterization:
    """The standard parameterization: variance 1/fan_in, one learning rate for all leaves.

    Args:
        optimizer: the family of update rules: `"adam"`, `"sign"` or `"sgd"`; the table is the same for all.
    """
    return Parameterization(name="sp", optimizer=optimizer)


def mup(form: Form = "relative", *, optimizer: Family = "adam", eps: EpsRule = "gradient") -> Parameterization:
    """Maximal update parameterization as in Lingle's paper (arXiv 2404.05728), which is TP-V's Table 3.

    Initialisation is absolute in both forms: variance 1/fan_in, and 1/fan_in² for the unembedding.

    Args:
        form: `"relative"`: the learning rate of a matrix is η·n_base/n, so that all are η at the base width; `"absolute"`:
            it is η/fan_in. These are two models and not two names of one: embeddings, gains and biases train at η in both.
        optimizer: the family of update rules: `"adam"`, `"sign"` or `"sgd"`.
        eps: `"gradient"`: epsilon falls with the width as the gradients do (ε/m, the output layer's unchanged);
            `"lr"`: scaled like the learning rate (the paper's option, which is the other way round for the embedding and
            the output layer); `"constant"`: the same everywhere (the paper's runs).
    """
    _check_choice("form", form, ("relative", "absolute"))
    table = _TABLE_3_ABSOLUTE if form == "absolute" else _TABLE_3_LINGLE
    return _build(f"mup-{form}", table, optimizer, eps, gradient_eps=_TABLE_3_EPS)


def tpv(
    table: Literal[3, 8, 9] = 8,
    *,
    form: Form = "relative",
    optimizer: Family = "adam",
    eps: EpsRule = "gradient",
) -> Parameterization:
    """μP as in Tables 3, 8 and 9 of Tensor Programs V (arXiv 2203.03466), three forms of one training.

    Args:
        table: 3, 8 or 9. Table 8 is the form that allows tied input and output embeddings.
        form: `"relative"`: the width n of the published tables is replaced by n/n_base, so that at the base width the model
            is the standard one; `"absolute"`: as published.
        optimizer: the family of update rules: `"adam"`, `"sign"` or `"sgd"`.
        eps: as in `mup`.
    """
    _check_choice("form", form, ("relative", "absolute"))
    if table not in _TPV:
        raise EquimuError(f"Tensor Programs V has no table {table!r} of parameterizations (valid: 3, 8, 9)")
    laws, gradient_eps = _TPV[table]
    return _build(f"tpv-{table}-{form}", laws[form], optimizer, eps, gradient_eps)


@dataclasses.dataclass(frozen=True)
class _Laws:
    """One cell of TP-V's tables: standard deviation, multiplier, Adam's and SGD's learning rate."""

    init_std: Law
    multiplier: Law
    adam: Law
    sgd: Law


# Role -> laws, for the three roles that the published tables tell apart; vectors follow the input column.
_HIDDEN = {
    "relative": _Laws(fan_in**-0.5, ONE, 1 / fan_in_ratio, ONE),
    "absolute": _Laws(fan_in**-0.5, ONE, 1 / fan_in, ONE),
}
_TABLE_3_ABSOLUTE = {
    "input": _Laws(fan_in**-0.5, ONE, ONE, fan_out),
    "output": _Laws(1 / fan_in, ONE, 1 / fan_in, 1 / fan_in),
    "hidden": _HIDDEN["absolute"],
}
# Lingle's relative form: learning rates relative to the base, initialisation as published.
_TABLE_3_LINGLE = {
    "input": _Laws(fan_in**-0.5, ONE, ONE, fan_out_ratio),
    "output": _Laws(1 / fan_in, ONE, 1 / fan_in_ratio, 1 / fan_in_ratio),
    "hidden": _HIDDEN["relative"],
}
# From here on, relative: the standard deviation is the standard one at the base width.
_TABLE_3_RELATIVE = {
    **_TABLE_3_LINGLE,
    "output": _Laws(fan_in**-0.5 * fan_in_ratio**-0.5, ONE, 1 / fan_in_ratio, 1 / fan_in_ratio),
}
_TABLE_8_ABSOLUTE = {**_TABLE_3_ABSOLUTE, "output": _Laws(ONE, 1 / fan_in, ONE, fan_in)}
_TABLE_8_RELATIVE = {
    **_TABLE_3_RELATIVE,
    "output": _Laws(fan_in**-0.5 * fan_in_ratio**0.5, 1 / fan_in_ratio, ONE, fan_in_ratio),
}
_TABLE_9_ABSOLUTE = {
    "input": _Laws(fan_out**-0.5, fan_out**0.5, fan_out**-0.5, ONE),
    "output": _Laws(fan_in**-0.5, fan_in**-0.5, fan_in**-0.5, ONE),
    "hidden": _HIDDEN["absolute"],
}
_TABLE_9_RELATIVE = {
    "input": _Laws(fan_in**-0.5 * fan_out_ratio**-0.5, fan_out_ratio**0.5, fan_out_ratio**-0.5, ONE),
    "output": _Laws(fan_in**-0.5, fan_in_ratio**-0.5, fan_in_ratio**-0.5, ONE),
    "hidden": _HIDDEN["relative"],
}

# Role -> how the root mean square of a leaf's gradient falls with the width. It follows the multiplier: a leaf multiplied
# by A has a gradient A times as large (so Table 9's vectors, which carry √n like its inputs, fall as n^-1/2).
_TABLE_3_EPS = {"input": 1 / width_ratio, "output": ONE, "hidden": 1 / width_ratio}
_TABLE_8_EPS = {**_TABLE_3_EPS, "output": 1 / width_ratio}
_TABLE_9_EPS = {"input": width_ratio**-0.5, "output": width_ratio**-0.5, "hidden": 1 / width_ratio}

_TPV = {
    3: ({"relative": _TABLE_3_RELATIVE, "absolute": _TABLE_3_ABSOLUTE}, _TABLE_3_EPS),
    8: ({"relative": _TABLE_8_RELATIVE, "absolute": _TABLE_8_ABSOLUTE}, _TABLE_8_EPS),
    9: ({"relative": _TABLE_9_RELATIVE, "absolute": _TABLE_9_ABSOLUTE}, _TABLE_9_EPS),
}


def _build(
    name: str, table: dict[str, _Laws], optimizer: Family, eps: EpsRule, gradient_eps: dict[str, Law]
) -> Parameterization:
    _check_choice("optimizer", optimizer, FAMILIES)
    _check_choice("eps", eps, ("gradient", "lr", "constant"))

    def row(role: str) -> Row:
        laws = table[role]
        lr = laws.sgd if optimizer == "sgd" else laws.adam
        if optimizer != "adam" or eps == "constant":
            eps_law = ONE
        else:
            eps_law = lr if eps == "lr" else gradient_eps[role]
        return Row(init_std=laws.init_std, multiplier=laws.multiplier, lr=lr, eps=eps_law)

    return Parameterization(
        name=name,
        optimizer=optimizer,
        input=row("input"),
        hidden=row("hidden"),
        output=row("output"),
        vector=row("input"),
    )


def _check_choice(what: str, given: object, valid: tuple[str, ...]) -> None:
    if given not in valid:
        raise EquimuError(f"{what} {given!r} is unknown: {nearest(str(given), valid)}")
