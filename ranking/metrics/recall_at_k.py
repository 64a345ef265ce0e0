"""Recall@k of one ranking, in the sense of place recognition."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def recall_at_k(ranks: ArrayLike, k: int) -> float:
    """Whether any of the first k places holds a positive: 1 if min_j r_j < k, else 0.

    The mean over queries is the Recall@k (or Recall@N) of place recognition: the share of queries that are
    located.

    Source: Arandjelović et al., NetVLAD, CVPR 2016.

    Args:
        ranks: int [found], 0-based ranks of the retrieved positives: see `positive_ranks`.
        k: places looked at.

    Returns:
        1.0 or 0.0.

    Raises:
        ValueError: `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return float((np.asarray(ranks) < k).any())
