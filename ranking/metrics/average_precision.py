"""Average precision of one ranking: trapezoidal (Oxford, Paris) and non-interpolated (Google Landmarks)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def trapezoidal_average_precision(ranks: ArrayLike, positives: int) -> float:
    """Area under the precision-recall curve by trapezoids, as in the Oxford and Paris evaluations.

    With 0-based ranks r_0 < r_1 < … of the retrieved positives and R positives in all::

        AP = 1 / (2 R) * sum_j ( j / r_j + (j + 1) / (r_j + 1) )        where j / r_j = 1 if r_j = 0

    Positives that were not retrieved add nothing.

    Source: Philbin et al., Object retrieval with large vocabularies and fast spatial matching, CVPR 2007;
    Radenović et al., Revisiting Oxford and Paris, CVPR 2018.

    Args:
        ranks: int [found], 0-based, strictly increasing, junk removed: see `positive_ranks`.
        positives: R, the number of positives of the query, retrieved or not.

    Returns:
        Average precision, 0 to 1.

    Raises:
        ValueError: there is no positive, there are more ranks than positives, or the ranks do not increase.
    """
    ranks = _checked(ranks, positives)
    earlier_hits = np.arange(len(ranks))
    precision_before = np.divide(earlier_hits, ranks, out=np.ones(len(ranks)), where=ranks > 0)
    precision_after = (earlier_hits + 1) / (ranks + 1)
    return float((precision_before + precision_after).sum() / (2 * positives))


def challenge_average_precision(ranks: ArrayLike, positives: int, limit: int = 100) -> float:
    """Average precision at `limit`, as in the Google Landmark Retrieval challenges.

    With 0-based ranks r_0 < r_1 < … of the retrieved positives and R positives in all::

        AP@n = 1 / min(R, n) * sum over r_j < n of (j + 1) / (r_j + 1)

    The ranks of `positive_ranks` carry the challenge's rule for duplicates: a repeat is never a hit, but it
    keeps its place.

    Source: Weyand et al., Google Landmarks Dataset v2, CVPR 2020.

    Args:
        ranks: int [found], 0-based, strictly increasing: see `positive_ranks`.
        positives: R, the number of positives of the query, retrieved or not.
        limit: n, results looked at.

    Returns:
        Average precision, 0 to 1.

    Raises:
        ValueError: there is no positive, there are more ranks than positives, the ranks do not increase, or
            `limit` is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    ranks = _checked(ranks, positives)
    ranks = ranks[ranks < limit]
    return float((np.arange(1, len(ranks) + 1) / (ranks + 1)).sum() / min(positives, limit))


def _checked(ranks: ArrayLike, positives: int) -> NDArray[np.int64]:
    checked = np.asarray(ranks, dtype=np.int64)
    if positives < 1:
        raise ValueError("average precision is undefined without positives")
    if len(checked) > positives:
        raise ValueError(f"{len(checked)} ranks for {positives} positives")
    if len(checked) and (checked[0] < 0 or (np.diff(checked) <= 0).any()):
        raise ValueError("ranks must be 0-based and strictly increasing")
    return checked
