"""How unlikely a geometric agreement is by chance: the number of false alarms of a model."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray


def significance(putatives: int, inliers: int, sample: int, chance: float) -> float:
    """-log10 of the number of false alarms of a model (Moisan & Stival, IJCV 2004).

    Args:
        putatives: putative matches.
        inliers: those that agree with the model.
        sample: matches that determine a model, and are therefore no evidence for it.
        chance: probability that an unrelated match agrees by accident.
    """
    log_false_alarms = (
        math.log(putatives)
        + _log_choose(putatives, inliers)
        + _log_choose(inliers, sample)
        + (inliers - sample) * math.log(chance)
    )
    return -log_false_alarms / math.log(10)


@numba.njit(cache=True, nogil=True)
def chance_of_agreement(points: NDArray[np.float64], threshold: float, area: float) -> float:
    """Probability that an unrelated match agrees with a model by accident.

    It hits the disc around its predicted place as often as the disc covers the photo. But where all matches
    lie on a line, an unrelated one lies on it too, and need only hit its length: bands narrower than four
    thresholds count as a line by degrees, those narrower than two altogether.

    Args:
        points: float64 [n, 2], places of the inliers in one photo.
        threshold: largest error of an inlier, in the unit of the points.
        area: of the photo, in that unit squared.
    """
    disc = min(math.pi * threshold**2 / area, 1.0)
    n = max(len(points), 1)
    x = y = xx = xy = yy = 0.0
    for i in range(len(points)):
        x += points[i, 0] / n
        y += points[i, 1] / n
    for i in range(len(points)):
        dx, dy = points[i, 0] - x, points[i, 1] - y
        xx += dx * dx / n
        xy += dx * dy / n
        yy += dy * dy / n
    middle, reach = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
    # The sides of the rectangle that has such variances.
    length = math.sqrt(12 * (middle + reach))
    width = math.sqrt(12 * max(middle - reach, 0.0))
    line = min(2 * threshold / max(length, threshold), 1.0)
    share = min(max(2 - width / (2 * threshold), 0.0), 1.0)
    return float(max(disc, disc ** (1 - share) * line**share))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
