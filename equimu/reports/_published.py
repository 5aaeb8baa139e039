"""Exponents of the best learning rate that have been claimed, and those that the data reject."""

from equimu._values import Real
from equimu.reports._joint_law import Exponent

# A table of laws claims that the base learning rate stays, whatever it makes the rates of single arrays do.
_STAYS = 0.0
# Of the training length, at a fixed batch. -0.5: Complete(d)P (arXiv 2512.22382); -0.3: the -0.32 of arXiv 2409.19913, rounded;
# -0.4 lies between them.
_OF_LENGTH = (-0.5, -0.4, -0.3)


def claimed(fitted: str, name: str) -> tuple[Real, ...]:
    """Exponents that are claimed of a size.

    Args:
        fitted: name of the number that is fitted.
        name: of the size.
    """
    return (_STAYS, *_OF_LENGTH) if (fitted, name) == ("learning_rate", "steps") else (_STAYS,)


def claims_text(fitted: str, exponent: Exponent) -> tuple[str, str]:
    """The claimed exponents that the data reject, and those that they do not, e.g. `("0", "-0.5, -0.4")`."""
    values = claimed(fitted, exponent.name)
    if any(exponent.rejects(value) is None for value in values):
        return "not known", "not known"
    rejected, left = (
        ", ".join(f"{value:g}" for value in values if exponent.rejects(value) is kept) for kept in (True, False)
    )
    return rejected or "none", left or "none"
