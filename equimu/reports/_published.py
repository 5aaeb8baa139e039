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


def claims_text(fitted: str, exponent: Exponent) -> str:
    """What the data say of each exponent that is claimed, e.g. `"0: rejected, -0.5: not rejected"`."""
    texts: list[str] = []
    for value in claimed(fitted, exponent.name):
        rejected = exponent.rejects(value)
        said = "not known" if rejected is None else "rejected" if rejected else "not rejected"
        texts.append(f"{value:g}: {said}")
    return ", ".join(texts)
