"""Precision of the first k results of one ranking, plain and as in the revisited protocol."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def precision_at_k(ranks: ArrayLike, k: int) -> float:
    """Share of the first k places that hold a positive: P@k = |{j: r_j < k}| / k.

    The Google Landmark Retrieval evaluation uses this form; a list shorter than k does not lower the divisor.

    Args:
        ranks: int [found], 0-based ranks of the retrieved positives: see `positive_ranks`.
        k: places looked at.

    Returns:
        Precision, 0 to 1.

    Raises:
        ValueError: `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return float(np.count_nonzero(np.asarray(ranks) < k) / k)


def revisited_precision_at_k(ranks: ArrayLike, positives: int, k: int) -> float:
    """Precision at k that does not punish a query for having fewer than k positives.

    With 0-based ranks r_j of the retrieved positives::

        P@k = |{j: r_j < m}| / m        m = min(k, r_last + 1)

    so a ranking that begins with all its positives scores 1 whatever their number. That shortening is earned
    by retrieving every positive: while one is missed, its rank is beyond the list and m = k.

    Source: Radenović et al., Revisiting Oxford and Paris, CVPR 2018 (complete rankings; the reading of
    incomplete ones is ours).

    Args:
        ranks: int [found], 0-based, increasing, junk removed: see `positive_ranks`.
        positives: number of positives of the query, retrieved or not.
        k: places looked at.

    Returns:
        Precision, 0 to 1.

    Raises:
        ValueError: `k` is below 1, or there is no positive.
    """
    if positives < 1:
        raise ValueError("the precision of a query without positives is undefined")
    ranks = np.asarray(ranks, dtype=np.int64)
    complete = len(ranks) == positives
    return precision_at_k(ranks, min(k, int(ranks[-1]) + 1) if complete else k)
