"""The parameterizations over width, as tables: for each role, each of the numbers as a law.

Symbols: `fan_in`, `fan_out` are absolute sizes, `..._ratio` sizes relative to the base model. Sources: "TP-V" is Tensor
Programs V (arXiv 2203.03466); "Lingle" is A Large-Scale Exploration of μ-Transfer (arXiv 2404.05728); "Everett" is Scaling
Exponents Across Parameterizations and Optimizers (arXiv 2407.05872); "spectral" is A Spectral Condition for Feature Learning
(arXiv 2310.17813).

Each table is written once, with the laws of all families of optimizers, and without multipliers where it can be: forms that
differ by where a multiplier stands are made from one another by `Parameterization.shift`.
"""

import dataclasses
from typing import Any, Literal, TypeAlias

from equimu._errors import EquimuError
from equimu._values import Real
from equimu.parameterization._law import (
    ONE,
    Law,
    fan_in,
    fan_in_ratio,
    fan_out,
    fan_out_ratio,
    narrowing,
    readers_ratio,
    width_ratio,
)
from equimu.parameterization._parameterization import EpsRule, Parameterization, Row, check_choice
from equimu.parameterization._rule import DecayRule, Family

Form: TypeAlias = Literal["relative", "absolute"]
Alignment: TypeAlias = Literal["full", "none"]
Everett: TypeAlias = Literal["sp", "ntk", "mup", "mean-field"]


def sp(*, optimizer: Family = "adam", decay: DecayRule = "independent") -> Parameterization:
    """The standard parameterization (arXiv 2203.03466, Table 3): variance 1/fan_in, one learning rate for all leaves.

    Args:
        optimizer: the family of update rules, as in `Parameterization`; the table is the same for all.
        decay: the rule of weight decay, as in `adamw`.
    """
    return Parameterization(name="sp", optimizer=optimizer, decay=decay)


def ntk(*, optimizer: Family = "adam", decay: DecayRule = "independent") -> Parameterization:
    """The NTK parameterization (arXiv 1806.07572): standard deviation 1, multiplier fan_in^-1/2, one learning rate for all.

    `everett("ntk")` has the learning rates with which it transfers.

    Args:
        optimizer, decay: as in `sp`.
    """
    row = Row(init_std=ONE, multiplier=fan_in**-0.5)
    return Parameterization(name="ntk", optimizer=optimizer, decay=decay, hidden=row, output=row)


def mup(
    form: Form = "relative", *, optimizer: Family = "adam", decay: DecayRule = "independent", eps: EpsRule = "gradient"
) -> Parameterization:
    """Maximal update parameterization as in Lingle's paper (arXiv 2404.05728), which is TP-V's Table 3.

    Initialisation is absolute in both forms: variance 1/fan_in, and 1/fan_in² for the unembedding.

    Args:
        form: `"relative"`: the learning rate of a matrix is η·n_base/n, so that all are η at the base width; `"absolute"`:
            it is η/fan_in. These are two models and not two names of one: embeddings, gains and biases train at η in both.
        optimizer: the family of update rules, as in `Parameterization`.
        decay: the rule of weight decay, as in `adamw`.
        eps: `"gradient"`: epsilon falls with the width as the gradients do (ε/m, the output layer's unchanged);
            `"lr"`: scaled like the learning rate (the paper's option, which is the other way round for the embedding and
            the output layer); `"constant"`: the same everywhere (the paper's runs).
    """
    table = _table_3(form, optimizer, decay)
    table = table.replace("output", init_std=1 / fan_in)
    return dataclasses.replace(table, name=f"mup-{form}").with_eps(eps)


def tpv(
    table: Literal[3, 8, 9] = 8,
    *,
    form: Form = "relative",
    optimizer: Family = "adam",
    decay: DecayRule = "independent",
    eps: EpsRule = "gradient",
) -> Parameterization:
    """μP as in Tables 3, 8 and 9 of Tensor Programs V (arXiv 2203.03466), three forms of one training.

    They are one training without weight decay, and with `"independent"`, `"scaled"` or `"l2"` decay. With `"standard"` decay
    each leaf shrinks by η · lr · λ, as in the implementations of these tables, so that Tables 8 and 9 decay other leaves more
    than Table 3; `tpv(3).shift(...)` keeps the training of Table 3 with its decay.

    Args:
        table: 3, 8 or 9. Table 8 is the form that allows tied input and output embeddings.
        form: `"relative"`: the width n of the published tables is replaced by n/n_base, so that at the base width the model
            is the standard one; `"absolute"`: as published.
        optimizer, decay, eps: as in `mup`.

    Raises:
        EquimuError: no such table, or an unknown form.
    """
    if table not in (3, 8, 9):
        raise EquimuError(f"Tensor Programs V has no table {table!r} of parameterizations (valid: 3, 8, 9)")
    made = _table_3(form, optimizer, decay)
    n_in, n_out = (fan_in_ratio, fan_out_ratio) if form == "relative" else (fan_in, fan_out)
    if table == 8:
        made = made.shift("output", 1 / n_in)
    elif table == 9:
        made = made.shift("output", n_in**-0.5).shift("input", n_out**0.5).shift("vector", n_out**0.5)
    return dataclasses.replace(made.with_plain_decay(), name=f"tpv-{table}-{form}").with_eps(eps)


def everett(
    parameterization: Everett,
    alignment: Alignment = "full",
    *,
    optimizer: Family = "adam",
    decay: DecayRule = "independent",
    eps: EpsRule = "gradient",
) -> Parameterization:
    """Four parameterizations with a learning rate for each layer (Everett et al., arXiv 2407.05872).

    Deviations and multipliers are absolute, learning rates relative to the base. With these rates all four transfer.

    Args:
        parameterization: `"sp"`, `"ntk"`, `"mup"` (Table 9's form) or `"mean-field"`.
        alignment: what is assumed of a weight's update and the features that it multiplies: `"full"` (they add up over the
            fan-in, as under μP) or `"none"` (they add up like independent numbers, which allows larger rates).
        optimizer: `"adam"`, `"sign"`, `"sgd"` or `"adafactor"`.
        decay, eps: as in `mup`.

    Raises:
        EquimuError: an unknown parameterization or alignment; or Muon, for which there are no exponents.
    """
    check_choice("parameterization", parameterization, tuple(_EVERETT))
    check_choice("alignment", alignment, ("full", "none"))
    if optimizer == "muon":
        raise EquimuError(
            "Everett's exponents are given for adam, sign, sgd and adafactor, not for muon; use spectral(optimizer='muon')"
        )
    powers = _EVERETT[parameterization]
    # Without alignment an update's effect grows by √fan_in less.
    freed = Law() if alignment == "full" else fan_in_ratio**0.5

    def row(index: int, n: Law, n_ratio: Law, free: Law) -> Row:
        std = n ** -powers.std[index] if index else fan_in**-0.5 * n ** -powers.std[index]
        adam, gradient = n_ratio ** powers.adam[index] * free, width_ratio ** powers.gradient[index]
        lr = n_ratio ** powers.sgd[index] * free if optimizer == "sgd" else adam
        if index == 1:
            # The published powers are of one width n. A hidden gradient has two parts: the multiplier, which goes with the
            # fan-in, and the slope of the loss with respect to an output, which goes with the fan-out.
            slope = -powers.gradient[1] - powers.multiplier[1]
            gradient = fan_in_ratio ** -powers.multiplier[1] * slope_law(slope)
            if optimizer == "sgd":
                # Of readers whose slopes agree once training has begun: with their number, and not its root.
                lr = lr * (fan_out_ratio / fan_in_ratio) ** slope * readers_ratio ** (slope - 1)
        # Adafactor's steps are relative to the weight, whose standard deviation they follow by themselves.
        lr = lr * n_ratio ** powers.std[index] if optimizer == "adafactor" else lr
        multiplier = n ** -powers.multiplier[index]
        return derived_row(optimizer, decay, std=std, multiplier=multiplier, lr=lr, adam=adam, gradient=gradient)

    input_row = row(0, fan_out, fan_out_ratio, ONE)
    return Parameterization(
        name=f"everett-{parameterization}-{alignment}",
        optimizer=optimizer,
        decay=decay,
        input=input_row,
        vector=input_row,
        hidden=row(1, fan_in, fan_in_ratio, freed),
        output=row(2, fan_in, fan_in_ratio, freed),
    ).with_eps(eps)


def mean_field(
    *, optimizer: Family = "adam", decay: DecayRule = "independent", eps: EpsRule = "gradient"
) -> Parameterization:
    """The mean-field parameterization (arXiv 1804.06561), with the learning rates under which it trains like μP.

    It is `everett("mean-field")`, of arXiv 2407.05872.

    Args:
        optimizer, decay, eps: as in `everett`.
    """
    table = everett("mean-field", optimizer=optimizer, decay=decay, eps=eps)
    return dataclasses.replace(table, name="mean-field")


def spectral(
    form: Form = "absolute", *, optimizer: Family = "adam", decay: DecayRule = "independent", eps: EpsRule = "gradient"
) -> Parameterization:
    """The spectral condition (arXiv 2310.17813): weights and their updates have spectral norms of order √(fan_out/fan_in).

    Args:
        form: of the learning rates: `"absolute"` (SGD η·fan_out/fan_in, Adam η/fan_in, Muon η·√(fan_out/fan_in)) or
            `"relative"` to the base model. Deviations are absolute in both.
        optimizer, decay, eps: as in `mup`.

    Raises:
        EquimuError: an unknown form.
    """
    check_choice("form", form, ("relative", "absolute"))
    n_in, n_out = (fan_in_ratio, fan_out_ratio) if form == "relative" else (fan_in, fan_out)
    std = fan_in**-0.5 * narrowing**0.5
    # At one growth of both fans their quotient is a constant; an output's falls with its fan-in, so its std as 1/fan_in.
    growth = {"hidden": fan_in_ratio**-0.5, "output": 1 / fan_in_ratio}

    def row(role: str) -> Row:
        lr = {
            "sgd": n_out / n_in,
            "adafactor": 1 / n_in / (std if form == "absolute" else growth.get(role, ONE)),
            "muon": (n_out / n_in) ** 0.5 if role == "hidden" else 1 / n_in,
        }.get(optimizer, 1 / n_in)
        return derived_row(optimizer, decay, std=std, lr=lr, adam=1 / n_in, gradient=_TABLE_3_GRADIENT[role])

    rows: dict[str, Any] = {role: row(role) for role in ("input", "hidden", "output", "vector")}
    return Parameterization(name=f"spectral-{form}", optimizer=optimizer, decay=decay, **rows).with_eps(eps)


def _table_3(form: Form, optimizer: Family, decay: DecayRule) -> Parameterization:
    """Table 3 of TP-V. Relative: as published with n/n_base for n, so its output is drawn as 1/√(n·n/n_base).

    A hidden matrix under Muon trains as the spectral condition says.
    """
    check_choice("form", form, ("relative", "absolute"))
    n_in, n_out = (fan_in_ratio, fan_out_ratio) if form == "relative" else (fan_in, fan_out)
    std = {role: fan_in**-0.5 for role in ("input", "hidden", "vector")} | {"output": fan_in**-0.5 * n_in**-0.5}
    adam = {"input": ONE, "vector": ONE, "hidden": 1 / n_in, "output": 1 / n_in}
    # An update of a hidden matrix moves its output by the rate, times the slope of the loss there, 1/n_out, times the square of
    # its input's norm, n_in. The published 1 is for sides that grow alike.
    sgd = {"input": n_out, "vector": n_out, "hidden": fan_out_ratio / fan_in_ratio, "output": 1 / n_in}
    # Adam's over the standard deviation, which its steps are relative to
    adafactor = adam | {"hidden": n_in**-0.5, "output": ONE}

    def rate(role: str) -> Law:
        if optimizer == "adafactor":
            return adafactor[role]
        if optimizer == "muon" and role == "hidden":
            return (n_out / n_in) ** 0.5
        return sgd[role] if optimizer == "sgd" else adam[role]

    rows: dict[str, Any] = {
        role: derived_row(
            optimizer, decay, std=std[role], lr=rate(role), adam=adam[role], gradient=_TABLE_3_GRADIENT[role]
        )
        for role in std
    }
    return Parameterization(name="tpv-3", optimizer=optimizer, decay=decay, **rows)


def derived_row(
    optimizer: Family,
    decay: DecayRule,
    *,
    std: Law,
    multiplier: Law = ONE,
    lr: Law,
    adam: Law | None = None,
    gradient: Law,
) -> Row:
    """A row whose epsilon, and whose decay where that is part of the gradient, follow the gradient's law.

    Decay in the gradient shrinks a weight in a step by λ times the rate under SGD, and by λ times the rate over the gradient
    where steps are normalised, as Adam's are. For the same share at all widths λ has to follow the inverse of that.

    Args:
        adam: the learning rate of steps that are normalised entry by entry, whichever the optimizer is; `lr` unless given.
        gradient: of the stored weight, its root mean square.
    """
    return Row(
        init_std=std,
        multiplier=multiplier,
        lr=lr,
        eps=gradient if optimizer not in ("sign", "sgd") else ONE,
        weight_decay=ONE if decay != "l2" else 1 / lr if optimizer == "sgd" else gradient / (adam or lr),
    )


def slope_law(power: Real) -> Law:
    """How the slope of the loss with respect to what a hidden matrix puts out falls: as its fan-out to a power.

    Where the fan-out stays though the width grows (keys and values of a fixed number of heads), each output has so many more
    readers, whose slopes are independent of each other at the start.
    """
    return fan_out_ratio**-power * readers_ratio ** (0.5 - power)


# How the root mean square of a leaf's gradient falls with the width in Table 3.
_TABLE_3_GRADIENT = {"input": 1 / width_ratio, "vector": 1 / width_ratio, "hidden": slope_law(1), "output": ONE}


@dataclasses.dataclass(frozen=True)
class _Exponents:
    """Everett's table: of input, hidden and output, the powers of the width.

    - `std`, `multiplier`: of 1/n. (An input's standard deviation is fan_in^-1/2 times that: its own fan-in is finite.)
    - `adam`, `sgd`: of the learning rate under full alignment.
    - `gradient`: of the gradient's root mean square at the start; derived, it is what epsilon follows.
    """

    std: tuple[Real, Real, Real]
    multiplier: tuple[Real, Real, Real]
    adam: tuple[Real, Real, Real]
    sgd: tuple[Real, Real, Real]
    gradient: tuple[Real, Real, Real]


_EVERETT: dict[Everett, _Exponents] = {
    "sp": _Exponents((0, 0.5, 0.5), (0, 0, 0), (0, -1, -1), (0.5, -0.5, -1), (-0.5, -0.5, 0)),
    "ntk": _Exponents((0, 0, 0), (0, 0.5, 0.5), (0, -0.5, -0.5), (0.5, 0.5, 0), (-0.5, -1, -0.5)),
    "mup": _Exponents((0.5, 0.5, 0.5), (-0.5, 0, 0.5), (-0.5, -1, -0.5), (0, 0, 0), (-0.5, -1, -0.5)),
    "mean-field": _Exponents((0, 0, 0), (0, 0.5, 1), (0, -0.5, 0), (1, 1, 1), (-1, -1.5, -1)),
}
