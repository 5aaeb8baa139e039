"""The joint law of a panel as text: its exponents beside those that are claimed, and how it predicts what it has not seen."""

from equimu.reports._block import Block, plain, plus_minus
from equimu.reports._joint_law import JointLaw
from equimu.reports._laws import PanelLaw
from equimu.reports._published import claims_text
from equimu.reports._settled import LENGTH, too_short

_HEADER = ("size", "exponent", "claims rejected", "claims not rejected")


def law_text(panel: PanelLaw) -> str:
    """The law as a sentence, or why there is none."""
    law = panel.law
    if law is None:
        return f"no law over all sizes: {panel.why_not}"
    terms = "".join(f" {'-' if e.value < 0 else '+'} {abs(e.value):.2f} log2 {e.name}" for e in law.exponents)
    text = f"law over {', '.join(law.names)}: {law.fitted.label} = {law.fitted.shown(law.intercept):.2f}{terms}"
    if law.fitted.scale == "linear":
        text = f"law over {', '.join(law.names)}, in {law.fitted.unit}"
    return text + _held_out(panel) + _too_short(panel)


def law_blocks(panel: PanelLaw) -> tuple[Block, ...]:
    """The exponents, and the predictions of the sizes that were left out where there are any."""
    title = f"{panel.panel}: {law_text(panel)}"
    law = panel.law
    if law is None:
        return (Block(title=title, header=_HEADER, rows=()),)
    exponents = tuple(
        plain(each.name, plus_minus(each.value, each.plus_minus, 2, sign=True), *claims_text(law.fitted.name, each))
        for each in law.exponents
    )
    blocks = [Block(title=title, header=_HEADER, rows=exponents)]
    if panel.held_out:
        blocks.append(_predictions(panel, law))
    return tuple(blocks)


def _predictions(panel: PanelLaw, law: JointLaw) -> Block:
    rows = tuple(
        plain(
            each.name,
            *(f"{each.sizes[name]:g}" for name in law.names),
            f"{law.fitted.shown(each.error):+.{law.fitted.digits}f}",
            {True: "yes", False: "no", None: "not known"}[each.inside()],
        )
        for each in panel.held_out
    )
    return Block(
        title=f"{panel.panel}: optima predicted from the other values of one size",
        header=("size left out", *law.names, "predicted less measured", "inside its interval"),
        rows=rows,
    )


def _held_out(panel: PanelLaw) -> str:
    known = [each.inside() for each in panel.held_out if each.inside() is not None]
    return f"; {sum(map(bool, known))} of {len(known)} held-out optima inside their intervals" if known else ""


def _too_short(panel: PanelLaw) -> str:
    short = too_short(panel.held_out)
    if not short:
        return ""
    others = [", ".join(f"{name} {value:g}" for name, value in each.sizes.items() if name != LENGTH) for each in short]
    return (
        f"; runs of {short[0].sizes[LENGTH]:g} {LENGTH} do not lie on the law of the longer ones (at {'; '.join(others)}), "
        "as runs do that are too short to have settled: leave them out"
    )
