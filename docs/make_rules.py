"""Writes the page of rule tables from the parameterizations themselves: `python docs/make_rules.py > docs/rules.md`."""

from equimu.parameterization import ROLES, Parameterization, mup, sp, tpv

HEAD = """# The rule tables

Generated from the parameterizations in `equimu.parameterization` by `python docs/make_rules.py`.

Each cell is a law in the sizes of a leaf: `fan_in` and `fan_out` are absolute, what ends in `_ratio` is relative to the base
model. The fan-in of a look-up table, a bias or a gain is 1. Every law of weight decay is 1: how decay follows the learning
rate is an option of the optimizer. Epsilon matters to Adam only.
Sources: Tensor Programs V (arXiv 2203.03466), Tables 3, 8 and 9; A Large-Scale Exploration of μ-Transfer (arXiv 2404.05728).
The laws of epsilon follow how the root-mean-square gradient falls with the width; they are derived, and the tests that train
Tables 3, 8 and 9 alike in float64 decide that they are right.
"""


def main() -> None:
    """Prints the page."""
    print(HEAD)
    for title, adam, sgd in (
        ("Standard: `sp()`", sp(), sp(optimizer="sgd")),
        ('Lingle, relative: `mup("relative")`', mup(), mup(optimizer="sgd")),
        ('Lingle, absolute: `mup("absolute")`', mup("absolute"), mup("absolute", optimizer="sgd")),
        *(
            (
                f'TP-V Table {n}, {form}: `tpv({n}, form="{form}")`',
                tpv(n, form=form),
                tpv(n, form=form, optimizer="sgd"),
            )
            for n in (3, 8, 9)
            for form in ("relative", "absolute")
        ),
    ):
        print(_section(title, adam, sgd))


def _section(title: str, adam: Parameterization, sgd: Parameterization) -> str:
    head = "| role | init_std | multiplier | lr (Adam, sign) | lr (SGD) | eps |"
    lines = [f"## {title}", "", head, "|---|---|---|---|---|---|"]
    for role in ROLES:
        row = adam.row(role)
        cells = (row.init_std, row.multiplier, row.lr, sgd.row(role).lr, row.eps)
        lines.append(f"| {role} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
