"""The form that the loss curves of a sweep share: a valley, not quite a parabola."""

import numpy as np

from equimu._values import Real

# Where the departures from a parabola level off, in octaves: far from the bottom a curve may do as it likes, and h
# stays monotone.
_SKEW_REACH = 3.0
_FLAT_REACH = 2.0


def root(
    u: np.ndarray, left: np.ndarray, right: np.ndarray, flat: Real
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The signed root h of a valley, whose loss is c + ½ k h(u)² at u octaves from its minimum.

    h(u) = u · exp(skew · s(u) + flat · t(u)), where s(u) is u/2 and t(u) is u² near the bottom, both levelling off, and
    the skew is `left` below the minimum and `right` above it. A parabola has none of them. A curve that is steeper at
    high rates has skew > 0 (third derivative over second: 3 · skew); one with a wall there and a parabola before it,
    `right` > 0 alone; a flat bottom between steep sides, `flat` > 0. For skews of less than 1 and flat > -1/4 there is
    one minimum, at 0.

    Args:
        u: octaves.
        left: skew where u < 0.
        right: skew where u > 0.
        flat: see above.

    Returns:
        h, and its derivatives by u, left, right and flat.
    """
    up = u > 0
    skew = np.where(up, right, left)
    wide = 1 + (u / _SKEW_REACH) ** 2
    s, ds = u / 2 / np.sqrt(wide), 0.5 / wide**1.5
    deep = 1 + (u / _FLAT_REACH) ** 2
    t, dt = u**2 / deep, 2 * u / deep**2
    h = u * (stretch := np.exp(np.clip(skew * s + flat * t, -20, 20)))
    return h, stretch * (1 + u * (skew * ds + flat * dt)), h * s * ~up, h * s * up, h * t
