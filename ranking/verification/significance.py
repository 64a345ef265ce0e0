"""How unlikely a geometric agreement is by chance: the number of false alarms of a model."""

from __future__ import annotations

import math


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


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
