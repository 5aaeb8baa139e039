"""The parameterizations with rules of depth, of batch and length, and of unit scale.

Sources: CompleteP (arXiv 2505.01618); Complete(d)P (arXiv 2512.22382, Table 1); u-μP (arXiv 2407.17465). All are tables over
width (`_schemes`), shifted and deepened.
"""

import dataclasses
import functools

from equimu._errors import EquimuError
from equimu._values import Real, check
from equimu.parameterization._law import (
    ONE,
    batch_ratio,
    depth,
    fan_in,
    fan_out,
    layer_fan_in,
    length_ratio,
    width_ratio,
)
from equimu.parameterization._parameterization import EpsRule, Parameterization
from equimu.parameterization._rule import ROLES, DecayRule, Family
from equimu.parameterization._schemes import derived_row, slope_law, tpv


def completep(
    alpha: Real = 1.0, *, optimizer: Family = "adam", decay: DecayRule = "standard", eps: EpsRule = "gradient"
) -> Parameterization:
    """CompleteP (arXiv 2505.01618): μP over width and depth together; Table 8 of TP-V, deepened.

    Residual branches are multiplied by m_L^-alpha, learning rates inside blocks by m_L^(alpha−1), their epsilon by m_L^-alpha.
    The learning rate carries over depth if alpha is 1. The paper leaves the epsilon of embedding and unembedding as it is; here
    it follows the gradients, which fall with the width there too.

    Args:
        alpha: from 1/2 (depth-μP) to 1 (recommended).
        optimizer: the family of update rules, as in `Parameterization`.
        decay: the rule of weight decay, as in `adamw`. `"standard"` is the paper's: the decay of a leaf grows as its learning
            rate falls with the width, so that its product with it stays.
        eps: as in `mup`.

    Raises:
        EquimuError: alpha is out of range.
    """
    check(float, alpha=alpha)
    if not 0.5 <= alpha <= 1:
        raise EquimuError(f"alpha {alpha} is outside CompleteP's range, 0.5 (depth-μP) to 1 (recommended)")
    table = _with_steady_decay(tpv(8, optimizer=optimizer, decay=decay))
    return dataclasses.replace(table.with_depth(alpha), name=f"completep-{alpha:g}").with_eps(eps)


def depth_mup(
    *, optimizer: Family = "adam", decay: DecayRule = "standard", eps: EpsRule = "gradient"
) -> Parameterization:
    """Depth-μP (arXiv 2310.02244): residual branches and Adam's learning rates inside blocks × m_L^-1/2; `completep(0.5)`.

    Args:
        optimizer, decay, eps: as in `completep`.
    """
    return dataclasses.replace(completep(0.5, optimizer=optimizer, decay=decay, eps=eps), name="depth-mup")


def completed_p(
    alpha: Real = 1.0,
    *,
    batch_exponent: Real = 0.5,
    length_exponent: Real = 0.5,
    optimizer: Family = "adam",
    decay: DecayRule = "standard",
    eps: EpsRule = "gradient",
) -> Parameterization:
    """Complete(d)P (arXiv 2512.22382, Table 1): width, depth, batch and training length together.

    With m_B, m_D the ratios of tokens a step and of training tokens: learning rates × √(m_B/m_D), Adam's 1 − β × m_B/m_D,
    epsilon × √(m_D/m_B); decay is such that the share of a run over which a weight is forgotten stays. Give the ratios to
    `parameterize`. Over width it is Table 3 of TP-V. The paper leaves the epsilon of the final norm as it is; its gradient
    falls with the width, as the gradients of norms inside the blocks do, so here it follows them.

    Args:
        alpha: as in `completep`.
        batch_exponent, length_exponent: the powers of m_B and of 1/m_D in the learning rates. (Other data put that of the
            length nearer 0.3.)
        optimizer: `"adam"`.
        decay, eps: as in `completep`.

    Raises:
        EquimuError: alpha is out of range, or the optimizer another one.
    """
    if optimizer != "adam":
        raise EquimuError(
            f"completed_p is defined for adam, not for {optimizer}; completep has rules of width and depth for it"
        )
    check(float, alpha=alpha, batch_exponent=batch_exponent, length_exponent=length_exponent)
    if not 0.5 <= alpha <= 1:
        raise EquimuError(f"alpha {alpha} is outside completed_p's range, 0.5 to 1 (recommended)")
    noise = batch_ratio / length_ratio
    rate = batch_ratio**batch_exponent * length_ratio**-length_exponent
    table = _with_steady_decay(tpv(3, decay=decay)).with_depth(alpha)
    rows = {
        role: table.row(role).times(
            lr=rate,
            eps=noise**-0.5,
            one_minus_beta=noise,
            weight_decay={"standard": noise / rate, "l2": noise**0.5 / rate}.get(decay, noise),
        )
        for role in ROLES
    }
    return dataclasses.replace(table, name=f"completed-p-{alpha:g}", **rows).with_eps(eps)


def umup(
    residual: Real = 1.0, *, optimizer: Family = "adam", decay: DecayRule = "independent", eps: EpsRule = "gradient"
) -> Parameterization:
    """u-μP (arXiv 2407.17465): weights of standard deviation 1, multipliers that make unit scale, nothing relative to a base.

    Learning rates: fan_in^-1/2 of hidden weights, width^-1/2 of the embedding, 1 of the unembedding, biases and gains;
    everything inside the blocks × depth^-1/2. Its residual rule (branch τ/√(1+τ²), skip 1/√(1+τ²), for pre-norm blocks with
    equal branches) makes the same function as branches multiplied by `residual` · depth^-1/2, which is what stands here. Not
    here: the constants inside its operations (activations, attention), which do not depend on width or depth.

    Args:
        residual: the paper's residual multiplier.
        optimizer: `"adam"` or `"sign"`.
        decay, eps: as in `mup`.

    Raises:
        EquimuError: another optimizer.
    """
    if optimizer not in ("adam", "sign"):
        raise EquimuError(f"umup is defined for adam and sign, not for {optimizer}")
    row = functools.partial(derived_row, optimizer, decay)
    table = Parameterization(
        name="umup",
        optimizer=optimizer,
        decay=decay,
        branch=residual * ONE,
        input=row(std=fan_in**-0.5, lr=fan_out**-0.5, gradient=1 / width_ratio),
        hidden=row(std=fan_in**-0.5, lr=1 / fan_in, gradient=slope_law(1)),
        output=row(std=1 / fan_in, lr=1 / fan_in, gradient=ONE),
        # A bias is multiplied with the product that it is added to: (Wx + b) · fan_in^-1/2.
        vector=row(std=fan_in**-0.5, lr=layer_fan_in**-0.5, gradient=1 / width_ratio),
    )
    shifted = table.shift("hidden", fan_in**-0.5).shift("output", 1 / fan_in).shift("vector", layer_fan_in**-0.5)
    return shifted.with_plain_decay().with_depth(0.5, depth=depth).with_eps(eps)


def _with_steady_decay(table: Parameterization) -> Parameterization:
    """The table with a decay whose product with the learning rate does not change with the width."""
    if table.decay != "standard":
        return table
    rows = {role: table.row(role).replace(weight_decay=1 / table.row(role).lr) for role in ROLES}
    return dataclasses.replace(table, **rows)
