"""Writes the page of rule tables from the parameterizations themselves: `python docs/make_rules.py > docs/rules.md`."""

import functools
from collections.abc import Callable

from equimu import (
    EquimuError,
    Parameterization,
    completed_p,
    completep,
    everett,
    mup,
    ntk,
    sp,
    spectral,
    tpv,
    umup,
)
from equimu.parameterization import ROLES, Family

HEAD = """# The rule tables

Generated from the parameterizations in `equimu.parameterization` by `python docs/make_rules.py`.

Each cell is a law in the sizes of a leaf: `fan_in` and `fan_out` are absolute, what ends in `_ratio` is relative to the base
model or run. The fan-in of a look-up table, a bias or a gain is 1; `layer_fan_in` is that of the map whose output a bias is
added to; `narrowing` is fan-out over fan-in where that is below 1, else 1; `depth` counts the repeated blocks, and it and its
ratio are 1 for leaves outside them. Where only one rate of learning is given, it is that of all families for which the table
is defined. Epsilon matters to Adam, Adafactor and Muon only. Weight decay is for the rule of decay that is the table's default;
`one_minus_beta` is the factor on Adam's 1 − β. A **branch** factor is a multiplier on the arrays that end a residual branch
(`equimu.register_residual`).

Sources: Tensor Programs V (arXiv 2203.03466), Tables 3, 8 and 9; A Large-Scale Exploration of μ-Transfer (arXiv 2404.05728);
Everett et al. (arXiv 2407.05872); spectral condition (arXiv 2310.17813); CompleteP (arXiv 2505.01618); Complete(d)P (arXiv
2512.22382); u-μP (arXiv 2407.17465). Adafactor's rates are Adam's over the standard deviation, as Everett et al. find. Muon's,
on hidden matrices, are those of the spectral condition; all other leaves train under Adam there. `readers_ratio` is 1 but for
matrices whose fan-out stays though their fan-in grows (keys and values of a fixed number of heads), where it is the fan-in's
ratio. The laws of epsilon follow how the root-mean-square gradient falls with the width; they are derived, and the tests that
train equivalent tables alike in float64 decide that they are right. SGD's rate of a hidden matrix, published as 1, is written
for sides that grow by different ratios.

Weight decay `"standard"` shrinks each leaf by η · lr · λ · weight_decay, and published tables have weight_decay 1 there,
whatever form they are in; `shift` keeps a training with its decay. Decay `"l2"`, which is added to the gradient, has the laws
that keep its share of a step at all widths (microsoft/mup's differ: λ of hidden matrices under Adam grows with the width).

u-μP's reference multiplies the bias of the readout with the product, (Wx + b)/n; here b is not divided, so that it moves the
logits at the same rate at all widths. `umup().tune("unembedding.bias", multiplier=1 / n)` is the reference's.

Where a table differs from its paper, its function's documentation says how and why.
"""
TABLES: dict[str, Callable[..., Parameterization]] = {
    "Standard: `sp()`": sp,
    "Neural tangent kernel: `ntk()`": ntk,
    'Lingle, relative: `mup("relative")`': mup,
    'Lingle, absolute: `mup("absolute")`': functools.partial(mup, "absolute"),
    **{
        f'TP-V Table {n}, {form}: `tpv({n}, form="{form}")`': functools.partial(tpv, n, form=form)
        for n in (3, 8, 9)
        for form in ("relative", "absolute")
    },
    **{
        f'Everett, {name}, {alignment} alignment: `everett("{name}", "{alignment}")`': functools.partial(
            everett, name, alignment
        )
        for name in ("sp", "ntk", "mup", "mean-field")
        for alignment in ("full", "none")
    },
    "Spectral, absolute: `spectral()`": spectral,
    'Spectral, relative: `spectral("relative")`': functools.partial(spectral, "relative"),
    "CompleteP: `completep()`": completep,
    "Depth-μP: `depth_mup()`, or CompleteP at its lower end": functools.partial(completep, 0.5),
    "Complete(d)P: `completed_p()`": completed_p,
    "u-μP: `umup()`": umup,
}
RATES: dict[Family, str] = {"adam": "Adam, sign", "sgd": "SGD", "adafactor": "Adafactor", "muon": "Muon"}


def main() -> None:
    """Prints the page."""
    print(HEAD)
    for title, make in TABLES.items():
        print(_section(title, make))


def _section(title: str, make: Callable[..., Parameterization]) -> str:
    tables = {family: table for family in RATES if (table := _for(make, family)) is not None}
    adam = tables["adam"]
    rates = {family: [str(table.row(role).lr) for role in ROLES] for family, table in tables.items()}
    if all(column == rates["adam"] for column in rates.values()):
        rates = {"adam": rates["adam"]}
    columns = {"role": list(ROLES), "init_std": _laws(adam, "init_std"), "multiplier": _laws(adam, "multiplier")}
    columns |= {f"lr ({RATES[family]})" if len(rates) > 1 else "lr": column for family, column in rates.items()}
    columns |= {name: laws for name in ("weight_decay", "one_minus_beta") if set(laws := _laws(adam, name)) != {"1"}}
    columns["eps"] = _laws(adam, "eps")
    lines = [f"## {title}", "", _line(columns), _line(["---"] * len(columns))]
    lines += [_line(row) for row in zip(*columns.values(), strict=True)]
    if str(adam.branch) != "1":
        lines += ["", f"Branch: {adam.branch}. Decay: {adam.decay}."]
    return "\n".join([*lines, ""])


def _for(make: Callable[..., Parameterization], family: Family) -> Parameterization | None:
    try:
        return make(optimizer=family)
    except EquimuError:
        return None  # it is not defined for these optimizers


def _laws(table: Parameterization, name: str) -> list[str]:
    return [str(getattr(table.row(role), name)) for role in ROLES]


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
